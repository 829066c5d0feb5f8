"""Looks at counts as clients do, and at ledgers as nobody else can, while a life goes on."""

from batchd.wire.objects import BatchObject
from tests.simulation.core import Core
from tests.simulation.loop import hop
from tests.simulation.seen import CLOSING, Batch
from tests.simulation.world import World

_CLOSELY = 0.001  # seconds
_LESS_CLOSELY = 1.5  # times as many, each time


class Watch:
    """Looks now and then, and whenever receipts have arrived."""

    def __init__(self, world: World, core: Core) -> None:
        self._world = world
        self._core = core
        world.loop.arrived = self.glance

    async def watch(self) -> None:
        chance = self._world.chance
        while True:
            await hop(chance.uniform(0.1, 1.0))
            batches = list(self._world.seen.by_id.values())
            if batches:
                await self._get(chance.choice(batches))
            self.look_closely()

    async def watch_endings(self) -> None:
        """Look closely at batches that are about to end: they do it within milliseconds."""
        seen = self._world.seen
        while True:
            await seen.closing.wait()
            seen.closing.clear()
            interval = _CLOSELY
            while closing := [batch for batch in seen.unfinished if batch.status in CLOSING]:
                for batch in closing:
                    await self._get(batch)
                await hop(interval)
                interval *= _LESS_CLOSELY

    async def _get(self, batch: Batch) -> None:
        """As the API answers. What others are told meanwhile does not bind."""
        before = batch.shown
        record = await self._core.batches.find(batch.id)
        if record is not None:
            shown = BatchObject.of(record, self._core.batches.progress(record))
            counts, tokens = shown.request_counts, shown.usage.total_tokens
            numbers = (counts.total, counts.completed, counts.failed, tokens)
            self._world.checks.shown(batch, numbers, before)

    def glance(self) -> None:
        """Nothing counts that is not on disk, and not too much is under way."""
        checks, core = self._world.checks, self._core
        checks.unsettled(sum(run.unsettled for run in core.runs))
        for batch in self._world.seen.unfinished:
            progress = core.batches.live.of(batch.id)
            if progress is not None:
                checks.progress(batch, progress)

    def look_closely(self) -> None:
        """Every line that a ledger takes for done is on disk."""
        for batch in self._world.seen.by_id.values():
            run = self._core.runs.get(batch.id)
            if run is not None:
                self._world.checks.ledger(batch, run.ledger)
        self.glance()
