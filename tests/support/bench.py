"""A runner on real parts, with a fake backend, and what a test wants to see of it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

from batchd.backends.caller import Caller
from batchd.config import BackendConfig
from batchd.engine.inputs import Inputs
from batchd.engine.orders import Orders
from batchd.engine.recovery import Recovery
from batchd.engine.runner import Runner
from batchd.engine.runs import Run, Runs
from batchd.engine.scheduler import Scheduler
from batchd.memory import Memory
from batchd.retry import Policy
from tests.support.fakes import FakeCaller, config_of, pool_of
from tests.support.parts import Parts
from tests.support.waiting import until


class Bench:
    """A runner with its runs, on a pool of one backend unless more are given."""

    def __init__(
        self,
        parts: Parts,
        server: FakeCaller | None = None,
        *,
        configs: Sequence[BackendConfig] = (config_of(),),
        servers: Mapping[str, Caller] | None = None,
        **bounds: float,
    ) -> None:
        self.parts = parts
        self.server = server or FakeCaller()
        self.configs = configs
        self.pool = pool = pool_of(servers or {"backend": self.server})
        self.runs = Runs(parts.batches.live, pool.note)
        self.inputs = Inputs(parts.spool)
        self.recovery = Recovery(
            parts.spool,
            parts.batches,
            self.runs,
            parts.writer,
            parts.metrics,
            parts.damage,
            Orders(parts.spool, "prefix").open,
        )
        self.drained = 0
        self.scheduler = Scheduler(
            pool,
            wall_clock=parts.clock,
            max_running=int(bounds.get("max_running", 0)),
            max_running_per_owner=int(bounds.get("max_running_per_owner", 0)),
        )
        self.memory = Memory(int(bounds.get("memory", 1 << 20)))
        self.runner = Runner(
            self.runs,
            self.scheduler,
            parts.writer,
            parts.spool.disk,
            self.inputs,
            Policy(fault_limit=3, first_delay=0.002),
            memory=self.memory,
            drain=bounds.get("drain", 5),
            draw=lambda: 0.0,
            drained=self._note_drained,
        )
        pool.listen(self.runner.ring)

    @property
    def in_flight(self) -> int:
        return self.pool.in_flight

    async def open(self) -> None:
        """Open the pool."""
        if not self.pool.backends:
            await self.pool.replace(self.configs)

    def _note_drained(self) -> None:
        self.drained += 1

    async def add(self, data: bytes) -> Run:
        await self.open()
        record = await self.parts.running(data)
        await self.recovery.open(record.id)
        return self.run_of(record.id)

    def run_of(self, batch_id: str) -> Run:
        run = self.runs.get(batch_id)
        assert run is not None
        return run

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """The runner runs inside; leaving drains it."""
        await self.open()
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.runner.run(stop), name="runner")
            try:
                yield
            finally:
                stop.set()

    async def work_off(self, *runs: Run) -> None:
        for run in runs:
            self.runner.admit(run)
        async with self.running():
            await until(lambda: all(run.is_drained for run in runs))
            await until(lambda: all(run.is_quiet for run in runs))

    async def results(self, run: Run) -> tuple[dict[str, object], dict[str, object]]:
        """Output and error file, by custom_id."""
        row = await self.parts.row(run.id)
        output = self.parts.results(row.output_file_id)
        error = self.parts.results(row.error_file_id)
        names = [line["custom_id"] for line in output + error]
        assert len(names) == len(set(names))
        return (
            {str(line["custom_id"]): line["response"] for line in output},
            {str(line["custom_id"]): line["error"] or line["response"] for line in error},
        )
