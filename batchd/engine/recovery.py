"""From rows and ledger files to runs: the same at every start and after every validation.

Nothing here is only for crashes. Opening a run reads its two result files back (``ledger.recover``
says what each state on disk becomes); for a batch that was just validated there are none yet.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from batchd import ids
from batchd.attempts import Attempts, open_attempts
from batchd.batches import Batches
from batchd.damage import Damage
from batchd.disk import Disk, is_full
from batchd.engine.orders import OpensOrder
from batchd.engine.runs import Run, Runs, durable
from batchd.errors import NoRoom, SpoolError
from batchd.findings import DamageKind, Finding
from batchd.ledger import Bitmap, Ledger, Tally, recover
from batchd.metrics import Metrics
from batchd.model import BatchRecord, LineFile
from batchd.retry import LineState
from batchd.spool import Spool
from batchd.states import UNFINISHED
from batchd.writer import LedgerFile, Writer

if TYPE_CHECKING:
    from batchd.grouping import LineOrder

log = logging.getLogger(__name__)

T = TypeVar("T")

_ROOM_AGAIN = 1.0  # seconds
_NOTES = {
    DamageKind.LEDGER_DAMAGED: (
        "the {name} file was damaged: every line that verified was kept, the others run again; the "
        "damaged file stays beside it in the spool as {file}.damaged"
    ),
    DamageKind.LEDGER_SHORT: (
        "the {name} file was shorter than it had been: every line that verified was kept, the "
        "others run again"
    ),
    DamageKind.LEDGER_MISSING: "the {name} file was gone: its lines run again",
}


class Recovery:
    """Opens runs."""

    def __init__(  # noqa: PLR0913, PLR0917 - its parts
        self,
        spool: Spool,
        batches: Batches,
        runs: Runs,
        writer: Writer,
        metrics: Metrics,
        damage: Damage,
        open_order: OpensOrder,
    ) -> None:
        self._spool = spool
        self._batches = batches
        self._runs = runs
        self._writer = writer
        self._metrics = metrics
        self._damage = damage
        self._open_order = open_order

    async def recover_all(self) -> None:
        """Open a run for every batch that was validated and is not terminal."""
        disk, began = self._spool.disk, asyncio.get_running_loop().time()
        distrust = await disk.run(self._spool.is_distrusted)
        for record in await self._batches.unfinished():
            if record.was_validated:
                await self._open(record, distrust=distrust)
        if distrust:
            self._damage.tell(Finding(kind=DamageKind.SYNC_FAILED, path="sync-failed"))
            await disk.run(self._spool.trust_again)
        ledgers = [run.ledger for run in self._runs]
        if ledgers:
            log.info(
                "ledgers_read",
                extra={
                    "batches": len(ledgers),
                    "lines": sum(ledger.total - ledger.missing for ledger in ledgers),
                    "bytes": sum(ledger.end(which) for ledger in ledgers for which in LineFile),
                    "seconds": round(asyncio.get_running_loop().time() - began, 3),
                },
            )

    async def open(self, batch_id: str) -> None:
        """Open the run of one batch, if it is to run and does not yet."""
        record = await self._batches.find(batch_id)
        if record is None or record.status not in UNFINISHED or not record.was_validated:
            return
        if batch_id not in self._runs:
            await self._open(record, distrust=False)

    async def _open(self, record: BatchRecord, *, distrust: bool) -> None:
        work, damaged = await _when_there_is_room(lambda: self._read(record, distrust=distrust))
        ledger = Ledger(self._writer, work.files, work.done, work.tally, self._metrics)
        if damaged:
            await _when_there_is_room(lambda: self._say(record, ledger, damaged))
        attempts = Attempts(self._writer, work.attempts, work.tag)
        run = Run(record, work.tag, ledger, work.order, attempts)
        run.remember(work.states)
        self._runs.add(run)
        if work.tally.lines:
            log.info(
                "batch_recovered",
                extra={"batch": record.id, "done": work.tally.lines, "total": ledger.total},
            )

    async def _read(
        self, record: BatchRecord, *, distrust: bool
    ) -> "tuple[_Reading, dict[LineFile, Finding]]":
        """A disk that fails here ends the process; the next start must know that it did."""
        disk = self._spool.disk
        work = _Reading(self._spool, disk, record, self._open_order, distrust=distrust)
        try:
            return work, await disk.run(work.read)
        except OSError as error:
            if not is_full(error):
                # Perhaps a sync: the page cache shows then what the disk will never have.
                with contextlib.suppress(OSError):
                    await disk.run(self._spool.distrust)
            raise

    async def _say(
        self, record: BatchRecord, ledger: Ledger, damaged: dict[LineFile, Finding]
    ) -> None:
        """Say what was mended; the row must know the new ends, or the next start says it again."""
        for finding in damaged.values():
            self._damage.tell(finding)
        await self._batches.checkpoint(
            record.id,
            durable(ledger),
            notes=[
                _NOTES[finding.kind].format(name=which.value, file=finding.file)
                for which, finding in damaged.items()
            ],
        )


async def _when_there_is_room(step: Callable[[], Awaitable[T]]) -> T:
    """Mending copies: a full disk is a pause at a start, too."""
    is_told = False
    while True:
        try:
            return await step()
        except (NoRoom, OSError) as error:
            if isinstance(error, OSError) and not is_full(error):
                raise
            if not is_told:
                log.error("disk_full", extra={"waiting": "recovery"})  # noqa: TRY400 - no fault of the program
            is_told = True
        await asyncio.sleep(_ROOM_AGAIN)


class _Reading:
    """The blocking part of opening a run."""

    def __init__(
        self,
        spool: Spool,
        disk: Disk,
        record: BatchRecord,
        open_order: OpensOrder,
        *,
        distrust: bool,
    ) -> None:
        self._spool = spool
        self._disk = disk
        self._record = record
        self._open_order = open_order
        self._distrust = distrust
        self.tag = ids.batch_tag(record.id)
        self.done = Bitmap(record.counts.total)
        self.tally = Tally()
        self.files: dict[LineFile, LedgerFile] = {}
        self.order: LineOrder | None = None
        self.states: dict[int, LineState] = {}
        self.attempts = LedgerFile(spool.attempts(record.id), 0, lasting=False)

    def read(self) -> dict[LineFile, Finding]:
        """Read both files back; what was damaged."""
        damaged: dict[LineFile, Finding] = {}
        record = self._record
        for which, file_id, known_end in (
            (LineFile.OUTPUT, record.output_file_id, record.output_end),
            (LineFile.ERROR, record.error_file_id, record.error_end),
        ):
            if file_id is None:
                raise SpoolError(f"unfinished batch {record.id} has lost its {which} file's id")
            path = self._spool.file(file_id)
            size = self._disk.size(path)
            found = recover(
                self._disk,
                path,
                which,
                tag=self.tag,
                known_end=known_end,
                distrust=self._distrust,
                done=self.done,
                tally=self.tally,
            )
            self.files[which] = LedgerFile(path, found.end)
            if found.damaged:
                damaged[which] = Finding(
                    kind=_kind(size, known_end),
                    path=f"files/{file_id}",
                    file=file_id,
                    batch=record.id,
                    offset=found.bad_at,
                    expected=known_end,
                    found=size,
                )
        self._read_attempts()
        self.order = self._open_order(record)
        return damaged

    def _read_attempts(self) -> None:
        path = self._spool.attempts(self._record.id)
        found, end = open_attempts(self._disk, path, self.tag, self.done.size, self.done)
        self.attempts = LedgerFile(path, end, lasting=False)
        self.states = {
            index: LineState(
                faults=one.faults, throttles=one.throttles, attempts=one.attempts, kind=one.kind
            )
            for index, one in found.items()
        }


def _kind(size: int | None, known_end: int) -> DamageKind:
    if size is None:
        return DamageKind.LEDGER_MISSING
    return DamageKind.LEDGER_SHORT if size < known_end else DamageKind.LEDGER_DAMAGED
