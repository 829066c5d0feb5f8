"""The lines of one model of one batch: in which order they go, and which wait for another attempt.

Fresh lines come group by group (``grouping``: lines that share the beginning of their prompts), one
group per slot at a time, since on some servers a slot's cache is its own. A group stays with the
backend that got its first line, as long as that one has slots for it; a backend with none of its
own left helps with the largest of another, so that nobody idles. In memory are the positions of the
open groups and a few hundred line indexes of each; never a line.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from batchd.gathering import Group
from batchd.retry import LineState

if TYPE_CHECKING:
    from array import array

# Lines of one queue that may wait for another attempt before no fresh line of it is sent.
MAX_WAITING = 4096
MAX_OPEN = 16  # groups per backend: their prefixes must all fit into its cache
_CHUNK = 512  # line indexes read at once
_LOW = 64  # with fewer left, the next are read
_SCAN = 4  # lines that are due and looked at for one that suits a backend

# Whether lines that failed on the backend that asks are to wait for another.
Others = Callable[[], bool]
Read = Callable[[int, int], "array[int]"]  # line indexes at positions; for threads


class Done(Protocol):
    """Which lines have a durable result."""

    @property
    def total(self) -> int: ...
    def next_missing(self, start: int) -> int | None: ...
    def is_done(self, index: int) -> bool: ...


class _Stretch:
    """A group that was opened, as far as it has gone. ``home``: the backend it belongs to."""

    def __init__(self, group: Group, read: Read | None) -> None:
        self._read = read  # None: positions are line indexes
        self._at = group.start
        self._end = group.start + group.count
        self._ready: deque[int] = deque()
        self.in_flight = 0

    @property
    def left(self) -> int:
        """Lines that were not taken yet, done ones among them."""
        return self._end - self._at + len(self._ready)

    @property
    def is_low(self) -> bool:
        """Whether it should be read on."""
        return self._read is not None and len(self._ready) < _LOW and self._at < self._end

    @property
    def is_hungry(self) -> bool:
        """Whether it must be read on before it can tell its next line."""
        return self.is_low and not self._ready

    def next(self, done: Done) -> int | None:
        """Its next line; None if it has no more."""
        if self._read is not None:
            return self._ready.popleft() if self._ready else None
        index = done.next_missing(self._at)
        if index is None or index >= self._end:
            self._at = self._end
            return None
        self._at = index + 1
        return index

    def fill(self, done: Done) -> None:
        """Read on. Blocks; for a thread."""
        while self.is_low and self._read is not None:
            found = self._read(self._at, min(_CHUNK, self._end - self._at))
            self._ready.extend(index for index in found if not done.is_done(index))
            self._at += len(found)


class LineQueue:
    """Gives out each line once, and again only when its time has come. Lives on the loop.

    ``states``: what lines have been through, by index; kept by whoever has all of the batch.
    """

    def __init__(
        self,
        model: str,
        groups: Sequence[Group],
        read: Read | None,
        done: Done,
        states: dict[int, LineState],
    ) -> None:
        self.model = model
        self._read = read
        self._done = done
        self._unopened = deque(groups)
        self._open: dict[str, list[_Stretch]] = {}
        self._live: dict[int, _Stretch | None] = {}
        self._put_back: list[int] = []
        self._waiting: list[tuple[float, int]] = []
        self._due: deque[int] = deque()
        self._took_due = False
        self._states = states
        self.is_hungry = False  # a group should be read on

    # -- giving out

    def take(self, now: float, home: str, groups: int, others: Others) -> int | None:
        """The next line for a backend called ``home``, which works on so many groups at once.

        None if there is none. A line that failed there waits if there are ``others`` to wait for.
        Lines that are due take turns with fresh ones: one that a backend refuses again and again
        must not be all it is sent.
        """
        if self._put_back:
            return self._put_back.pop()
        self._wake_due(now)
        index = None if self._took_due else self._take_due(home, others)
        if index is None and len(self._waiting) + len(self._due) < MAX_WAITING:
            index = self._take_fresh(home, groups)
            self._took_due = False
        if index is None:
            index = self._take_due(home, others)
        return index

    def _wake_due(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            self._due.append(heapq.heappop(self._waiting)[1])

    def _take_due(self, home: str, others: Others) -> int | None:
        for at in range(min(_SCAN, len(self._due))):
            if self._states[self._due[at]].backend != home or not others():
                index = self._due[at]
                del self._due[at]
                self._took_due = True
                return index
        return None

    def _take_fresh(self, home: str, groups: int) -> int | None:
        while (stretch := self._stretch(home, groups)) is not None:
            index = stretch.next(self._done)
            self.is_hungry = self.is_hungry or stretch.is_low
            if index is None:
                self._close(stretch)
            elif index not in self._live and not self._done.is_done(index):
                stretch.in_flight += 1
                self._live[index] = stretch
                return index
        return None

    def _stretch(self, home: str, groups: int) -> _Stretch | None:
        """The group to go on with: one of its own that waits for nothing, a new one, any."""
        own = [one for one in self._open.get(home, ()) if not one.is_hungry]
        best = min(own, key=lambda one: one.in_flight, default=None)
        if best is not None and not best.in_flight:
            return best
        if self._unopened and len(self._open.get(home, ())) < min(groups, MAX_OPEN):
            return self._opened(home)
        return best or self._largest()

    def _opened(self, home: str) -> _Stretch | None:
        stretch = _Stretch(self._unopened.popleft(), self._read)
        self._open.setdefault(home, []).append(stretch)
        self.is_hungry = self.is_hungry or stretch.is_low
        return None if stretch.is_hungry else stretch

    def _largest(self) -> _Stretch | None:
        """Of all backends' groups the one with the most lines left."""
        able = [one for own in self._open.values() for one in own if not one.is_hungry]
        return max(able, key=lambda one: one.left, default=None)

    def _close(self, stretch: _Stretch) -> None:
        for own in self._open.values():
            if stretch in own:
                own.remove(stretch)

    def read_plainly(self) -> None:
        """The order cannot be read any more: go on as in the input, with what is left."""
        self._read = None
        self._unopened = deque([Group(self.model, 0, 0, self._done.total, is_rest=True)])
        self._open = {}
        self.is_hungry = False

    # -- what became of them

    def landed(self, index: int) -> None:
        """A line in flight has come back, or was given up: its group may send another."""
        stretch = self._live.get(index)
        if stretch is not None:
            stretch.in_flight -= 1
            self._live[index] = None

    def put_back(self, index: int) -> None:
        """A taken line was not sent after all."""
        self.landed(index)
        self._live[index] = None
        self._put_back.append(index)

    def wait_until(self, index: int, not_before: float) -> None:
        """Send a line again, not before an instant of the loop's clock."""
        self.landed(index)
        heapq.heappush(self._waiting, (not_before, index))

    def gone(self, index: int) -> None:
        """Its result is durable, or it was broken off for good."""
        self._live.pop(index, None)

    # -- looking

    @property
    def has_due(self) -> bool:
        """Whether a line may go now, if perhaps not to each backend."""
        return bool(self._due)

    def next_at(self) -> float | None:
        """When a waiting line becomes due; None if none waits."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def waiting(self) -> list[tuple[float, int]]:
        """The lines that wait for another attempt, and until when; in no order."""
        return [*((0.0, index) for index in self._due), *self._waiting]

    def fill(self) -> None:
        """Read on in every group that asks for it. Blocks; for a thread.

        ``OSError`` or ``EOFError`` if the order cannot be read; it asks again then.
        """
        for own in list(self._open.values()):
            for stretch in list(own):
                stretch.fill(self._done)
        self.is_hungry = False
