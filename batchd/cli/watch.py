"""Staying with batches until they are done, and leaving them without harm."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence

import click

from batchd.cli.client import Client
from batchd.cli.errors import DONE, FAILED
from batchd.cli.objects import Batch
from batchd.cli.options import DEFAULT_URL
from batchd.cli.progress import Display, make_display
from batchd.cli.waiting import finished

_MOST_COMMANDS = 3

OnDetach = Callable[[Sequence[str]], None]


def watch(
    client: Client,
    labels: Mapping[str, str],
    on_finished: Callable[[Batch, Display], None],
    on_detach: OnDetach | None = None,
    together: Sequence[Sequence[str]] = (),
) -> int:
    """Show the batches of ``labels`` (id to name) until all are done. The exit code.

    Ctrl-C detaches: the batches go on, and a sentence says how to come back. ``together``: ids of
    batches whose results belong into one file.
    """
    left, code = list(labels), DONE
    try:
        with make_display(labels) as display:
            for batch in finished(client, left, display):
                on_finished(batch, display)
                left.remove(batch["id"])
                code = code if batch["status"] == "completed" else FAILED
    except KeyboardInterrupt:
        if on_detach:
            on_detach(left)
        else:
            go_on = "the batch goes on" if len(left) == 1 else f"{len(left)} batches go on"
            click.echo(f"\nDetached; {go_on}. {come_back(client, left, together)}", err=True)
        return FAILED
    return code


def come_back(
    client: Client, batch_ids: Sequence[str], together: Sequence[Sequence[str]] = ()
) -> str:
    """How to find these batches again."""
    url = url_option(client)
    left = [ids for ids in together if set(ids) & set(batch_ids)] or [[ids] for ids in batch_ids]
    results = [" ".join(ids) for ids in left] if len(left) <= _MOST_COMMANDS else ["ID"]
    return "\n".join(
        [
            f"Come back with:\n  batchd wait {' '.join(batch_ids)}{url}",
            *(f"  batchd results {ids}{url} -o FILE" for ids in results),
        ]
    )


def url_option(client: Client) -> str:
    """What a command needs to reach this daemon from the same shell."""
    usual = os.environ.get("BATCHD_URL") or DEFAULT_URL
    return "" if client.url == usual else f" --url {shlex.quote(client.url)}"
