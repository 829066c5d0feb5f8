"""Keeps the runs in step with their rows.

Doors commit rows and ring; this looks at the rows. A batch that was validated gets its run, a run
whose row says ``cancelling`` or ``finalizing`` starts nothing more, what is still in flight after
the grace is broken off, and a run whose lines are all done takes its step to ``finalizing``.
Now and then it also writes into the row how far the ledger is known to be good.
"""

import asyncio
import logging

from batchd.batches import Batches
from batchd.bell import Bell
from batchd.engine.recovery import Recovery
from batchd.engine.runner import Runner
from batchd.engine.runs import CLOSING, Run, Runs
from batchd.model import LineFile, Progress
from batchd.patience import patient
from batchd.states import BatchStatus, Event

log = logging.getLogger(__name__)

_LOOK_AGAIN = 1.0
_CHECKPOINT_EVERY = 5.0


class Keeper:
    """Follows the rows. Owns the path of a run from validated to handed over to the finalizer."""

    def __init__(  # noqa: PLR0913 - it stands between these parts
        self,
        batches: Batches,
        runs: Runs,
        recovery: Recovery,
        runner: Runner,
        *,
        bell: Bell,
        finalizer_bell: Bell,
        grace: float,
    ) -> None:
        self._batches = batches
        self._runs = runs
        self._recovery = recovery
        self._runner = runner
        self._bell = bell
        self._finalizer_bell = finalizer_bell
        self._grace = grace
        self._checkpoints: dict[str, int] = {}
        self._checkpoint_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the rows until ``stop``."""
        while not stop.is_set():
            with patient("keeper"):
                await self.follow()
                await self._checkpoint()
            await self._bell.wait(at_most=_LOOK_AGAIN)

    async def follow(self) -> None:
        """Look at the rows once."""
        statuses = await self._batches.statuses()
        for batch_id, status in statuses.items():
            if status is not BatchStatus.VALIDATING and batch_id not in self._runs:
                await self._recovery.open(batch_id)
        for run in self._runs:
            status = statuses.get(run.id)
            if status is not None:
                await self._follow_run(run, status)

    async def _follow_run(self, run: Run, status: BatchStatus) -> None:
        run.status = status
        if status in CLOSING:
            self._close(run)
        elif run.is_drained or (run.input_lost and run.is_quiet):
            moved = await self._batches.advance(run.id, Event.LINES_DONE)
            if moved is not None:
                run.status = moved.status
                self._close(run)
        else:
            self._runner.admit(run)

    def _close(self, run: Run) -> None:
        """Start nothing more; break off what is in flight once the grace is over."""
        now = asyncio.get_running_loop().time()
        self._runner.dismiss(run)
        if run.closing_since is None:
            run.closing_since = now
        if now - run.closing_since >= self._grace:
            for attempt in list(run.attempts):
                attempt.cancel()
        if run.is_quiet:
            self._finalizer_bell.ring()

    async def _checkpoint(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._checkpoint_at < _CHECKPOINT_EVERY:
            return
        self._checkpoint_at = now
        for run in self._runs:
            ends = (run.ledger.end(LineFile.OUTPUT), run.ledger.end(LineFile.ERROR))
            if self._checkpoints.get(run.id) != sum(ends):
                await self._batches.checkpoint(
                    run.id,
                    Progress(run.ledger.counts, run.ledger.usage),
                    output_end=ends[0],
                    error_end=ends[1],
                )
                self._checkpoints[run.id] = sum(ends)
        self._checkpoints = {run.id: self._checkpoints.get(run.id, 0) for run in self._runs}
