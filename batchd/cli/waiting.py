"""Waiting for batches, and the patience it takes: the daemon may restart meanwhile.

After a first contact nothing but a definite answer ends the wait: a daemon that cannot be reached,
or that answers 5xx, is asked again for as long as it takes, and the display says so once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from batchd.cli.client import Client
from batchd.cli.errors import Refused, Unreachable
from batchd.cli.objects import Batch, is_finished
from batchd.cli.progress import Display

T = TypeVar("T")

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 1.0
_GROWTH = 1.3


class Clock(Protocol):
    """The part of ``time`` that waiting needs."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


def patiently(ask: Callable[[], T], display: Display, clock: Clock = time) -> T:
    """Ask until there is a definite answer, and say when there is none for now."""
    trouble = ""
    while True:
        try:
            answer = ask()
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and not error.passing:
                raise
            if not trouble:
                display.say(f"waiting for batchd: {error}")
            trouble = str(error)
            clock.sleep(_LONGEST_PAUSE)
        else:
            if trouble:
                display.say("batchd answers again")
            return answer


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
