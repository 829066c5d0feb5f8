"""``batchd list``, ``show``, ``wait`` and ``cancel``."""

import time

import click

from batchd.cli.client import Client
from batchd.cli.completion import batch_ids, is_any, is_running
from batchd.cli.errors import DONE, FAILED
from batchd.cli.objects import Batch
from batchd.cli.options import with_client, with_json
from batchd.cli.progress import Display
from batchd.cli.show import (
    batch_in_full,
    batch_table,
    echo_json,
    outcome,
    page,
    status,
    table_width,
    what_next,
)
from batchd.cli.steering import each
from batchd.cli.watch import url_option, watch


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
@click.argument("batch_id", metavar="ID", shell_complete=batch_ids(is_any))
@with_json
@with_client
def show(client: Client, batch_id: str, *, as_json: bool) -> None:
    """Show a batch, with what was wrong in its input."""
    batch = client.batch(batch_id)
    if as_json:
        echo_json(batch)
    else:
        click.echo(batch_in_full(batch, time.time(), url_option(client)))


@click.command()
@click.argument(
    "ids", metavar="ID...", nargs=-1, required=True, shell_complete=batch_ids(is_running)
)
@with_json
@with_client
def wait(client: Client, ids: tuple[str, ...], *, as_json: bool) -> int:
    """Wait until batches are done. Ctrl-C stops the waiting, not the batches.

    Exits 0 when all are completed (some of their lines may have failed), else 1.
    """
    known, url = [client.batch(batch_id)["id"] for batch_id in ids], url_option(client)

    def tell(batch: Batch, display: Display) -> None:
        with display.aside():
            if as_json:
                echo_json(batch)
                return
            click.echo("\n".join(outcome(batch, url=url)))
            if advice := what_next(batch, url):
                click.echo(advice, err=True)

    return watch(client, {batch_id: batch_id for batch_id in known}, tell)


@click.command()
@click.argument(
    "ids", metavar="ID...", nargs=-1, required=True, shell_complete=batch_ids(is_running)
)
@with_json
@with_client
def cancel(client: Client, ids: tuple[str, ...], *, as_json: bool) -> int:
    """Cancel batches. What is done already can be fetched; the other lines are not sent."""
    code = DONE
    for batch in each(client, ids, client.cancel):
        if batch is None:
            code = FAILED
        elif as_json:
            echo_json(batch)
        else:
            click.echo(f"{batch['id']} {status(batch)}")
    return code
