"""batchd's ``Writer`` with a task of the virtual loop in the place of its thread.

Everything that is written, and in which order, is batchd's; only the waiting is of this module.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable

from batchd.disk import Disk
from batchd.metrics import Metrics
from batchd.room import Room
from batchd.writer import Appender, Entry, Writer
from tests.simulation.loop import hop

_FULL_RETRY = 0.5
_LOOK = 0.05  # seconds between two looks at whether the daemon stops


class _Notice(threading.Condition):
    """Wakes the task that stands for the thread."""

    def __init__(self) -> None:
        super().__init__()
        self.given = asyncio.Event()

    def notify(self, n: int = 1) -> None:  # noqa: ARG002 - there is one
        self.given.set()


class SimWriter(Writer):
    """``latency`` is drawn before each group is taken and before it is written."""

    def __init__(
        self,
        disk: Disk,
        room: Room,
        metrics: Metrics,
        on_fatal: Callable[[str], None],
        latency: Callable[[], float],
    ) -> None:
        super().__init__(disk, room, metrics, on_fatal)
        self._more = self._notice = _Notice()
        self._latency = latency

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[Writer]:
        self._loop = asyncio.get_running_loop()
        thread = self._loop.create_task(self._write(), name="ledger-writer")
        try:
            yield self
        finally:
            self._stopping = True
            self._notice.notify()
            await thread
            # That the thread has ended is heard after everything that it said.
            joined = self._loop.create_future()
            self._loop.call_soon_threadsafe(joined.set_result, None)
            await joined

    async def _write(self) -> None:
        appender = Appender(self._disk, 1)
        try:
            while group := await self._next_group(appender):
                while not self.commit(appender, group):
                    if not await self._until_room():
                        return
        except Exception as error:  # noqa: BLE001 - as in the thread
            self.give_up(error)
        finally:
            appender.close()

    async def _next_group(self, appender: Appender) -> list[Entry]:
        while not (group := self.take(appender)) and not self._stopping:
            await self._notice.given.wait()
            self._notice.given.clear()
        if group:
            await hop(self._latency())
        return group

    async def _until_room(self) -> bool:
        until = asyncio.get_running_loop().time() + _FULL_RETRY
        while not self._stopping:
            await hop(_LOOK)
            if asyncio.get_running_loop().time() >= until:
                if self.has_room():
                    return True
                until += _FULL_RETRY
        return False
