"""Brings a batch that sends nothing more to its end.

Drained → error lines for whatever never ran → synced → the one transaction. A crash before the
transaction leaves a batch that is ``finalizing`` or ``cancelling`` and is finalized again from
what its ledger then holds; after it, at worst an empty result file, an input hold and an index
that nobody needs, which the sweeper removes.

``output lines + error lines == total`` is checked, never assumed: if it fails the batch stays
where it is, and the log and its notes say so.
"""

import asyncio
import logging

from batchd.batches import Batches
from batchd.bell import Bell
from batchd.closing import Closing
from batchd.engine.inputs import InputLost, Inputs
from batchd.engine.runs import CLOSING, Run, Runs
from batchd.model import BatchRecord, LineFile
from batchd.patience import patient
from batchd.spool import Spool
from batchd.states import BatchStatus, Event
from batchd.wire.lines import CANCELLED, EXPIRED, INPUT_LOST, custom_id, never_run_line

log = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0
_FILL_LINES = 512
_LEAVE_AFTER = 5.0  # seconds; a full disk may keep an ending from ending

_UNREADABLE = "the input could not be read to the end; lines that did not run ended as server_error"
_MISCOUNT = "result lines and request lines do not add up ({found} of {total}); see the log"


class Finalizer:
    """Finalizes every batch that is closing and quiet, several at once."""

    def __init__(
        self, batches: Batches, runs: Runs, spool: Spool, inputs: Inputs, bell: Bell
    ) -> None:
        self._batches = batches
        self._runs = runs
        self._spool = spool
        self._inputs = inputs
        self._bell = bell

    async def run(self, stop: asyncio.Event) -> None:
        """Finalize until ``stop``; what has begun is finished, if it can be."""
        open_endings: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as endings:
            while not stop.is_set():
                with patient("finalizer"):
                    await self._end_never_started()
                for run in self._runs:
                    if run.status in CLOSING and run.is_quiet and not run.is_ending:
                        run.is_ending = True
                        ending = endings.create_task(self.end(run), name=f"finalize-{run.id}")
                        open_endings.add(ending)
                        ending.add_done_callback(open_endings.discard)
                await self._bell.wait(at_most=_LOOK_AGAIN)
            if open_endings:
                _, late = await asyncio.wait(open_endings, timeout=_LEAVE_AFTER)
                for ending in late:  # the next start does it again from what is on disk
                    ending.cancel()

    async def _end_never_started(self) -> None:
        """Cancelled before it was validated: no lines, no files."""
        for batch_id, control in (await self._batches.controls()).items():
            if control.status is BatchStatus.CANCELLING and batch_id not in self._runs:
                record = await self._batches.find(batch_id)
                if record is not None and not record.was_validated:
                    ended = await self._batches.never_started(batch_id, Event.PUBLISHED)
                    _log_end(ended)

    async def end(self, run: Run) -> None:
        """Fill in, check, commit, let go. What could not be done now is tried again."""
        ended = False
        try:
            with patient("finalizer"):
                ended = await self._end(run)
        except OSError as error:
            log.warning("input_not_read", extra={"batch": run.id, "reason": str(error)})
        run.is_ending = ended

    async def _end(self, run: Run) -> bool:
        """Whether the run needs nothing more from here."""
        record = await self._batches.find(run.id)
        if record is None or record.status not in CLOSING:
            return False
        await self._fill(run, record)
        ledger = run.ledger
        found = ledger.counts.completed + ledger.counts.failed + ledger.never_run
        if found != ledger.total or ledger.missing:
            log.error(
                "batch_miscounted", extra={"batch": run.id, "found": found, "total": ledger.total}
            )
            await self._batches.add_note(run.id, _MISCOUNT.format(found=found, total=ledger.total))
            return True
        closing = Closing(
            counts=ledger.counts,
            usage=ledger.usage,
            output_bytes=ledger.end(LineFile.OUTPUT),
            error_bytes=ledger.end(LineFile.ERROR),
        )
        ended = await self._batches.finished(run.id, _event(record, ledger.never_run), closing)
        if ended is None:
            self._bell.ring()  # cancelled in between: once more, from its new status
            return False
        await self._let_go(run, record, ended)
        return True

    async def _let_go(self, run: Run, record: BatchRecord, ended: BatchRecord) -> None:
        self._runs.remove(run)
        _log_end(ended)
        await self._spool.disk.run(self._remove_rest, record, ended)

    def _remove_rest(self, record: BatchRecord, ended: BatchRecord) -> None:
        for before, after in (
            (record.output_file_id, ended.output_file_id),
            (record.error_file_id, ended.error_file_id),
        ):
            if before is not None and after is None:
                self._spool.discard(before)
        self._inputs.forget(record.id)
        self._spool.release(record.id)

    async def _fill(self, run: Run, record: BatchRecord) -> None:
        """Write an error line for every line without a result."""
        if not run.ledger.missing:
            return
        error = _never_run_error(record)
        if error is INPUT_LOST:
            await self._batches.add_note(run.id, _UNREADABLE)
        index = run.ledger.next_missing(0)
        while index is not None:
            group: list[int] = []
            while index is not None and len(group) < _FILL_LINES:
                group.append(index)
                index = run.ledger.next_missing(index + 1)
            work = self._spool.disk.run(self._never_run_lines, run, group, error)
            await run.ledger.append_never_run(await work, failed=error is INPUT_LOST)

    def _never_run_lines(self, run: Run, group: list[int], error: bytes) -> list[tuple[int, bytes]]:
        return [
            (index, never_run_line(run.tag, index, self._name(run, index), error))
            for index in group
        ]

    def _name(self, run: Run, index: int) -> str:
        """A line's ``custom_id``; empty if the input is lost, for then nobody knows it."""
        try:
            return custom_id(self._inputs.read(run.id, index))
        except (InputLost, ValueError):
            return ""


def _window_closed(record: BatchRecord) -> bool:
    return record.finalizing_at is not None and record.finalizing_at >= record.expires_at


def _never_run_error(record: BatchRecord) -> bytes:
    if record.status is BatchStatus.CANCELLING:
        return CANCELLED
    return EXPIRED if _window_closed(record) else INPUT_LOST


def _event(record: BatchRecord, never_run: int) -> Event:
    if record.status is BatchStatus.FINALIZING and never_run and _window_closed(record):
        return Event.PUBLISHED_LATE
    return Event.PUBLISHED


def _log_end(record: BatchRecord | None) -> None:
    if record is not None:
        log.info(
            "batch_finished",
            extra={
                "batch": record.id,
                "status": record.status.value,
                "total": record.counts.total,
                "completed": record.counts.completed,
                "failed": record.counts.failed,
            },
        )
