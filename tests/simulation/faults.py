"""What goes wrong in a history, and when: its plan, laid on disk, clock and SQLite."""

import errno
import os
import random
from collections import Counter
from pathlib import Path

from tests.simulation.database import CommitError
from tests.simulation.disk import SimDisk
from tests.simulation.loop import VirtualLoop
from tests.simulation.plan import Plan, Rot
from tests.simulation.troubles import Fault, Period

START = 1_800_000_000
# Less room than this is too little for a commit.
_LITTLE_ROOM = 200

_FAILS = {
    Fault.BAD_SYNC: "sync",
    Fault.BAD_APPEND: "append",
    Fault.BAD_DIRECTORY: "sync_directory",
}
# Of these a record may be dropped: it is not written, or its file is not made.
_DROPS = frozenset({"append", "sync_directory"})


class Faults:
    """``tally`` counts what really began."""

    def __init__(self, plan: Plan, loop: VirtualLoop, chance: random.Random) -> None:
        self.tally: Counter[str] = Counter()
        self._plan = plan
        self._loop = loop
        self._chance = chance
        self._clock_offset = 0.0
        self._commit_error: CommitError | None = None
        self._periods = {(period.fault, period.server): period for period in plan.periods}
        self._disk: SimDisk | None = None
        self._may_drop = False

    def now(self) -> float:
        """The clock on the wall."""
        return START + self._loop.elapsed + self._clock_offset

    def turn_clock(self, seconds: float) -> None:
        self._clock_offset += seconds

    @property
    def is_calm(self) -> bool:
        return self._loop.elapsed >= self._plan.calm_at

    def is_on(self, fault: Fault, server: str | None = None) -> bool:
        """Whether there is this trouble now."""
        return self.period(fault, server) is not None

    def period(self, fault: Fault, server: str | None = None) -> Period | None:
        """The time of this trouble, if it is now."""
        period = self.planned(fault, server)
        if period is None or not period.start <= self._loop.elapsed < period.end:
            return None
        return period

    def planned(self, fault: Fault, server: str | None = None) -> Period | None:
        """The time of this trouble, whenever it is."""
        return self._periods.get((fault, server))

    @property
    def elapsed(self) -> float:
        return self._loop.elapsed

    def latency(self) -> float:
        """Of a hop between threads: mostly none that others could tell."""
        draw = self._chance.random()
        return 0.0 if draw < 0.7 else (draw - 0.7) * 0.01

    def commit_error(self) -> CommitError | None:
        """What the next commit comes to."""
        error, self._commit_error = self._commit_error, None
        if error is not None:
            self.tally["failed commits"] += 1
        elif self._no_room():
            self.tally["commits without room"] += 1
            return CommitError("SQLITE_FULL")
        return error

    def _no_room(self) -> bool:
        room = self._disk.room if self._disk is not None else None
        return room is not None and room < _LITTLE_ROOM

    def may_have_dropped(self) -> bool:
        """Whether a write may have failed since this was asked last, for lack of room or else."""
        dropped, self._may_drop = self._may_drop, self._fails_to_write()
        return dropped

    def _fails_to_write(self) -> bool:
        disk = self._disk
        return disk is not None and (
            disk.room is not None or not disk.fail_next.keys().isdisjoint(_DROPS)
        )

    def schedule(self, disk: SimDisk) -> None:
        self._disk = disk
        for period in self._plan.periods:
            self._loop.call_later(period.start, self._begin, disk, period)

    def rot(self, path: Path, how: Rot) -> bool:
        """Damage a file that is on disk; False if there is nothing of it."""
        disk = self._disk
        if disk is None or not disk.durable.get(path):
            return False
        data = bytearray(disk.durable[path])
        match how:
            case Rot.FLIP:
                data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
            case Rot.TWICE:
                data += data[data[:-1].rfind(b"\n") + 1 :]
            case Rot.CUT:
                del data[self._chance.randrange(len(data)) :]
            case Rot.GONE:
                waiting, disk.fail_next = disk.fail_next, {}
                disk.remove(path)
                disk.sync_directory(path.parent)
                disk.fail_next = waiting
        if how is not Rot.GONE:
            disk.plant(path, bytes(data))
        self.tally[how] += 1
        return True

    def fail_next_sync(self) -> None:
        if self._disk is not None:
            self.tally["failed syncs at a start"] += 1
            self._disk.fail_next["sync"] = _eio()

    def _begin(self, disk: SimDisk, period: Period) -> None:
        self.tally[period.fault] += 1
        match period.fault:
            case Fault.DISK_FULL:
                disk.room = int(period.amount)
                self._may_drop = True
                self._loop.call_later(period.end - period.start, self._make_room, disk)
            case Fault.BAD_SYNC | Fault.BAD_APPEND | Fault.BAD_DIRECTORY:
                disk.fail_next[_FAILS[period.fault]] = _eio()
                self._may_drop = self._may_drop or _FAILS[period.fault] in _DROPS
                self._loop.call_later(self._plan.calm_at - self._loop.elapsed, self._calm, disk)
            case Fault.BAD_COMMIT:
                is_ghost = self._chance.random() < 0.5
                self._commit_error = CommitError("SQLITE_IOERR_FSYNC", is_ghost)
            case Fault.CLOCK:
                self._clock_offset += period.amount
            case _:
                pass  # asked for by ``is_on``

    def _calm(self, disk: SimDisk) -> None:
        disk.fail_next.clear()

    def _make_room(self, disk: SimDisk) -> None:
        disk.room = None


def _eio() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))
