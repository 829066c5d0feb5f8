"""``batchd completion``: what a shell needs to complete command lines, and what it is offered.

Ids come from the daemon, in a fraction of a second or not at all: somebody has pressed a key and
waits. A daemon that is away, or refuses, offers nothing and says nothing.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import click

from batchd.cli.client import Client
from batchd.cli.errors import CommandFailed
from batchd.cli.http import Http
from batchd.cli.objects import Batch, is_finished, paused_at
from batchd.cli.show import ago, counts, size, status_word
from batchd.states import BatchStatus

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_WITHIN = 0.5
_MOST = 100
_STEERABLE = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)

Offers = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[str]]"]
_Named = tuple[str, str]


def is_any(_batch: Batch) -> bool:
    return True


def is_running(batch: Batch) -> bool:
    return not is_finished(batch)


def is_steerable(batch: Batch) -> bool:
    return batch["status"] in _STEERABLE


def is_going(batch: Batch) -> bool:
    return is_steerable(batch) and not paused_at(batch)


def is_paused(batch: Batch) -> bool:
    return is_steerable(batch) and bool(paused_at(batch))


def came_to_nothing(batch: Batch) -> bool:
    """Whether there are lines to run again."""
    of = batch["request_counts"]
    return is_finished(batch) and batch["status"] != "failed" and of["completed"] < of["total"]


def batch_ids(which: Callable[[Batch], bool]) -> Offers:
    """Offers the newest batches of which ``which`` holds."""

    def named(client: Client) -> list[_Named]:
        listed, _ = client.batches(_MOST)
        now = time.time()
        return [
            (
                batch["id"],
                f"{status_word(batch)}, {counts(batch)}, {ago(now - batch['created_at'])}",
            )
            for batch in listed
            if which(batch)
        ]

    return _offers(named)


def file_ids() -> Offers:
    """Offers the newest files."""

    def named(client: Client) -> list[_Named]:
        listed, _ = client.files(_MOST)
        return [(file["id"], f"{file['filename']}, {size(file['bytes'])}") for file in listed]

    return _offers(named)


def backend_names() -> Offers:
    """Offers the model servers."""

    def named(client: Client) -> list[_Named]:
        return [(backend["name"], backend["state"]) for backend in client.backends()]

    return _offers(named)


def _offers(named: Callable[[Client], Sequence[_Named]]) -> Offers:
    def offer(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> "list[CompletionItem[str]]":
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - for a shell only

        typed = cast("Sequence[str]", context.params.get(parameter.name or "") or ())
        given = context.params.get("client")
        if not isinstance(given, Client):
            return []
        found: Sequence[_Named] = []
        with suppress(CommandFailed, KeyError, TypeError, ValueError):
            found = named(Client(Http(given.url, os.environ.get("BATCHD_API_KEY"), within=_WITHIN)))
        return [
            CompletionItem(name, help=told)
            for name, told in found
            if name.startswith(incomplete) and name not in typed
        ]

    return offer


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete command lines.

    \b
    bash   eval "$(batchd completion bash)"      in ~/.bashrc
    zsh    eval "$(batchd completion zsh)"       in ~/.zshrc
    fish   batchd completion fish | source       in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - for a shell only

    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    if kind is None:
        raise CommandFailed(f"this click knows no completion for {shell}")
    click.echo(kind(root.command, {}, "batchd", "_BATCHD_COMPLETE").source())
