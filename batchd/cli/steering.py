"""``batchd pause``, ``resume`` and ``priority``: changing how a batch goes on."""

import time
from collections.abc import Callable, Iterator, Sequence

import click

from batchd.cli.client import Client
from batchd.cli.completion import batch_ids, is_going, is_paused, is_steerable
from batchd.cli.errors import DONE, FAILED, Refused
from batchd.cli.objects import Batch
from batchd.cli.options import with_client, with_json
from batchd.cli.show import counts, duration, echo_json, moment, printable, status
from batchd.cli.watch import url_option

_CONFLICT = 409


def each(client: Client, ids: Sequence[str], ask: Callable[[str], Batch]) -> Iterator[Batch | None]:
    """What each batch came to; None for one that was refused, which is said and stops no other."""
    for batch_id in ids:
        try:
            yield ask(batch_id)
        except Refused as error:
            told = error.advised(f"batchd show {batch_id}{url_option(client)}", _CONFLICT)
            click.echo(f"batchd: {printable(str(told))}", err=True)
            yield None


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=batch_ids(is_going))
@with_json
@with_client
def pause(client: Client, ids: tuple[str, ...], *, as_json: bool) -> int:
    """Pause batches.

    What is in flight finishes, nothing more is sent. The completion window goes on meanwhile. A
    pause outlives a restart of the daemon.
    """
    code = DONE
    for batch in each(client, ids, client.pause):
        if batch is None:
            code = FAILED
        elif as_json:
            echo_json(batch)
        else:
            click.echo(f"{batch['id']} {status(batch)}: {counts(batch)}")
            click.echo(_while_paused(client, batch), err=True)
    return code


def _while_paused(client: Client, batch: Batch) -> str:
    expires = batch.get("expires_at")
    window = (
        f" Its window goes on, and ends {moment(expires)} (in {duration(expires - time.time())})."
        if expires
        else ""
    )
    return (
        f"What is in flight finishes, nothing more is sent.{window}\n"
        f"Go on with: batchd resume {batch['id']}{url_option(client)}"
    )


@click.command()
@click.argument(
    "ids", metavar="ID...", nargs=-1, required=True, shell_complete=batch_ids(is_paused)
)
@with_json
@with_client
def resume(client: Client, ids: tuple[str, ...], *, as_json: bool) -> int:
    """Go on with batches that are paused."""
    code = DONE
    for batch in each(client, ids, client.resume):
        if batch is None:
            code = FAILED
        elif as_json:
            echo_json(batch)
        else:
            click.echo(f"{batch['id']} {status(batch)}: {counts(batch)}")
    return code


# A negative number is an argument here, not an option.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("batch_id", metavar="ID", shell_complete=batch_ids(is_steerable))
@click.argument("priority", metavar="N", type=click.IntRange(-10, 10))
@with_json
@with_client
def priority(client: Client, batch_id: str, priority: int, *, as_json: bool) -> int:
    """Give a batch more turns, or fewer, from now on.

    N is from -10 to 10; two more are twice the turns.
    """
    (batch,) = each(client, [batch_id], lambda asked: client.set_priority(asked, priority))
    if batch is None:
        return FAILED
    if as_json:
        echo_json(batch)
    else:
        click.echo(f"{batch['id']} {status(batch)}, priority {priority}")
    return DONE
