"""Ends each life of a history as its plan says.

In an operation of the disk, between two passes of the loop, around a commit, while lines are sent,
after ledgers were read back, while a batch is brought to its end.
"""

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Never

from tests.simulation.disk import Crash, SimDisk
from tests.simulation.loop import VirtualLoop
from tests.simulation.plan import Ending, EndKind, Plan, Trigger

_DEATH = Ending(EndKind.DEATH, Trigger.OPERATION, 0)


class Endings:
    """``tally`` counts what really happened."""

    def __init__(self, plan: Plan, loop: VirtualLoop, disk: SimDisk, chance: random.Random) -> None:
        self.tally: Counter[str] = Counter()
        self._left = deque(plan.endings)
        self._loop = loop
        self._disk = disk
        self._chance = chance
        self._planned: Ending | None = None
        self._count = 0
        self._death = False
        self._crash_after_commit = False
        self._stop: Callable[[], None] = lambda: None

    @property
    def crashes(self) -> int:
        return sum(self.tally.values()) - self.tally[EndKind.STOP]

    def begin_life(self, stop: Callable[[], None]) -> None:
        """Arm the next ending; ``stop`` asks the life to end by itself."""
        self._planned = self._left[0] if self._left else None
        self._stop = stop
        self._death = self._crash_after_commit = False
        if self._planned is None:
            return
        self._count = self._planned.count
        if self._planned.trigger is Trigger.OPERATION:
            self._disk.crash_at = self._disk.operations + self._count
        elif self._planned.trigger is Trigger.PASS:
            self._loop.crash_at = self._loop.passes + self._count

    def end_life(self) -> Ending:
        """How the life ended that crashed or was stopped just now."""
        ending = _DEATH if self._death else self._left.popleft()
        self.tally[ending.kind] += 1
        return ending

    def spare(self) -> None:
        """Not now: what befalls batchd between a failed sync and the word that it leaves about it
        is a second fault, and more than it promises to survive."""
        self._disk.crash_at = None
        self._disk.fail_next.clear()

    def die(self) -> Never:
        """batchd ends itself."""
        self._death = True
        self.crash()

    def fell(self) -> None:
        """batchd ended of an error."""
        self._death = True

    def crash(self) -> Never:
        self._disk.dead = True
        raise Crash

    def at_rest(self) -> None:
        """All is done: the last chance to crash for a history that did not."""
        if self._planned is not None and not self.crashes:
            self.crash()

    def reached(self, trigger: Trigger) -> None:
        """After this, the planned number of disk operations is left."""
        if self._planned is None or self._planned.trigger is not trigger:
            return
        if self._planned.kind is EndKind.STOP:
            self._loop.call_later(self._count / 100, self._stop)
        elif self._count == 0:
            self.crash()
        elif self._disk.crash_at is None:
            self._disk.crash_at = self._disk.operations + self._count

    def sending(self) -> None:
        if self._is_planned(Trigger.SENDING):
            self._count -= 1
            if self._count == 0 and self._planned is not None:
                if self._planned.kind is EndKind.STOP:
                    self._stop()
                else:
                    self._loop.call_soon(self.crash)

    def committing(self) -> None:
        if self._is_planned(Trigger.COMMIT):
            self._count -= 1
            if self._count == 0:
                if self._chance.random() < 0.5:
                    self.crash()
                self._crash_after_commit = True

    def committed(self) -> None:
        if self._crash_after_commit:
            self.crash()

    def _is_planned(self, trigger: Trigger) -> bool:
        return self._planned is not None and self._planned.trigger is trigger
