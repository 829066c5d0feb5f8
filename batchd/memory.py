"""How many bytes of requests and answers are in memory, against the most there may be.

Requests are read as far as there is room. An answer comes whether there is room or not: it is
counted piece by piece, and while there is no room it is not read on; what is missing waits in the
socket, and at its server. One at a time may go on all the same, or none might ever be whole. So
memory holds what was allowed, one answer, and a piece of each of the others. Lives on the loop.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from functools import partial

TakePiece = Callable[[int], Awaitable[None]]


class _Reading:
    """One answer, as far as it was read."""

    def __init__(self) -> None:
        self.held = 0


class Memory:
    """``held`` bytes of ``size``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self._ahead: _Reading | None = None  # the one that needs no room
        self._waiting: deque[tuple[_Reading, int, asyncio.Future[None]]] = deque()

    @property
    def room(self) -> int:
        """What is left of it; less than nothing while an answer is read without room."""
        return self.size - self.held

    def take(self, count: int) -> None:
        """So many bytes are there, and room for them was asked for or does not matter."""
        self.held += count

    def give(self, count: int) -> None:
        """So many are there no more."""
        self.held -= count
        while self._waiting:
            reading, wanted, turn = self._waiting[0]
            if not self._may_take(reading, wanted):
                return
            self._waiting.popleft()
            self._taken(reading, wanted)
            turn.set_result(None)

    @contextlib.contextmanager
    def reading(self) -> Generator[TakePiece]:
        """An answer is being read: what is yielded waits until there is room for another piece.

        On the way out it is held no more: whoever keeps it takes it anew.
        """
        reading = _Reading()
        try:
            yield partial(self._take_piece, reading)
        finally:
            if self._ahead is reading:
                self._ahead = None
            self.give(reading.held)

    async def _take_piece(self, reading: _Reading, count: int) -> None:
        if self._may_take(reading, count):
            self._taken(reading, count)
            return
        turn = asyncio.get_running_loop().create_future()
        place = reading, count, turn
        self._waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            raise

    def _may_take(self, reading: _Reading, count: int) -> bool:
        return count <= self.room or self._ahead in {None, reading}

    def _taken(self, reading: _Reading, count: int) -> None:
        if count > self.room:
            self._ahead = reading
        self.held += count
        reading.held += count
