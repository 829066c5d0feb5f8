"""A runner on real parts, with a fake backend, and what a test wants to see of it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from batchd.engine.inputs import Inputs
from batchd.engine.recovery import Recovery
from batchd.engine.runner import Runner
from batchd.engine.runs import Run, Runs
from batchd.retry import Policy
from tests.support.fakes import FakeBackend
from tests.support.parts import Parts
from tests.support.waiting import until


class Bench:
    """A runner with its runs."""

    def __init__(self, parts: Parts, backend: FakeBackend, **bounds: float) -> None:
        self.parts = parts
        self.backend = backend
        self.runs = Runs(parts.batches.live)
        self.inputs = Inputs(parts.spool)
        self.recovery = Recovery(
            parts.spool, parts.batches, self.runs, parts.writer, parts.metrics, parts.damage
        )
        self.drained = 0
        self.runner = Runner(
            self.runs,
            backend,
            parts.writer,
            parts.spool.disk,
            self.inputs,
            Policy(fault_limit=3, first_delay=0.002),
            memory=int(bounds.get("memory", 1 << 20)),
            drain=bounds.get("drain", 5),
            draw=lambda: 0.0,
            drained=self._note_drained,
        )

    def _note_drained(self) -> None:
        self.drained += 1

    async def add(self, data: bytes) -> Run:
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
