"""The deaths of batchd as the model server and the disk saw them.

A line that had a result on disk when batchd died is never sent again. One that had none was in
flight, and may be.
"""

from collections.abc import Iterable

import msgspec

from tests.support.eventlog import Event
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until


class Death(msgspec.Struct, frozen=True):
    """``events``: how many the model server had seen. ``unrecorded``: sent, no result on disk."""

    events: int
    aborted: frozenset[str]
    unrecorded: frozenset[str]


def nonce(custom_id: str) -> str:
    """As ``jobs.request_line`` writes it."""
    return f"nonce of {custom_id}"


def started(events: Iterable[Event]) -> list[str]:
    return [event.nonce for event in events if event.event == "start"]


class Deaths:
    """All deaths in the life of some batches; ``prefix`` begins the custom_ids of their lines."""

    def __init__(self, server: ModelProcess, prefix: str = "") -> None:
        self._server = server
        self._mine = nonce(prefix)
        self._deaths: list[Death] = []

    def __len__(self) -> int:
        return len(self._deaths)

    @property
    def events(self) -> list[Event]:
        """What the model server has seen of these batches."""
        return [event for event in self._server.events if event.nonce.startswith(self._mine)]

    @property
    def in_flight(self) -> int:
        """Lines that were in flight at a death, counted once for each death."""
        return sum(len(death.unrecorded) for death in self._deaths)

    def note(self, recorded: Iterable[str]) -> Death:
        """Batchd is dead; ``recorded`` are the custom_ids of the results it has left."""
        wait_until(lambda: self._server.counts().in_flight == 0)
        events = self.events
        before = self._deaths[-1].events if self._deaths else 0
        death = Death(
            events=len(events),
            aborted=frozenset(event.nonce for event in events[before:] if event.event == "abort"),
            unrecorded=frozenset(started(events)) - {nonce(name) for name in recorded},
        )
        self._deaths.append(death)
        return death

    def check_sent_again(self) -> int:
        """After each death only lines were sent again that were in flight at it; how many."""
        events = self.events
        ends = [*(death.events for death in self._deaths[1:]), len(events)]
        total = 0
        for death, end in zip(self._deaths, ends, strict=True):
            before = set(started(events[: death.events]))
            again = before & set(started(events[death.events : end]))
            assert again <= death.unrecorded, "a line that had its result on disk was sent again"
            total += len(again)
        return total
