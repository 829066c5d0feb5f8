"""``batchd submit``: input files become batches; with ``--wait`` their results come back here.

Everything that can be known beforehand (the input is there, its endpoint is known, no result would
overwrite a file) is checked for all inputs before the first is uploaded. An input that is more than
one batch takes becomes several, and its results are joined again.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict, Unpack

import click

from batchd.cli.client import Client, Terms
from batchd.cli.errors import CommandFailed
from batchd.cli.inputs import endpoint_of, is_stdin, kept_stdin, parsed_size
from batchd.cli.objects import Batch
from batchd.cli.options import pairs, with_client, with_json
from batchd.cli.parts import Most, split
from batchd.cli.progress import Display
from batchd.cli.results import Fetched, Targets, has_twice, target_type
from batchd.cli.sending import Job, submit_all
from batchd.cli.show import echo_json, lines, number, outcome, printable, size, what_next
from batchd.cli.watch import OnDetach, come_back, url_option, watch

_STDIN = "standard input"


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
    split_lines: int | None
    split_size: int | None
    as_json: bool


@click.command()
@click.argument(
    "inputs",
    nargs=-1,
    required=True,
    metavar="INPUT.jsonl...",
    type=click.Path(path_type=Path, readable=False, allow_dash=True),
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
@click.option("--metadata", multiple=True, callback=pairs, metavar="K=V", help="Kept with it.")
@click.option(
    "--priority",
    type=click.IntRange(-10, 10),
    default=0,
    metavar="N",
    help="-10 to 10: two more are twice the turns. Default: 0.",
)
@click.option(
    "--split",
    "split_lines",
    type=click.IntRange(1),
    metavar="N",
    help="At most N lines in a batch. Default: as many as batchd takes.",
)
@click.option(
    "--split-size",
    callback=parsed_size,
    metavar="SIZE",
    help="At most so much of the input in a batch, as 50MiB. Default: as much as batchd takes.",
)
@with_json
@with_client
def submit(client: Client, inputs: tuple[Path, ...], **asked: Unpack[Asked]) -> int:
    """Upload files of requests and have them run. '-' reads standard input.

    Prints the id of each batch. A file that is more than one batch takes is sent as several.

    With --wait it shows progress and fetches the results; it exits 0 when all batches are completed
    (failed lines are said), else 1. Ctrl-C then stops the waiting, not the batches.
    """
    _check_usage(inputs, asked)
    with ExitStack() as kept:
        jobs = _divided(client, _planned(client, inputs, asked, kept), asked)
        return _submit(client, jobs, asked)


def _submit(client: Client, jobs: Sequence[Job], asked: Asked) -> int:
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
        click.echo(come_back(client, list(submitted), _together(submitted)), err=True)
    return 0


def _check_usage(inputs: Sequence[Path], asked: Asked) -> None:
    named = asked["output"] or asked["errors"]
    if named and not asked["wait"]:
        raise click.UsageError("-o and --errors need --wait: without it there are no results yet")
    if named and len(inputs) > 1:
        raise click.UsageError("-o and --errors are for one input; several have each their own")
    if sum(map(is_stdin, inputs)) > 1:
        raise click.UsageError("standard input can be read once only")
    to_stdout = asked["output"] is None and any(map(is_stdin, inputs))
    if asked["as_json"] and asked["wait"] and (to_stdout or str(asked["output"]) == "-"):
        raise click.UsageError("standard output cannot have both --json and the answers")


def _planned(
    client: Client, inputs: Sequence[Path], asked: Asked, kept: ExitStack
) -> list[Job | None]:
    """A job for each input. Standard input is read last: after all else is known to be well."""
    jobs = [None if is_stdin(path) else _plan(path, asked) for path in inputs]
    if has_twice(target for job in jobs if job for target in job.targets.wanted):
        raise click.UsageError("the results of two inputs would go to the same file")
    if None in jobs:
        targets = _targets(asked, Path("-") if asked["wait"] else None, None)
        client.healthy()
        path = kept.enter_context(kept_stdin())
        endpoint = endpoint_of(path, asked["endpoint"], _STDIN)
        jobs[jobs.index(None)] = Job(path, endpoint, targets, _STDIN)
    return jobs


def _plan(path: Path, asked: Asked) -> Job:
    endpoint = endpoint_of(path, asked["endpoint"])
    targets = Targets(None, None)
    if asked["wait"]:
        stem = str(path).removesuffix(".jsonl")
        targets = _targets(asked, Path(f"{stem}.output.jsonl"), Path(f"{stem}.errors.jsonl"))
        if path.resolve() in {target.path.resolve() for target in targets.wanted}:
            raise click.UsageError(f"the results cannot go to the input, {path}")
    return Job(path, endpoint, targets)


def _targets(asked: Asked, output: Path | None, errors: Path | None) -> Targets:
    """What was asked for, else these."""
    targets = Targets.at(asked["output"] or output, asked["errors"] or errors, force=asked["force"])
    targets.check()
    return targets


def _divided(client: Client, jobs: Sequence[Job | None], asked: Asked) -> list[Job]:
    """The same jobs, in parts where one is more than a batch takes."""
    most = Most.of(client.limits(), asked["split_lines"], asked["split_size"])
    divided: list[Job] = []
    for job in filter(None, jobs):
        parts = split(job.path, job.endpoint, most)
        divided.append(job._replace(parts=tuple(parts)))
        if len(parts) > 1:
            count = lines(sum(part.lines for part in parts))
            how_much = f"{count}, {size(parts[0].span.stamp.size)}"
            click.echo(
                f"{printable(job.called)} ({how_much}) is sent as {number(len(parts))} batches: "
                f"one takes at most {most.told(job.endpoint)}",
                err=True,
            )
    return divided


def wait_for(
    client: Client,
    submitted: Mapping[str, Job],
    *,
    as_json: bool = False,
    on_detach: OnDetach | None = None,
) -> int:
    """Show progress until all are done, and fetch the results of each input as it ends."""
    labels, ended, url = _labels(submitted), dict[str, Batch](), url_option(client)

    def tell(batch: Batch, display: Display) -> CommandFailed | None:
        ended[batch["id"]] = batch
        job = submitted[batch["id"]]
        ids = [batch_id for batch_id, its in submitted.items() if its == job]
        fetched = Fetched()
        if all(batch_id in ended for batch_id in ids):
            fetched = job.targets.fetched(client, [ended[batch_id] for batch_id in ids], display)
        to_stdout = any(target.is_stdout for target in job.targets.wanted)
        with display.aside():
            if as_json:
                echo_json(batch)
                return fetched.fault
            before = job.parts[ids.index(batch["id"])].before if job.parts else 0
            told = outcome(batch, labels[batch["id"]], before, url)
            click.echo("\n".join(told + job.targets.told(fetched.written)), err=to_stdout)
            if advice := what_next(batch, url):
                click.echo(advice, err=True)
        return fetched.fault

    return watch(client, labels, tell, on_detach, _together(submitted))


def _labels(submitted: Mapping[str, Job]) -> dict[str, str]:
    """What each batch is called."""
    labels: dict[str, str] = {}
    for ids in _together(submitted):
        for count, batch_id in enumerate(ids, 1):
            part = f" {count}/{len(ids)}" if len(ids) > 1 else ""
            labels[batch_id] = submitted[batch_id].called + part
    return labels


def _together(submitted: Mapping[str, Job]) -> list[list[str]]:
    """The batches of each input."""
    groups: dict[Job, list[str]] = {}
    alone: list[list[str]] = []
    for batch_id, job in submitted.items():
        if job.parts:
            groups.setdefault(job, []).append(batch_id)
        else:
            alone.append([batch_id])
    return [*groups.values(), *alone]
