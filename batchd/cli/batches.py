"""``batchd list``, ``show``, ``wait``, ``cancel`` and ``results``."""

import time
from pathlib import Path

import click

from batchd.cli.client import Client
from batchd.cli.errors import DONE, FAILED, CommandFailed, Refused
from batchd.cli.objects import Batch, is_finished
from batchd.cli.options import with_client, with_json
from batchd.cli.progress import Display
from batchd.cli.results import Targets, target_type
from batchd.cli.show import (
    batch_in_full,
    batch_table,
    counts,
    echo_json,
    outcome,
    page,
    printable,
    status,
    table_width,
)
from batchd.cli.watch import watch


@click.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N")
@click.option("--all", "every", is_flag=True, help="All of them, however many.")
@with_json
@with_client
def list_(client: Client, limit: int, *, every: bool, as_json: bool) -> None:
    """List batches, newest first."""
    listed, has_more = client.batches(None if every else limit)
    if as_json:
        echo_json(page(listed, has_more=has_more))
        return
    if listed:
        click.echo(batch_table(listed, time.time(), table_width()))
    if has_more or not listed:
        click.echo("There are more: --limit N or --all." if has_more else "No batches.", err=True)


@click.command()
@click.argument("batch_id", metavar="ID")
@with_json
@with_client
def show(client: Client, batch_id: str, *, as_json: bool) -> None:
    """Show a batch, with what was wrong in its input."""
    batch = client.batch(batch_id)
    if as_json:
        echo_json(batch)
    else:
        click.echo(batch_in_full(batch, time.time()))


@click.command()
@click.argument("batch_ids", metavar="ID...", nargs=-1, required=True)
@with_json
@with_client
def wait(client: Client, batch_ids: tuple[str, ...], *, as_json: bool) -> int:
    """Wait until batches are done. Ctrl-C stops the waiting, not the batches.

    Exits 0 when all are completed (some of their lines may have failed), else 1.
    """
    known = [client.batch(batch_id)["id"] for batch_id in batch_ids]

    def tell(batch: Batch, display: Display) -> None:
        with display.aside():
            if as_json:
                echo_json(batch)
            else:
                click.echo("\n".join(outcome(batch)))

    return watch(client, {batch_id: batch_id for batch_id in known}, tell)


@click.command()
@click.argument("batch_ids", metavar="ID...", nargs=-1, required=True)
@with_json
@with_client
def cancel(client: Client, batch_ids: tuple[str, ...], *, as_json: bool) -> int:
    """Cancel batches. What is done already can be fetched; the other lines are not sent."""
    code = DONE
    for batch_id in batch_ids:
        try:
            batch = client.cancel(batch_id)
        except Refused as error:
            click.echo(f"batchd: {printable(str(error))}", err=True)
            code = FAILED
            continue
        if as_json:
            echo_json(batch)
        else:
            click.echo(f"{batch['id']} {status(batch)}")
    return code


@click.command()
@click.argument("batch_id", metavar="ID")
@click.option(
    "-o", "--output", type=target_type, help="Where the answers go. Default: standard output."
)
@click.option(
    "--errors", type=target_type, help="Where the failed lines go ('-' for standard output)."
)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@with_client
def results(
    client: Client, batch_id: str, output: Path | None, errors: Path | None, *, force: bool
) -> int:
    """Download the results of a batch that is done.

    With --errors alone only the failed lines are downloaded. Exits 1 when there was nothing to
    download.
    """
    if output is None and errors is None:
        output = Path("-")
    targets = Targets.at(output, errors, force=force)
    targets.check()
    batch = client.batch(batch_id)
    if not is_finished(batch):
        raise CommandFailed(
            f"{batch['id']} is {batch['status']} ({counts(batch)}); "
            f"its results come when it is done: batchd wait {batch['id']}"
        )
    written = targets.fetch(client, batch)
    click.echo("\n".join([*outcome(batch), *targets.told(written)]), err=True)
    return DONE if written else FAILED
