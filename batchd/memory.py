"""How many bytes of requests and answers are in memory, against the most there may be.

Requests are read as far as there is room. An answer comes whether there is room or not: it is
counted piece by piece, and while there is no room it is not read on; what is missing waits in the
socket, and at its server. While no result is on its way to the disk, which would make room, one at
a time may go on all the same, or none might ever be whole; and a little is read of each, so that a
refusal of a few words waits for nobody. So memory holds what was allowed, two answers at most (one
that is read without room, and the one before it on its way to the disk), and a little of each of
the others. Lives on the loop.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Generator

_LITTLE = 1 << 14


class Memory:
    """``held`` bytes of ``size``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self._results = 0  # of these, which are given back as soon as they are on disk
        self._ahead: Reading | None = None  # the one that needs no room
        self._waiting: deque[tuple[Reading, int, asyncio.Future[None]]] = deque()

    @property
    def room(self) -> int:
        """What is left of it; less than nothing while an answer is read without room."""
        return self.size - self.held

    def take(self, count: int) -> None:
        """So many bytes are there, and room for them was asked for or does not matter."""
        self.held += count

    def take_result(self, count: int) -> None:
        """So many are on their way to the disk."""
        self.held += count
        self._results += count

    def give_result(self, count: int) -> None:
        """So many are on disk."""
        self._results -= count
        self.give(count)

    def give(self, count: int) -> None:
        """So many are there no more."""
        self.held -= count
        while self._waiting:
            reading, wanted, turn = self._waiting[0]
            if not turn.done():  # else it was broken off, and does not know yet
                if not self.may_read(reading, wanted):
                    return
                self.read(reading, wanted)
                turn.set_result(None)
            self._waiting.popleft()

    @contextlib.contextmanager
    def reading(self) -> Generator["Reading"]:
        """An answer is being read.

        On the way out it is held no more: whoever keeps it takes it anew.
        """
        reading = Reading(self)
        try:
            yield reading
        finally:
            if self._ahead is reading:
                self._ahead = None
            self.give(reading.held)

    def may_read(self, reading: "Reading", count: int) -> bool:
        """Whether an answer may be read on by so much."""
        if count <= self.room or reading is self._ahead or reading.held + count <= _LITTLE:
            return True
        return self._ahead is None and not self._results

    def read(self, reading: "Reading", count: int) -> None:
        """It was."""
        if count > self.room and reading.held + count > _LITTLE:
            self._ahead = reading
        self.held += count
        reading.held += count

    async def room_for(self, reading: "Reading", count: int) -> None:
        """Wait until it may be, and has been."""
        turn = asyncio.get_running_loop().create_future()
        place = reading, count, turn
        self._waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            raise


class Reading:
    """One answer, as far as it was read. ``held``: of its bytes."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.held = 0

    def take_at_once(self, count: int) -> bool:
        """Whether there is room for another piece; then it is taken."""
        if not self._memory.may_read(self, count):
            return False
        self._memory.read(self, count)
        return True

    async def take(self, count: int) -> None:
        """Wait for that."""
        if not self.take_at_once(count):
            await self._memory.room_for(self, count)
