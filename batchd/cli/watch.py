"""Staying with batches until they are done, and leaving them without harm."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence

import click

from batchd.cli.client import Client
from batchd.cli.errors import DONE, FAILED, CommandFailed
from batchd.cli.objects import Batch
from batchd.cli.options import DEFAULT_URL
from batchd.cli.progress import Display, make_display
from batchd.cli.waiting import finished

_MOST_COMMANDS = 3

OnFinished = Callable[[Batch, Display], CommandFailed | None]
OnDetach = Callable[[Sequence[str]], None]


def watch(
    client: Client,
    labels: Mapping[str, str],
    on_finished: OnFinished,
    on_detach: OnDetach | None = None,
    together: Sequence[Sequence[str]] = (),
) -> int:
    """Show the batches of ``labels`` (id to name) until all are done. The exit code.

    ``on_finished`` returns what kept the results of a batch from being fetched; that is said, and
    keeps no other from it. Ctrl-C detaches: the batches go on, and a sentence says how to come
    back. ``together``: ids of batches whose results belong into one file.
    """
    left, ended, code = list(labels), list[str](), DONE
    try:
        with make_display(labels) as display:
            for batch in finished(client, list(labels), display):
                left.remove(batch["id"])
                ended = [batch["id"]]
                fault = on_finished(batch, display)
                if fault:
                    (fetch,) = _fetching(client, ended, together)
                    display.say(f"{str(fault).rstrip('.')}. Fetch what there is with: {fetch}")
                ended = []
                code = FAILED if fault or batch["status"] != "completed" else code
    except KeyboardInterrupt:
        if on_detach:
            on_detach(left)
        else:
            click.echo(f"\nDetached; {_going_on(left, labels)}. ", nl=False, err=True)
            click.echo(come_back(client, left, together, ended), err=True)
        return FAILED
    return code


def _going_on(left: Sequence[str], labels: Mapping[str, str]) -> str:
    if not left:
        return "the batch has ended" if len(labels) == 1 else "all batches have ended"
    return "the batch goes on" if len(left) == 1 else f"{len(left)} batches go on"


def come_back(
    client: Client,
    batch_ids: Sequence[str],
    together: Sequence[Sequence[str]] = (),
    ended: Sequence[str] = (),
) -> str:
    """How to find these batches again, and those that have ended meanwhile."""
    wait = f"  batchd wait {' '.join(batch_ids)}{url_option(client)}"
    fetch = [f"  {command}" for command in _fetching(client, [*ended, *batch_ids], together)]
    return "\n".join(["Come back with:", *([wait] if batch_ids else []), *fetch])


def _fetching(
    client: Client, batch_ids: Sequence[str], together: Sequence[Sequence[str]]
) -> list[str]:
    """The commands that fetch the results of these batches; one with a blank for many."""
    left = [ids for ids in together if set(ids) & set(batch_ids)] or [[ids] for ids in batch_ids]
    results = [" ".join(ids) for ids in left] if len(left) <= _MOST_COMMANDS else ["ID"]
    return [f"batchd results {ids}{url_option(client)} -o FILE" for ids in results]


def url_option(client: Client) -> str:
    """What a command needs to reach this daemon from the same shell."""
    usual = os.environ.get("BATCHD_URL") or DEFAULT_URL
    return "" if client.url == usual else f" --url {shlex.quote(client.url)}"
