"""The daemon's own look over its storage directory: soon after the start, then now and then.

What is missing or has another size is found at once. What the bytes hold is read slowly, at a rate
that leaves the disk to the work, and never longer at a stretch than the pause that follows: so it
takes at most half of what one thread may take. Each finding is said in the log, in the metric and
on the batch that it concerns.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

from batchd.batches import Batches
from batchd.damage import Damage
from batchd.errors import BatchdError
from batchd.findings import Finding
from batchd.patience import patient
from batchd.spool import Spool
from batchd.store.readonly import DatabaseDamaged, ReadOnly
from batchd.upkeep.examination import Examination
from batchd.upkeep.steps import PIECE, Step, Stepwise

log = logging.getLogger(__name__)

_AT_ONCE = 64  # steps of one hop to a thread


class Covered:
    """What a pass has looked at, and how much of it was damaged."""

    def __init__(self) -> None:
        self.files = 0
        self.lines = 0
        self.bytes = 0
        self.findings = 0

    def add(self, step: Step) -> None:
        self.files += step.files
        self.lines += step.lines
        self.bytes += step.bytes
        self.findings += len(step.findings)


class Scrubber:
    """Looks everything over, one pass after the other."""

    def __init__(  # noqa: PLR0913 - its parts, its pace, and the clock from outside
        self,
        spool: Spool,
        batches: Batches,
        damage: Damage,
        *,
        rate: int,
        every: float,
        orphan_age: float,
        now: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._batches = batches
        self._damage = damage
        self._rate = rate
        self._every = every
        self._orphan_age = orphan_age
        self._now = now

    async def run(self, stop: asyncio.Event) -> None:
        """Make a pass, and another each time the interval is over, until ``stop``."""
        while not stop.is_set():
            try:
                await self.look(stop)
            except DatabaseDamaged as error:
                self._damage.tell(error.finding)
            except (BatchdError, OSError) as error:
                log.warning("scrub_given_up", extra={"reason": str(error)})
            except Exception as error:
                # Damage may come as anything; a look at it must not end what works.
                log.exception("scrub_given_up", extra={"reason": type(error).__name__})
            await _pause(stop, self._every)

    async def look(self, stop: asyncio.Event) -> None:
        """One pass; given up at ``stop``."""
        covered = Covered()
        async with self._opened() as database:
            look = Examination(self._spool, database, now=self._now, orphan_age=self._orphan_age)
            await self._walk(look.surface(), stop, covered)
            if self._rate:
                await self._walk(look.depth(), stop, covered)
        if not stop.is_set():
            log.info("scrubbed", extra=vars(covered))

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncGenerator[ReadOnly]:
        run, stack = self._spool.disk.run, contextlib.ExitStack()
        opening = ReadOnly.opened(self._spool.database)
        database = await run(stack.enter_context, opening)
        try:
            yield database
        finally:
            await run(stack.close)

    async def _walk(self, steps: Stepwise[None], stop: asyncio.Event, covered: Covered) -> None:
        loop, run = asyncio.get_running_loop(), self._spool.disk.run
        try:
            while not stop.is_set():
                begun, before = loop.time(), covered.bytes
                some = await run(_take, steps)
                if not some:
                    return
                for step in some:
                    covered.add(step)
                    for finding in step.findings:
                        await self._say(finding)
                took = loop.time() - begun
                rest = (covered.bytes - before) / self._rate - took if self._rate else 0.0
                await _pause(stop, max(rest, took))
        finally:
            # Broken off, a step may be under way still; its files are closed when it is forgotten.
            with contextlib.suppress(ValueError):
                await run(steps.close)

    async def _say(self, finding: Finding) -> None:
        self._damage.tell(finding)
        if finding.batch is not None:
            with patient("scrubber"):
                await self._batches.add_note(finding.batch, finding.sentence)


def _take(steps: Stepwise[None]) -> list[Step]:
    """The next steps, as many as one hop to a thread is worth; none at the end."""
    taken: list[Step] = []
    size = 0
    for step in steps:
        taken.append(step)
        size += step.bytes
        if size >= PIECE or len(taken) >= _AT_ONCE:
            break
    return taken


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
