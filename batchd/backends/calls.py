"""The requests that are out at one server, so that they can be broken off when it is gone."""

import asyncio
from collections.abc import Awaitable

from batchd.model import Outcome


class Calls:
    """The tasks that wait for an answer."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._broken_off: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def tasks(self) -> frozenset[asyncio.Task[object]]:
        """Those that wait now."""
        return frozenset(self._tasks)

    async def wait_for(self, request: Awaitable[Outcome]) -> Outcome | None:
        """What a request comes to; None if ``abort`` broke it off. Cancellation is raised."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        self._tasks.add(task)
        try:
            return await request
        except asyncio.CancelledError:
            if task not in self._broken_off or task.uncancel():
                raise
            return None
        finally:
            self._tasks.discard(task)
            self._broken_off.discard(task)

    def abort(self) -> None:
        """Break off every request, once."""
        for task in self._tasks - self._broken_off:
            self._broken_off.add(task)
            task.cancel()
