"""One pass now and then that removes what has expired and what is orphaned.

Expired: files past ``expires_at``, and batches whose window has ended (they are told so; what
follows is the engine's). Orphans: bytes that no row and no unfinished batch names, old enough to be
nobody's. The clock on the wall may jump: after a jump, and after a start that finds something
expired, nothing expires until the clock has been steady for ``sweep_every``.
"""

import asyncio
import logging
from collections.abc import Callable

from batchd.batches import Batches
from batchd.bell import Bell
from batchd.files import Files
from batchd.patience import patient
from batchd.spool import Spool
from batchd.states import BatchStatus, Event

log = logging.getLogger(__name__)

_JUMP = 60.0  # seconds by which the wall clock may differ from the monotonic one between two looks


class Sweeper:
    """Sweeps on a timer, and looks at the windows' ends when they are due."""

    def __init__(  # noqa: PLR0913 - its parts, its times, and the clock from outside
        self,
        batches: Batches,
        files: Files,
        spool: Spool,
        bell: Bell,
        *,
        sweep_every: float,
        orphan_age: float,
        now: Callable[[], float],
    ) -> None:
        self._batches = batches
        self._files = files
        self._spool = spool
        self._bell = bell
        self._sweep_every = sweep_every
        self._orphan_age = orphan_age
        self._now = now
        self._last: tuple[float, float] | None = None
        self._next_sweep = 0.0
        self._trusted_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Look and sweep until ``stop``."""
        while not stop.is_set():
            next_end = self._sweep_every
            with patient("sweeper"):
                next_end = await self.look()
            await self._bell.wait(at_most=min(self._sweep_every, max(next_end, 0.05)))

    async def look(self) -> float:
        """Close the windows that have ended, sweep if it is time; seconds to the next such end."""
        monotonic = asyncio.get_running_loop().time()
        is_first = self._last is None
        self._note_jump(monotonic)
        if is_first and (await self._batches.overdue() or await self._files.has_expired()):
            # We were down when its time was over, or start with a clock that is not set yet.
            log.warning("overdue_at_start", extra={"seconds": round(self._sweep_every)})
            self._trusted_at = monotonic + self._sweep_every
        if monotonic < self._trusted_at:
            return self._trusted_at - monotonic
        await self._close_windows()
        if monotonic >= self._next_sweep:
            self._next_sweep = monotonic + self._sweep_every
            await self.sweep()
        next_end = await self._batches.next_window_end()
        return self._sweep_every if next_end is None else next_end - self._now()

    def _note_jump(self, monotonic: float) -> None:
        """After a jump the clock is believed only when it has been steady for a while."""
        now = self._now()
        last, self._last = self._last or (now, monotonic), (now, monotonic)
        jump = (now - last[0]) - (monotonic - last[1])
        if abs(jump) > _JUMP:
            log.warning("clock_jumped", extra={"seconds": round(jump)})
            self._trusted_at = monotonic + self._sweep_every

    async def _close_windows(self) -> None:
        for batch in await self._batches.overdue():
            if batch.status is BatchStatus.VALIDATING:
                moved = await self._batches.never_started(batch.id, Event.WINDOW_CLOSED)
            else:
                moved = await self._batches.advance(batch.id, Event.WINDOW_CLOSED)
            if moved is not None:
                log.info("window_closed", extra={"batch": batch.id})

    async def sweep(self) -> None:
        """Remove expired files and orphans."""
        expired = await self._files.remove_expired()
        orphans = await self._remove_orphans()
        if expired or orphans:
            log.info("swept", extra={"expired_files": expired, "orphans": orphans})

    async def _remove_orphans(self) -> int:
        disk = self._spool.disk
        before = self._now() - self._orphan_age
        incoming, files, batches = await disk.run(self._spool.strays, before)
        removed = len(incoming)
        for path in incoming:
            await disk.run(disk.remove, path)
        # What is damaged is the operator's to look at and to remove.
        swept = [name for name in files if not name.endswith(".damaged")]
        async for name in self._files.orphans(swept):
            removed += await disk.run(self._spool.discard, name)
        unfinished = await self._batches.controls() if batches else {}
        for batch_id in batches:
            if batch_id not in unfinished:
                removed += await disk.run(self._spool.release, batch_id)
        return removed
