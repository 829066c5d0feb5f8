"""Which batch gets the next free slot: plain round robin over the batches that have a line ready.

The seam for weights is ``next``: whoever changes the order changes this module alone. O(1) per
line however many batches run; a batch with nothing to send sleeps in a heap until a line is due.
"""

import heapq
import itertools
import math
from collections import deque

from batchd.engine.runs import Run


class Scheduler:
    """The running batches in turn."""

    def __init__(self) -> None:
        self._ring: deque[Run] = deque()
        self._awake: set[str] = set()
        self._asleep: list[tuple[float, int, Run]] = []
        self._ties = itertools.count()
        self._members: dict[str, Run] = {}

    def add(self, run: Run) -> None:
        """Let a batch take part, from the end of the ring."""
        if run.id not in self._members:
            self._members[run.id] = run
            self._wake(run)

    def remove(self, run: Run) -> None:
        """A batch takes part no more. Where it still stands it is passed over."""
        self._members.pop(run.id, None)

    def next(self, now: float) -> tuple[Run, int] | None:
        """The line to send next; None if no batch has one ready."""
        self._wake_due(now)
        while self._ring:
            run = self._ring.popleft()
            if run.id not in self._members:
                self._awake.discard(run.id)
                continue
            index = run.take(now)
            if index is not None:
                self._ring.append(run)
                return run, index
            self._awake.discard(run.id)
            self._sleep(run)
        return None

    def line_waits(self, run: Run) -> None:
        """A line of this batch will be due again, or was put back."""
        if run.id in self._members and run.id not in self._awake:
            self._sleep(run)

    def line_is_back(self, run: Run) -> None:
        """A line was put back: its batch has one ready at once."""
        if run.id in self._members:
            self._wake(run)

    def next_at(self) -> float:
        """When a batch has a line ready: now if one is awake, infinity if none sleeps either."""
        if self._ring:
            return -math.inf
        return self._asleep[0][0] if self._asleep else math.inf

    def _sleep(self, run: Run) -> None:
        due = run.next_at()
        if due is not None:
            heapq.heappush(self._asleep, (due, next(self._ties), run))

    def _wake_due(self, now: float) -> None:
        while self._asleep and self._asleep[0][0] <= now:
            self._wake(heapq.heappop(self._asleep)[2])

    def _wake(self, run: Run) -> None:
        if run.id in self._members and run.id not in self._awake:
            self._awake.add(run.id)
            self._ring.append(run)
