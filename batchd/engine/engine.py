"""The engine put together: its parts, what wakes them, and the loops they run."""

import asyncio
from collections.abc import Callable

from batchd.backends.pool import Pool
from batchd.batches import Batches
from batchd.bell import Bell, Bells
from batchd.config import BatchesConfig, Config, RetriesConfig
from batchd.damage import Damage
from batchd.engine.finalizer import Finalizer
from batchd.engine.inputs import Inputs
from batchd.engine.keeper import Keeper
from batchd.engine.orders import Orders
from batchd.engine.recovery import Recovery
from batchd.engine.runner import Runner
from batchd.engine.runs import Runs
from batchd.engine.scheduler import Scheduler
from batchd.engine.troubles import Troubles
from batchd.engine.validator import Validator
from batchd.files import Files
from batchd.memory import Memory
from batchd.metrics import Metrics
from batchd.retry import Policy
from batchd.room import Room
from batchd.spool import Spool
from batchd.writer import Writer


class EngineBells(Bells):
    """One bell for each loop of the engine; whoever changes a row rings them all."""

    def __init__(self) -> None:
        self.validator, self.keeper, self.finalizer = Bell(), Bell(), Bell()
        super().__init__([self.validator, self.keeper, self.finalizer])


class Engine:
    """Moves batches on. ``recover`` first, then ``start``."""

    def __init__(  # noqa: PLR0913 - what it works on and with
        self,
        config: Config,
        bells: EngineBells,
        *,
        files: Files,
        batches: Batches,
        spool: Spool,
        room: Room,
        writer: Writer,
        pool: Pool,
        memory: Memory,
        metrics: Metrics,
        damage: Damage,
        now: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        runs, inputs = Runs(batches.live, pool.note), Inputs(spool)
        batches.live.ask_for_troubles(Troubles(runs, inputs, spool.disk).of)
        self._pool = pool
        self._recovery = Recovery(
            spool,
            batches,
            runs,
            writer,
            metrics,
            damage,
            Orders(spool, config.batches.order).open,
        )
        self._validator = Validator(
            batches, files, spool, room, pool, config.batches, bells.validator
        )
        self._runner = Runner(
            runs,
            _scheduler(pool, config.batches, now),
            writer,
            spool.disk,
            inputs,
            _policy(config.retries),
            memory=memory,
            drain=config.server.drain,
            draw=draw,
            drained=bells.keeper.ring,
        )
        pool.listen(self._runner.ring)
        self._keeper = Keeper(
            batches,
            runs,
            self._recovery,
            self._runner,
            bell=bells.keeper,
            finalizer_bell=bells.finalizer,
            grace=config.batches.finish_grace,
        )
        self._finalizer = Finalizer(batches, runs, spool, inputs, bells.finalizer)

    async def recover(self) -> None:
        """Read the ledgers of unfinished batches back; only then may clients see counts."""
        await self._recovery.recover_all()

    def start(self, loops: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Run until ``stop``, and through the drain."""
        loops.create_task(self._pool.watch(stop), name="pool")
        loops.create_task(self._validator.run(stop), name="validator")
        loops.create_task(self._runner.run(stop), name="runner")
        loops.create_task(self._keeper.run(stop), name="keeper")
        loops.create_task(self._finalizer.run(stop), name="finalizer")


def _scheduler(pool: Pool, config: BatchesConfig, now: Callable[[], float]) -> Scheduler:
    return Scheduler(
        pool,
        wall_clock=now,
        max_running=config.max_running,
        max_running_per_owner=config.max_running_per_owner,
    )


def _policy(config: RetriesConfig) -> Policy:
    return Policy(
        config.fault_limit,
        config.first_delay,
        config.max_delay,
        config.refused_pause,
        config.quota_pause,
    )
