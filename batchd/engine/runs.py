"""The batches that run: what the engine holds in memory of each, and the table of them all.

A run is made from a row and two ledger files, at start and after validation alike. It holds a
bitmap of done lines, a cursor, and a few numbers for each line that waits or has failed before:
never a line itself.
"""

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

from batchd.ledger import Ledger
from batchd.model import BatchRecord, Progress
from batchd.progress import LiveProgress
from batchd.retry import LineState
from batchd.states import BatchStatus

if TYPE_CHECKING:
    import asyncio


NEW_LINE = LineState()

# Lines of one batch that may wait for another attempt before no fresh line of it is sent.
MAX_WAITING = 4096

CLOSING = frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING})


class Run:
    """One batch that was validated and is not terminal. Lives on the loop."""

    def __init__(self, record: BatchRecord, tag: bytes, ledger: Ledger) -> None:
        self.id = record.id
        self.endpoint = record.endpoint
        self.expires_at = record.expires_at
        self.status = record.status
        self.tag = tag
        self.ledger = ledger
        self.attempts: set[asyncio.Task[None]] = set()
        self.unsettled = 0  # lines sent whose result is not durable
        self.closing_since: float | None = None
        self.is_ending = False
        self.input_lost = False
        self._cursor = 0
        self._put_back: list[int] = []
        self._waiting: list[tuple[float, int]] = []
        self._states: dict[int, LineState] = {}

    @property
    def is_quiet(self) -> bool:
        """Nothing of it is in flight or on its way to disk."""
        return not self.attempts and self.unsettled == 0

    @property
    def is_drained(self) -> bool:
        return self.ledger.missing == 0

    def take(self, now: float) -> int | None:
        """The next line to send; None if none may be sent now."""
        if self._put_back:
            return self._put_back.pop()
        if self._waiting and self._waiting[0][0] <= now:
            return heapq.heappop(self._waiting)[1]
        if len(self._waiting) >= MAX_WAITING:
            return None
        index = self.ledger.next_missing(self._cursor)
        self._cursor = self.ledger.total if index is None else index + 1
        return index

    def put_back(self, index: int) -> None:
        """A taken line was not sent after all."""
        self._put_back.append(index)

    def wait_until(self, index: int, not_before: float, state: LineState) -> None:
        """Send a line again, not before an instant of the loop's clock."""
        self._states[index] = state
        heapq.heappush(self._waiting, (not_before, index))

    def hurry(self, now: float) -> None:
        """No line has to wait any longer."""
        self._waiting = [(min(due, now), index) for due, index in self._waiting]
        heapq.heapify(self._waiting)

    def next_at(self) -> float | None:
        """When a waiting line becomes due; None if none waits."""
        return self._waiting[0][0] if self._waiting else None

    def state(self, index: int) -> LineState:
        return self._states.get(index, NEW_LINE)

    def settled(self, index: int) -> None:
        """A line needs no further attempt."""
        self._states.pop(index, None)

    def close(self) -> None:
        self.ledger.close()


class Runs:
    """All runs, by batch id."""

    def __init__(self, live: LiveProgress) -> None:
        self._live = live
        self._runs: dict[str, Run] = {}
        self.backend_note: str | None = None

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs.values()))

    def __contains__(self, batch_id: str) -> bool:
        return batch_id in self._runs

    def get(self, batch_id: str) -> Run | None:
        return self._runs.get(batch_id)

    def add(self, run: Run) -> None:
        """From now on clients see what this run has come to."""
        self._runs[run.id] = run
        self._live.follow(run.id, lambda: self._progress(run))

    def remove(self, run: Run) -> None:
        del self._runs[run.id]
        run.close()

    def _progress(self, run: Run) -> Progress:
        waits = run.status is BatchStatus.IN_PROGRESS and not run.is_drained
        return Progress(run.ledger.counts, run.ledger.usage, self.backend_note if waits else None)
