"""Looks a storage directory over, beside the daemon that works in it or after its end.

Rows are held against bytes: first what lies there and how large it is (``surface``), then what it
holds (``depth``). Whatever a daemon does meanwhile is no damage: before anything is said that a
deletion, an expiry or the end of a batch would explain, the row is looked at once more.

Nothing is changed. Everything blocks, in small steps; whoever takes them may pause between two.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from batchd.findings import DamageKind, Finding, wrong_size
from batchd.ledger import Bitmap
from batchd.model import BatchRecord, FileRecord
from batchd.spool import Spool
from batchd.store.readonly import BadRow, ReadOnly
from batchd.upkeep import inputs, leftovers, results
from batchd.upkeep.steps import Step, Stepwise, readable, sha256

T = TypeVar("T", FileRecord, BatchRecord)

_DATABASE = "batchd.db"
# A running batch moves on while its ledgers are read; after so many looks what was seen stands.
_LOOKS = 3

Findings = list[Finding]


class Examination:
    """One look over everything."""

    def __init__(
        self, spool: Spool, database: ReadOnly, *, now: Callable[[], float], orphan_age: float
    ) -> None:
        self._spool = spool
        self._database = database
        self._now = now
        self._orphan_age = orphan_age

    def database(self) -> Stepwise[None]:
        """SQLite's own judgement."""
        for fault in self._database.faults():
            damaged = DamageKind.DATABASE_DAMAGED
            yield Step(findings=(Finding(kind=damaged, path=_DATABASE, reason=fault),))

    def surface(self) -> Stepwise[None]:
        """What is missing or has another size, what lies around, and rows that make no sense."""
        before = self._now() - self._orphan_age
        yield from leftovers.look(self._spool, self._database, before=before)
        for page in self._database.live_files(int(self._now())):
            for file in page:
                if isinstance(file, BadRow):
                    yield _bad_row(file)
                else:
                    yield from self._size(file)
        for page in self._database.batches():
            for batch in page:
                if isinstance(batch, BadRow):
                    yield _bad_row(batch, batch.id)
                elif not batch.is_terminal:
                    yield from self._steadily(batch, self._sizes)

    def depth(self) -> Stepwise[None]:
        """What the bytes hold. What has the wrong size is the surface's to tell."""
        for batch in _records(self._database.unfinished()):
            yield from self._steadily(batch, self._input)
            yield from self._steadily(batch, self._ledgers)
        for batch in _records(self._database.batches()):
            if batch.is_terminal:
                yield from self._results(batch)
        for file in _records(self._database.live_files(int(self._now()))):
            if file.sha256 is not None:
                yield from self._upload(file, file.sha256)

    def _size(self, record: FileRecord) -> Iterator[Step]:
        look = self._look_at_size(record)
        yield from self._if_live(record.id, readable(f"files/{record.id}", look, file=record.id))

    def _look_at_size(self, record: FileRecord) -> Stepwise[Findings]:
        wrong = wrong_size(record, self._spool.disk.size(self._spool.file(record.id)))
        yield Step(files=1)
        return [] if wrong is None else [wrong]

    def _sizes(self, batch: BatchRecord) -> Stepwise[Findings]:
        """The input, the index and the ledgers of a batch that runs."""
        found = inputs.sizes(self._spool, batch, self._database.file(batch.input_file_id))
        for file_id, known_end in results.ledgers(batch):
            size = self._spool.disk.size(self._spool.file(file_id))
            wrong = results.wrong_ledger_size(batch, file_id, known_end, size)
            found += [] if wrong is None else [wrong]
        yield Step(files=4)
        return found

    def _input(self, batch: BatchRecord) -> Stepwise[Findings]:
        upload = self._database.file(batch.input_file_id)
        if inputs.sizes(self._spool, batch, upload):
            return []
        path = f"batches/{batch.id}/input"
        look = inputs.look(self._spool, batch, upload)
        return (yield from readable(path, look, batch=batch.id))

    def _ledgers(self, batch: BatchRecord) -> Stepwise[Findings]:
        return (yield from results.running(self._spool, batch))

    def _steadily(
        self, batch: BatchRecord, look: Callable[[BatchRecord], Stepwise[Findings]]
    ) -> Iterator[Step]:
        """Look at a batch that runs until it is the same before and after, or has ended."""
        if not batch.was_validated:
            return
        found: Findings = []
        for _ in range(_LOOKS):
            found = yield from readable(f"batches/{batch.id}", look(batch), batch=batch.id)
            if not found:
                return
            again = self._database.batch(batch.id)
            if again is None or again.is_terminal:
                return
            if again == batch:
                break
            batch = again
        yield Step(findings=tuple(found))

    def _results(self, batch: BatchRecord) -> Iterator[Step]:
        done = Bitmap(batch.counts.total)
        for file_id, _ in results.ledgers(batch):
            if self._has_right_size(file_id):
                look = results.ended(self._spool, batch, file_id, done)
                path = f"files/{file_id}"
                yield from self._if_live(
                    file_id, readable(path, look, file=file_id, batch=batch.id)
                )

    def _has_right_size(self, file_id: str) -> bool:
        record = self._database.file(file_id)
        size = self._spool.disk.size(self._spool.file(file_id))
        return record is not None and self._is_live(file_id) and record.bytes == size

    def _upload(self, record: FileRecord, expected: str) -> Iterator[Step]:
        look = self._compare(record, expected)
        yield from self._if_live(record.id, readable(f"files/{record.id}", look, file=record.id))

    def _compare(self, record: FileRecord, expected: str) -> Stepwise[Findings]:
        path = self._spool.file(record.id)
        if self._spool.disk.size(path) != record.bytes or (yield from sha256(path)) == expected:
            return []
        changed = DamageKind.FILE_CHANGED
        return [Finding(kind=changed, path=f"files/{record.id}", file=record.id)]

    def _if_live(self, file_id: str, look: Stepwise[Findings]) -> Iterator[Step]:
        """Say what was found unless the file has been deleted or has expired meanwhile."""
        found = yield from look
        if found and self._is_live(file_id):
            yield Step(findings=tuple(found))

    def _is_live(self, file_id: str) -> bool:
        return self._database.is_live(file_id, int(self._now()))


def _records(pages: Iterator[list[T | BadRow]]) -> Iterator[T]:
    for page in pages:
        for record in page:
            if not isinstance(record, BadRow):
                yield record


def _bad_row(row: BadRow, batch: str | None = None) -> Step:
    damaged = DamageKind.ROW_DAMAGED
    reason = f"{row.id}: {row.reason}"
    return Step(findings=(Finding(kind=damaged, path=_DATABASE, batch=batch, reason=reason),))
