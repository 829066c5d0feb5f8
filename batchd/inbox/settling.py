"""Which of the names seen in the inbox are complete, and when to look again.

Knows looks at the directory and what the kernel told, no files and no clock. A file that was
renamed into place is complete at once; any other when it has not changed for ``settle``. Nothing
proves, though, that a resting file whose writer was not seen to close it will not grow: such an
arrival is not ``certain`` before it has rested for ``certain_after``.
"""

import math
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import IntEnum
from operator import itemgetter

import msgspec

_SIGN = 1 << 63
_MOST_TOLD = 20_000  # names; of a file that is renamed all the time there is no end of them

Identity = tuple[int, int, int, int]  # device, inode, mtime in nanoseconds, size


class Seen(msgspec.Struct, frozen=True):
    """What can be known of a file without reading it; equal as long as it is not touched."""

    name: str
    mode: int
    device: int
    inode: int
    links: int
    uid: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def identity(self) -> Identity:
        """What a claim remembers, as SQLite's signed integers of 64 bits: inode numbers are not
        signed, and a file may be dated long after what fits."""
        return _signed(self.device), _signed(self.inode), _signed(self.mtime_ns), self.size


class Told(IntEnum):
    """What the kernel said last of a name."""

    NOTHING = 0
    CLOSED = 1  # somebody who wrote to it closed it
    MOVED = 2  # it was renamed into place


class Arrival(msgspec.Struct, frozen=True):
    """A file that may be taken now."""

    seen: Seen
    certain: bool


class _Resting(msgspec.Struct):
    seen: Seen
    since: float
    told: Told
    not_before: float = -math.inf


class Settling:
    """The names that wait. Instants are of a clock that never jumps."""

    def __init__(self, settle: float, certain_after: float) -> None:
        self._settle = settle
        self._certain_after = max(settle, certain_after)
        self._resting: dict[str, _Resting] = {}
        self._told: dict[str, Told] = {}
        self._turns = 0
        self._served: dict[int, int] = {}

    def tell(self, name: str, told: Told) -> None:
        """Remember an event until the next look at the directory, if there are not too many: what
        is not remembered is seen there all the same, and settles as what nothing was told of."""
        if name in self._told or len(self._told) < _MOST_TOLD:
            self._told[name] = max(told, self._told.get(name, Told.NOTHING))

    def take_told(self) -> dict[str, Told]:
        """What was told since the last time. Take it before the directory is read: what is told
        while it is read may be of a name that was not there yet, and is for the next look."""
        told, self._told = self._told, {}
        return told

    def look(
        self, listing: Mapping[str, Seen], told: Mapping[str, Told], now: float
    ) -> list[Arrival]:
        """Take note of a look at the whole directory: what is complete.

        Users take turns, so that many files of one hold up no other's, and begin with whoever has
        waited longest for one; of each, what has rested longest comes first.
        """
        uids = {seen.uid for seen in listing.values()}
        self._served = {uid: turn for uid, turn in self._served.items() if uid in uids}
        self._resting = {
            name: self._updated(seen, told.get(name, Told.NOTHING), now)
            for name, seen in listing.items()
        }
        due = [item for item in self._resting.values() if self._due(item) <= now]
        due.sort(key=lambda item: item.since)
        return [
            Arrival(item.seen, certain=self._is_certain(item, now)) for item in self._by_turns(due)
        ]

    def served(self, uid: int) -> None:
        """A file of this user has had its turn: at the next look the others come first."""
        self._turns += 1
        self._served[uid] = self._turns

    def postpone(self, name: str, until: float = math.inf) -> None:
        """Don't call a name complete before ``until``, unless it changes."""
        if name in self._resting:
            self._resting[name].not_before = until

    def resume(self, names: Iterable[str]) -> None:
        """Call these names complete again, however long they were put off."""
        for name in names:
            self.postpone(name, -math.inf)

    def certain_at(self, name: str, now: float) -> float:
        """When a name that stays as it is will be a certain arrival."""
        resting = self._resting.get(name)
        return (resting.since if resting else now) + self._certain_after

    def next_due(self) -> float:
        """When the next name will be complete; infinity if none waits."""
        return min(map(self._due, self._resting.values()), default=math.inf)

    def _updated(self, seen: Seen, told: Told, now: float) -> _Resting:
        old = self._resting.get(seen.name)
        if old is None or old.seen != seen:
            return _Resting(seen, now, told)
        old.told = max(old.told, told)
        return old

    def _due(self, item: _Resting) -> float:
        rested = item.since + (0 if item.told is Told.MOVED else self._settle)
        return max(rested, item.not_before)

    def _is_certain(self, item: _Resting, now: float) -> bool:
        return item.told is not Told.NOTHING or now - item.since >= self._certain_after

    def _by_turns(self, resting: Iterable[_Resting]) -> list[_Resting]:
        """The first of each user, then the second of each, and so on."""
        rounds: Counter[int] = Counter()
        ranked: list[tuple[int, int, _Resting]] = []
        for item in resting:
            uid = item.seen.uid
            ranked.append((rounds[uid], self._served.get(uid, 0), item))
            rounds[uid] += 1
        ranked.sort(key=itemgetter(0, 1))
        return [item for _, _, item in ranked]


def _signed(number: int) -> int:
    return (number + _SIGN) % (2 * _SIGN) - _SIGN
