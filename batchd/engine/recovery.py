"""From rows and ledger files to runs: the same at every start and after every validation.

Nothing here is only for crashes. Opening a run reads its two result files back (``ledger.recover``
says what each state on disk becomes); for a batch that was just validated there are none yet.
"""

import logging

from batchd import ids
from batchd.batches import Batches
from batchd.disk import Disk
from batchd.engine.runs import Run, Runs
from batchd.errors import SpoolError
from batchd.ledger import Bitmap, Ledger, Tally, recover
from batchd.model import BatchRecord, LineFile
from batchd.spool import Spool
from batchd.states import UNFINISHED
from batchd.writer import LedgerFile, Writer

log = logging.getLogger(__name__)

_DAMAGED = (
    "the {name} file was damaged: every line that verified was kept, the others run again; the "
    "damaged file stays beside it in the spool as {file_id}.damaged"
)


class Recovery:
    """Opens runs."""

    def __init__(self, spool: Spool, batches: Batches, runs: Runs, writer: Writer) -> None:
        self._spool = spool
        self._batches = batches
        self._runs = runs
        self._writer = writer

    async def recover_all(self) -> None:
        """Open a run for every batch that was validated and is not terminal."""
        disk = self._spool.disk
        distrust = await disk.run(self._spool.is_distrusted)
        for record in await self._batches.unfinished():
            if record.was_validated:
                await self._open(record, distrust=distrust)
        if distrust:
            await disk.run(self._spool.trust_again)

    async def open(self, batch_id: str) -> None:
        """Open the run of one batch, if it is to run and does not yet."""
        record = await self._batches.find(batch_id)
        if record is None or record.status not in UNFINISHED or not record.was_validated:
            return
        if batch_id not in self._runs:
            await self._open(record, distrust=False)

    async def _open(self, record: BatchRecord, *, distrust: bool) -> None:
        work = _Reading(self._spool, self._spool.disk, record, distrust=distrust)
        damaged = await self._spool.disk.run(work.read)
        for which, file_id in damaged:
            log.error("ledger_damaged", extra={"batch": record.id, "file": file_id})
            await self._batches.add_note(
                record.id, _DAMAGED.format(name=which.value, file_id=file_id)
            )
        ledger = Ledger(self._writer, work.files, work.done, work.tally)
        run = Run(record, work.tag, ledger)
        self._runs.add(run)
        if work.tally.lines:
            log.info(
                "batch_recovered",
                extra={"batch": record.id, "done": work.tally.lines, "total": ledger.total},
            )


class _Reading:
    """The blocking part of opening a run."""

    def __init__(self, spool: Spool, disk: Disk, record: BatchRecord, *, distrust: bool) -> None:
        self._spool = spool
        self._disk = disk
        self._record = record
        self._distrust = distrust
        self.tag = ids.batch_tag(record.id)
        self.done = Bitmap(record.counts.total)
        self.tally = Tally()
        self.files: dict[LineFile, LedgerFile] = {}

    def read(self) -> list[tuple[LineFile, str]]:
        """Read both files back; which of them were damaged."""
        damaged: list[tuple[LineFile, str]] = []
        record = self._record
        for which, file_id, known_end in (
            (LineFile.OUTPUT, record.output_file_id, record.output_end),
            (LineFile.ERROR, record.error_file_id, record.error_end),
        ):
            if file_id is None:
                raise SpoolError(f"unfinished batch {record.id} has lost its {which} file's id")
            found = recover(
                self._disk,
                self._spool.file(file_id),
                which,
                tag=self.tag,
                known_end=known_end,
                distrust=self._distrust,
                done=self.done,
                tally=self.tally,
            )
            self.files[which] = LedgerFile(self._spool.file(file_id), found.end)
            if found.damaged:
                damaged.append((which, file_id))
        return damaged
