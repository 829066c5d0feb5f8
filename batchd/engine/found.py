"""Keeps in SQLite how many requests in flight each lane was found to take: for the next life."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from batchd.patience import patient
from batchd.store import limits as table
from batchd.store.database import Database

_EVERY = 30.0


class FoundLimits:
    """``found`` tells what measuring has come to by now."""

    def __init__(
        self,
        database: Database,
        found: Callable[[], Mapping[table.LaneName, int]],
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._found = found
        self._now = now
        self._kept: Mapping[table.LaneName, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Write down what is new every half minute, and once more at ``stop``."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await stop.wait()
            with patient("limits"):
                await self.keep()

    async def keep(self) -> None:
        """Write down what is new."""
        found = dict(self._found())
        new = {lane: limit for lane, limit in found.items() if self._kept.get(lane) != limit}
        if new:
            await self._database.write(lambda tx: table.put(tx, new, int(self._now())))
            self._kept = {**self._kept, **new}
