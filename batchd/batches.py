"""A batch: create, get, list, advance, cancel. The only writer of a status.

Doors commit a row here and ring a bell; the engine reads rows. What runs is known in finer grain
than its row: the engine reports progress here, durable lines only, and ``get`` lays it over the
row. The terminal transition is one transaction: status, file rows, counts and usage.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from batchd import ids
from batchd.closing import Closing, missing_input, result_files, without_files
from batchd.creation import REPEATED_WITHIN, check_same, new_record, request_hash
from batchd.errors import Conflict, InvalidRequest, NoRoom
from batchd.files import Files
from batchd.model import (
    BatchRecord,
    Control,
    Counts,
    LineError,
    NewBatch,
    Progress,
    Purpose,
)
from batchd.pausing import paused_note
from batchd.progress import LiveProgress
from batchd.room import Room
from batchd.states import TRANSITIONS, UNFINISHED, BatchStatus, Event, next_status
from batchd.store import Transaction
from batchd.store import batches as table
from batchd.store import files as file_table
from batchd.store.database import Database
from batchd.wire import params

_NO_ROOM = "the disk of the storage directory is full: sending is paused until there is room"

AlsoInTransaction = Callable[[Transaction, BatchRecord], Awaitable[None]]


class Batches:
    """The batches of all owners."""

    def __init__(  # noqa: PLR0913 - its parts, its bell, and time and chance from outside
        self,
        database: Database,
        files: Files,
        *,
        room: Room,
        now: Callable[[], float],
        draw: Callable[[int], bytes],
        ring: Callable[[], None],
    ) -> None:
        self._database = database
        self._files = files
        self._room = room
        self._now = now
        self._draw = draw
        self._ring = ring
        self.live = LiveProgress()

    async def create(
        self, owner: str, wish: NewBatch, also: AlsoInTransaction | None = None
    ) -> BatchRecord:
        """A new batch in ``validating``; durable when this returns.

        A missing input file is no error here: the batch fails for it (contract 3). One with
        another purpose is. ``also`` is done in the same transaction. A wish that was granted
        before gives the batch that it became; ``Conflict`` if its key was used for another.
        """
        record = new_record(owner, wish, now=int(self._now()), draw=self._draw)

        async def insert(tx: Transaction) -> BatchRecord:
            earlier = await self._granted(tx, owner, wish)
            if earlier is not None:
                return earlier
            await table.insert(tx, record)
            if also is not None:
                await also(tx, record)
            return record

        if self._room.is_full:
            earlier = await self.granted(owner, wish)
            if earlier is None:
                raise NoRoom
            return earlier
        await self._check_purpose(owner, wish.input_file_id)
        found = await self._database.write(insert)
        self._ring()
        return found

    async def granted(self, owner: str, wish: NewBatch) -> BatchRecord | None:
        """What a wish that may have been sent before has become; ``Conflict`` as in ``create``."""
        if wish.idempotency_key is None and not wish.is_repeated:
            return None
        return await self._database.write(lambda tx: self._granted(tx, owner, wish))

    async def _granted(self, tx: Transaction, owner: str, wish: NewBatch) -> BatchRecord | None:
        since = int(self._now()) - REPEATED_WITHIN if wish.is_repeated else None
        earlier = await table.granted(
            tx, owner, key=wish.idempotency_key, request_hash=request_hash(wish), since=since
        )
        return check_same(earlier, wish) if earlier is not None else None

    async def _check_purpose(self, owner: str, file_id: str) -> None:
        try:
            record = await self._files.get(owner, file_id)
        except InvalidRequest:
            return
        if record.purpose is not Purpose.BATCH:
            raise InvalidRequest(
                f"Invalid 'input_file_id': file {file_id} has purpose '{record.purpose}', but "
                "a batch needs one uploaded with purpose 'batch'.",
                param="input_file_id",
                code="invalid_value",
            )

    async def get(self, owner: str, batch_id: str) -> BatchRecord:
        """The batch's row. ``NotFound`` if unknown or another's."""
        record = None
        if ids.is_batch_id(batch_id):
            record = await table.get(self._database, owner, batch_id)
        if record is None:
            raise params.no_such_batch(batch_id)
        return record

    async def page(
        self, owner: str, *, after: str | None, limit: int
    ) -> tuple[list[BatchRecord], bool]:
        """Up to ``limit`` batches, newest first, behind ``after``, and whether there are more."""
        seq = None
        if after is not None:
            seq = await table.seq_of(self._database, owner, after)
            if seq is None:
                raise params.unknown_cursor(after)
        found = await table.page(self._database, owner, after=seq, limit=limit + 1)
        return found[:limit], len(found) > limit

    async def cancel(self, owner: str, batch_id: str) -> BatchRecord:
        """Ask a batch to end. ``Conflict`` if it has ended otherwise."""
        record = await self.get(owner, batch_id)
        if record.status in UNFINISHED - {BatchStatus.CANCELLING}:
            record = await self.advance(batch_id, Event.CANCEL) or await self.get(owner, batch_id)
        if record.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise Conflict(f"Cannot cancel a batch with status '{record.status}'.")
        self._ring()
        return record

    async def advance(self, batch_id: str, event: Event) -> BatchRecord | None:
        """Take a step that changes nothing but status and timestamp; None if it came too late."""
        return await self._move(batch_id, event, lambda record: record)

    async def validated(
        self, batch_id: str, *, total: int, model: str | None
    ) -> BatchRecord | None:
        """End a validation that found no fault: to ``in_progress``, if the input is still there.

        The row of the input file must be live in the same transaction; else the batch fails.
        """
        now = int(self._now())

        async def step(tx: Transaction) -> BatchRecord | None:
            record = await table.current(tx, batch_id)
            if record is None or record.status is not BatchStatus.VALIDATING:
                return None
            if not await file_table.is_live(tx, record.input_file_id, now):
                return await self._reject(tx, record, [missing_input(record)])
            changed = msgspec.structs.replace(record, model=model, counts=Counts(total))
            return await self._write(tx, record, Event.VALIDATED, changed)

        return await self._commit(step)

    async def rejected(self, batch_id: str, errors: list[LineError]) -> BatchRecord | None:
        """End a validation that found faults: to ``failed``."""

        async def step(tx: Transaction) -> BatchRecord | None:
            record = await table.current(tx, batch_id)
            if record is None or record.status is not BatchStatus.VALIDATING:
                return None
            return await self._reject(tx, record, errors)

        return await self._commit(step)

    async def _reject(
        self, tx: Transaction, record: BatchRecord, errors: list[LineError]
    ) -> BatchRecord | None:
        changed = msgspec.structs.replace(without_files(record), errors=errors)
        return await self._write(tx, record, Event.REJECTED, changed)

    async def never_started(self, batch_id: str, event: Event) -> BatchRecord | None:
        """End a batch with no files, unless it was validated meanwhile (then it has some): None."""
        return await self._move(
            batch_id, event, lambda record: None if record.was_validated else without_files(record)
        )

    async def finished(self, batch_id: str, event: Event, closing: Closing) -> BatchRecord | None:
        """The one transaction in which a batch that ran becomes terminal.

        Its files have rows, and so can be downloaded, from the same instant on.
        """

        async def step(tx: Transaction) -> BatchRecord | None:
            record = await table.current(tx, batch_id)
            if record is None or event not in TRANSITIONS[record.status]:
                return None
            now = int(self._now())
            changed = msgspec.structs.replace(
                record,
                counts=closing.counts,
                usage=closing.usage,
                output_end=closing.output_bytes,
                error_end=closing.error_bytes,
                output_file_id=record.output_file_id if closing.output_bytes else None,
                error_file_id=record.error_file_id if closing.error_bytes else None,
            )
            for file in result_files(changed, now):
                await file_table.insert(tx, file)
            return await self._write(tx, record, event, changed)

        self.live.ends_with(batch_id, closing.progress)
        record = await self._commit(step)
        if record is not None:
            self.live.forget_later(batch_id)
        return record

    async def controls(self) -> dict[str, Control]:
        """How every batch that is not terminal is to go on, oldest first."""
        return await table.controls(self._database)

    async def unfinished(self) -> list[BatchRecord]:
        return await table.unfinished(self._database)

    async def overdue(self) -> list[BatchRecord]:
        """Batches in ``validating`` or ``in_progress`` whose window has ended."""
        return await table.overdue(self._database, int(self._now()))

    async def next_window_end(self) -> int | None:
        """When the next window of such a batch ends."""
        return await table.next_window_end(self._database)

    async def find(self, batch_id: str) -> BatchRecord | None:
        """The batch's row, whoever owns it."""
        return await table.find(self._database, batch_id)

    async def add_note(self, batch_id: str, note: str) -> None:
        await self._database.write(lambda tx: table.add_note(tx, batch_id, note))

    async def checkpoint(
        self, batch_id: str, progress: Progress, notes: Sequence[str] = ()
    ) -> None:
        """Remember in the row how far the ledger is known to be good."""

        async def work(tx: Transaction) -> None:
            for note in notes:
                await table.add_note(tx, batch_id, note)
            await table.checkpoint(tx, batch_id, progress)

        await self._database.write(work)

    def progress(self, record: BatchRecord) -> Progress | None:
        """What is known beyond the row."""
        if record.status not in UNFINISHED:
            return None
        known = self.live.of(record.id) if record.was_validated else None
        note = _NO_ROOM if self._room.is_full else paused_note(record)
        if note is None:
            return known
        return msgspec.structs.replace(known or Progress(record.counts, record.usage), note=note)

    async def _move(
        self, batch_id: str, event: Event, change: Callable[[BatchRecord], BatchRecord | None]
    ) -> BatchRecord | None:
        async def step(tx: Transaction) -> BatchRecord | None:
            record = await table.current(tx, batch_id)
            if record is None or event not in TRANSITIONS[record.status]:
                return None
            changed = change(record)
            return await self._write(tx, record, event, changed) if changed else None

        return await self._commit(step)

    async def _write(
        self, tx: Transaction, old: BatchRecord, event: Event, changed: BatchRecord
    ) -> BatchRecord | None:
        status = next_status(old.status, event)
        # The clock may have gone back; the life of a batch does not.
        at = max(int(self._now()), old.latest_at)
        stamped = msgspec.structs.replace(changed, status=status, **{f"{status.value}_at": at})
        return stamped if await table.update(tx, old.status, stamped) else None

    async def _commit(
        self, step: Callable[[Transaction], Awaitable[BatchRecord | None]]
    ) -> BatchRecord | None:
        record = await self._database.write(step)
        self._ring()
        return record
