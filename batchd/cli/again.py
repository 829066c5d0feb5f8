"""``batchd retry``: the lines of a batch that came to nothing, as a batch of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import click

from batchd.cli.client import Again, Client
from batchd.cli.completion import batch_ids, came_to_nothing
from batchd.cli.errors import CommandFailed
from batchd.cli.objects import Batch
from batchd.cli.options import pairs, with_client, with_json
from batchd.cli.progress import Display, sentences
from batchd.cli.results import Targets, target_type
from batchd.cli.show import echo_json, outcome, what_next
from batchd.cli.waiting import create_once
from batchd.cli.watch import come_back, url_option, watch


class Asked(TypedDict):
    """The options of ``retry``, as click hands them over."""

    code: tuple[str, ...]
    priority: int | None
    metadata: dict[str, str] | None
    window: str | None
    wait: bool
    output: Path | None
    errors: Path | None
    force: bool
    as_json: bool


def _pairs_or_none(context: click.Context, option: click.Parameter, given: Sequence[str]) -> object:
    return pairs(context, option, given) if given else None


@click.command()
@click.argument("batch_id", metavar="ID", shell_complete=batch_ids(came_to_nothing))
@click.option(
    "--code",
    multiple=True,
    metavar="C",
    help="Only what failed so: an error code (batch_expired) or a status (503). Repeatable.",
)
@click.option("--priority", type=click.IntRange(-10, 10), metavar="N", help="Default: as before.")
@click.option(
    "--metadata",
    multiple=True,
    callback=_pairs_or_none,
    metavar="K=V",
    help="Kept with the new batch. Default: that of the first.",
)
@click.option("--window", metavar="TIME", help="How long it may take. Default: as before.")
@click.option("--wait", is_flag=True, help="Stay until the new batch is done.")
@click.option(
    "-o", "--output", type=target_type, help="With --wait: where its answers go ('-': stdout)."
)
@click.option("--errors", type=target_type, help="With --wait: where the failed lines go.")
@click.option("--force", is_flag=True, help="Overwrite result files that exist.")
@with_json
@with_client
def retry(client: Client, batch_id: str, **asked: Unpack[Asked]) -> int:
    """Run the lines again that failed, expired or were cancelled.

    They become a new batch, whose id is printed. The first keeps its results; `batchd results ID
    --merged` joins both.
    """
    targets = Targets.at(asked["output"], asked["errors"], force=asked["force"])
    _check_usage(targets, asked)
    targets.check()
    first = client.batch(batch_id)
    again = Again(asked["code"], asked["window"], asked["metadata"], asked["priority"])
    new = create_once(lambda key: client.retry(first["id"], again, key), sentences())
    told_here = asked["as_json"] or any(target.is_stdout for target in targets.wanted)
    if asked["as_json"] and not asked["wait"]:
        echo_json(new)
    else:
        click.echo(new["id"], err=told_here)
    if asked["wait"]:
        return _wait(client, new, targets, as_json=asked["as_json"])
    if not asked["as_json"]:
        click.echo(come_back(client, [new["id"]]), err=True)
        click.echo(_merged(client, new), err=True)
    return 0


def _check_usage(targets: Targets, asked: Asked) -> None:
    if targets.wanted and not asked["wait"]:
        raise click.UsageError("-o and --errors need --wait: without it there are no results yet")
    if asked["as_json"] and any(target.is_stdout for target in targets.wanted):
        raise click.UsageError("standard output cannot have both --json and the results")


def _wait(client: Client, new: Batch, targets: Targets, *, as_json: bool) -> int:
    to_stdout, url = any(target.is_stdout for target in targets.wanted), url_option(client)

    def tell(batch: Batch, display: Display) -> CommandFailed | None:
        fetched = targets.fetched(client, [batch], display)
        with display.aside():
            if as_json:
                echo_json(batch)
                return fetched.fault
            told = [*outcome(batch, url=url), *targets.told(fetched.written)]
            click.echo("\n".join(told), err=to_stdout)
            more = [what_next(batch, url), "" if targets.wanted else _merged(client, batch)]
            for advice in filter(None, more):
                click.echo(advice, err=True)
        return fetched.fault

    return watch(client, {new["id"]: new["id"]}, tell)


def _merged(client: Client, batch: Batch) -> str:
    return (
        "Together with what was answered before:\n"
        f"  batchd results {batch['id']}{url_option(client)} --merged -o FILE"
    )
