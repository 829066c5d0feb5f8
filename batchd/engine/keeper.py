"""Keeps the runs in step with their rows.

Doors commit rows and ring; this looks at the rows. A batch that was validated gets its run, a run
whose row says that it is paused, ``cancelling`` or ``finalizing`` starts nothing more. What is in
flight of one that ends is broken off after the grace; a run whose lines are all done takes its step
to ``finalizing``.
Now and then it also writes into the row how far the ledger is known to be good.
"""

import asyncio
import logging

from batchd.batches import Batches
from batchd.bell import Bell
from batchd.engine.recovery import Recovery
from batchd.engine.runner import Runner
from batchd.engine.runs import CLOSING, Run, Runs, durable
from batchd.model import Control
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
        controls = await self._batches.controls()
        opened = False
        for batch_id, control in controls.items():
            if control.status is not BatchStatus.VALIDATING and batch_id not in self._runs:
                await self._recovery.open(batch_id)
                opened = True
        if opened:  # that may take a while, and what was acknowledged meanwhile counts
            controls = await self._batches.controls()
        for run in self._runs:
            control = controls.get(run.id)
            if control is not None:
                await self._follow_run(run, control)

    async def _follow_run(self, run: Run, control: Control) -> None:
        run.status, run.priority = control.status, control.priority
        if run.status in CLOSING:
            self._close(run)
        elif run.is_drained or (run.input_lost and run.is_quiet):
            moved = await self._batches.advance(run.id, Event.LINES_DONE)
            if moved is not None:
                run.status = moved.status
                self._close(run)
        elif control.is_paused:
            self._runner.dismiss(run)
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
            progress = durable(run.ledger)
            size = progress.output_end + progress.error_end
            if self._checkpoints.get(run.id) != size:
                await self._batches.checkpoint(run.id, progress)
                self._checkpoints[run.id] = size
        self._checkpoints = {run.id: self._checkpoints.get(run.id, 0) for run in self._runs}
