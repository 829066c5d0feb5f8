"""Waiting for batches, and the patience it takes: the daemon may restart meanwhile.

After a first contact nothing but a definite answer ends the wait: a daemon that cannot be reached,
or that answers 5xx, is asked again for as long as it takes, and the display says so once.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from batchd.cli.client import Client, new_key
from batchd.cli.errors import CommandFailed, Refused, Unreachable
from batchd.cli.objects import Batch, is_finished
from batchd.cli.progress import Display

T = TypeVar("T")

_LONGEST_DOUBT = 30.0
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 1.0
_GROWTH = 1.3


class InDoubt(CommandFailed):
    """Whether there is a batch now can only be looked up."""

    def __init__(self, reason: str) -> None:
        end = "" if reason.endswith(("?", ".")) else "."
        super().__init__(
            f"{reason}{end} Whether the batch was made is not known: see `batchd list`."
        )


class Clock(Protocol):
    """The part of ``time`` that waiting needs."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class Says(Protocol):
    """The part of a ``Display`` that patience needs."""

    def say(self, text: str) -> None: ...


def patiently(
    ask: Callable[[], T], display: Says, clock: Clock = time, *, within: float = math.inf
) -> T:
    """Ask until there is a definite answer, and say when there is none for now.

    After ``within`` seconds the last trouble is raised.
    """
    trouble, given_up = "", clock.monotonic() + within
    while True:
        try:
            answer = ask()
        except (Unreachable, Refused) as error:
            if not error.passing or clock.monotonic() > given_up:
                raise
            if not trouble:
                display.say(f"waiting for batchd: {error}")
            trouble = str(error)
            clock.sleep(_LONGEST_PAUSE)
        else:
            if trouble:
                display.say("batchd answers again")
            return answer


def create_once(create: Callable[[str], Batch], says: Says, clock: Clock = time) -> Batch:
    """Make a batch under a key of its own, so that an answer that was lost can be asked for again.

    Whoever calls this has heard from the daemon just before: it is away for a moment at most.
    ``InDoubt`` if it was asked and has not answered, whatever it answers when it is asked again;
    any other end means that nothing was made.
    """
    key, in_doubt = new_key(), False

    def ask() -> Batch:
        nonlocal in_doubt
        before, in_doubt = in_doubt, True
        try:
            return create(key)
        except Refused as error:  # an answer, but to this attempt alone
            in_doubt = before or not error.is_definite
            raise

    try:
        return patiently(ask, says, clock, within=_LONGEST_DOUBT)
    except KeyboardInterrupt:
        if not in_doubt:
            raise
        raise InDoubt("interrupted before batchd had answered") from None
    except CommandFailed as error:
        if not in_doubt:
            raise
        raise InDoubt(str(error)) from None


def finished(
    client: Client, batch_ids: Sequence[str], display: Display, clock: Clock = time
) -> Iterator[Batch]:
    """Each batch, as it comes to its end."""
    waiting = list(dict.fromkeys(batch_ids))
    pause = _FIRST_PAUSE
    while True:
        for batch_id in list(waiting):
            batch = patiently(lambda asked=batch_id: client.batch(asked), display, clock)
            display.update(batch, clock.monotonic())
            if is_finished(batch):
                waiting.remove(batch_id)
                yield batch
        if not waiting:
            return
        clock.sleep(pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)
