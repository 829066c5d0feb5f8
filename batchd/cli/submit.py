"""``batchd submit``: input files become batches; with ``--wait`` their results come back here.

Everything that can be known beforehand (the input is there, its endpoint is known, no result would
overwrite a file) is checked for all inputs before the first is uploaded.
"""

import json
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypedDict, Unpack, cast

import click

from batchd.cli.client import Client, Terms
from batchd.cli.errors import CommandFailed
from batchd.cli.multipart import open_file
from batchd.cli.objects import Batch
from batchd.cli.options import with_client, with_json
from batchd.cli.progress import Display
from batchd.cli.results import Targets, target_type
from batchd.cli.show import echo_json, outcome
from batchd.cli.watch import OnDetach, come_back, watch

_LONGEST_FIRST_LINE = 64 * 1024**2
_WORTH_A_BAR = 4 * 1024**2


class Job(NamedTuple):
    """One input, and where its results are to go."""

    path: Path
    endpoint: str
    targets: Targets


class Asked(TypedDict):
    """The options of ``submit``, as click hands them over."""

    wait: bool
    output: Path | None
    errors: Path | None
    force: bool
    endpoint: str | None
    window: str
    metadata: dict[str, str]
    priority: int
    as_json: bool


def _pairs(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> object:
    pairs = [pair.partition("=") for pair in given]
    if not all(key and equals for key, equals, _ in pairs):
        raise click.BadParameter("write KEY=VALUE")
    return {key: value for key, _, value in pairs}


@click.command()
@click.argument(
    "inputs",
    nargs=-1,
    required=True,
    metavar="INPUT.jsonl...",
    type=click.Path(path_type=Path, readable=False),
)
@click.option("--wait", is_flag=True, help="Stay until the batch is done, and fetch its results.")
@click.option(
    "-o",
    "--output",
    type=target_type,
    help="With --wait: where the answers go ('-': standard output). Default: INPUT.output.jsonl.",
)
@click.option(
    "--errors", type=target_type, help="Where the failed lines go. Default: INPUT.errors.jsonl."
)
@click.option("--force", is_flag=True, help="Overwrite result files that exist.")
@click.option("--endpoint", metavar="PATH", help="Default: the url in the first line of the input.")
@click.option("--window", default="24h", show_default=True, help="How long the batch may take.")
@click.option(
    "--metadata", multiple=True, callback=_pairs, metavar="K=V", help="Kept with the batch."
)
@click.option(
    "--priority",
    type=click.IntRange(-10, 10),
    default=0,
    metavar="N",
    help="-10 to 10: two more are twice the turns. Default: 0.",
)
@with_json
@with_client
def submit(client: Client, inputs: tuple[Path, ...], **asked: Unpack[Asked]) -> int:
    """Upload files of requests and have them run.

    Prints the id of each batch. With --wait it shows progress and fetches the results; it exits 0
    when all batches are completed (failed lines are said), else 1. Ctrl-C then stops the waiting,
    not the batches.
    """
    _check_usage(inputs, asked)
    jobs = [_plan(path, asked) for path in inputs]
    told_here = asked["as_json"] or any(
        target.is_stdout for job in jobs for target in job.targets.wanted
    )
    submitted: dict[str, Job] = {}
    terms = Terms(asked["window"], asked["metadata"], asked["priority"])
    for job, batch in submit_all(client, jobs, terms):
        submitted[batch["id"]] = job
        if asked["as_json"] and not asked["wait"]:
            echo_json(batch)
        else:
            click.echo(batch["id"], err=told_here)
    if asked["wait"]:
        return wait_for(client, submitted, as_json=asked["as_json"])
    if not asked["as_json"]:
        click.echo(come_back(client, list(submitted)), err=True)
    return 0


def _check_usage(inputs: Sequence[Path], asked: Asked) -> None:
    named = asked["output"] or asked["errors"]
    if named and not asked["wait"]:
        raise click.UsageError("-o and --errors need --wait: without it there are no results yet")
    if named and len(inputs) > 1:
        raise click.UsageError("-o and --errors are for one input; several have each their own")
    if asked["as_json"] and str(asked["output"]) == "-":
        raise click.UsageError("standard output cannot have both --json and the answers")


def _plan(path: Path, asked: Asked) -> Job:
    endpoint = endpoint_of(path, asked["endpoint"])
    targets = Targets(None, None)
    if asked["wait"]:
        stem = str(path).removesuffix(".jsonl")
        output = asked["output"] or Path(f"{stem}.output.jsonl")
        errors = asked["errors"] or Path(f"{stem}.errors.jsonl")
        targets = Targets.at(output, errors, force=asked["force"])
        targets.check()
        if path.resolve() in {target.path.resolve() for target in targets.wanted}:
            raise click.UsageError(f"the results cannot go to the input, {path}")
    return Job(path, endpoint, targets)


def endpoint_of(path: Path, endpoint: str | None) -> str:
    """The endpoint that was asked for, else the one that the first line of the input names."""
    with open_file(path) as file:
        first = next((line for line in _lines(file) if line.strip()), b"")
    if not first:
        raise CommandFailed(f"{path} is empty: a batch needs at least one line")
    if endpoint:
        return endpoint
    try:
        line: object = json.loads(first.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        raise CommandFailed(
            f"the first line of {path} is not JSON: an input has one JSON object on each line"
        ) from None
    url = cast("dict[str, object]", line).get("url") if isinstance(line, dict) else None
    if not isinstance(url, str):
        raise CommandFailed(f"the first line of {path} has no url; name the endpoint: --endpoint")
    return url


def submit_all(client: Client, jobs: Sequence[Job], terms: Terms) -> Iterator[tuple[Job, Batch]]:
    """Upload and create, one after the other; each as soon as it is there."""
    for job in jobs:
        try:
            with _uploading(job.path) as on_sent:
                batch = client.submit(job.path, job.endpoint, terms, on_sent)
        except KeyboardInterrupt:
            raise CommandFailed(f"interrupted before {job.path} was submitted") from None
        yield job, batch


def wait_for(
    client: Client,
    submitted: Mapping[str, Job],
    *,
    as_json: bool = False,
    on_detach: OnDetach | None = None,
) -> int:
    """Show progress until all are done, and fetch the results of each as it ends."""

    def fetch(batch: Batch, display: Display) -> None:
        job = submitted[batch["id"]]
        targets = job.targets
        written = targets.fetch(client, batch, display)
        to_stdout = any(target.is_stdout for target in targets.wanted)
        with display.aside():
            if as_json:
                echo_json(batch)
            else:
                told = [*outcome(batch, job.path.name), *targets.told(written)]
                click.echo("\n".join(told), err=to_stdout)

    labels = {batch_id: job.path.name for batch_id, job in submitted.items()}
    return watch(client, labels, fetch, on_detach)


@contextmanager
def _uploading(path: Path) -> Generator[Callable[[int], None]]:
    """A bar for an upload that takes a while."""
    size = path.stat().st_size
    if size < _WORTH_A_BAR or not sys.stderr.isatty():
        yield lambda _sent: None
        return
    from batchd.cli.live import upload_bar  # noqa: PLC0415 - rich only on a terminal

    with upload_bar(path.name, size) as on_sent:
        yield on_sent


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LONGEST_FIRST_LINE):
        yield line
