"""The invariants, held against the disk and the rows while a history runs, and at its end.

Everything is judged by what is *durable* (left if a power cut keeps nothing that is pending), by
the rows as committed, and by what the model server says it was sent. ``wrong`` is called at the
first violation, with a sentence, and does not return. ``outcome`` holds the files of a batch that
has ended against the truth.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Never

from batchd.ledger import Ledger
from batchd.model import LineFile, Progress
from batchd.wire.lines import check_result_line
from tests.simulation.budgets import Budgets
from tests.simulation.disk import SimDisk
from tests.simulation.lines import Line
from tests.simulation.plan import PRIVATE, EndKind
from tests.simulation.seen import FILES, HOLDS, INCOMING, Batch, Numbers, Seen
from tests.simulation.servers import Servers

Wrong = Callable[[str], Never]

FILE_ROW = "SELECT bytes, deleted_at, expires_at FROM file WHERE id = :id"
_BATCH_ROW = "SELECT * FROM batch WHERE id = :id"
_LIVE_FILES = "SELECT id FROM file WHERE deleted_at IS NULL"


class Checks:
    """``servers`` says how much may be under way."""

    def __init__(  # noqa: PLR0913, PLR0917 - all that can be looked at
        self,
        disk: SimDisk,
        database: sqlite3.Connection,
        seen: Seen,
        servers: Servers,
        budgets: Budgets,
        wrong: Wrong,
    ) -> None:
        self._disk = disk
        self._database = database
        self._seen = seen
        self._servers = servers
        self._budgets = budgets
        self._wrong = wrong

    # -- while it runs

    def sending(self, line: Line, body: bytes, now: float) -> None:
        """Only lines without a durable result are sent, unchanged, and when they may be."""
        batch = self._seen.by_number[line.batch]
        start = b'{"id":"batch_req_%b%08x' % (batch.tag, line.request.index)
        if start in self.durable(batch.output) or start in self.durable(batch.error):
            self._wrong(f"line {line.custom_id} was sent again although its result is on disk")
        if line.settled:
            self._wrong(f"line {line.custom_id} was sent again although it was answered")
        if line.is_open:
            self._wrong(f"line {line.custom_id} is in flight twice")
        if now < line.not_before:
            self._wrong(f"line {line.custom_id} was sent again before {line.not_before:.3f}")
        self._budgets.sending(line)
        if batch.is_terminal or not batch.plan.is_valid:
            self._wrong(f"line {line.custom_id} was sent in a batch that is {batch.status}")
        if body != line.request.body:
            self._wrong(f"the body of line {line.custom_id} was sent changed")

    def unsettled(self, count: int) -> None:
        if count > self._servers.unsettled_bound:
            bound = self._servers.unsettled_bound
            self._wrong(f"{count} lines are unsettled, and {bound} may be")

    def progress(self, batch: Batch, progress: Progress) -> None:
        """Only what is durable counts."""
        counts = progress.counts
        if counts.completed > self.durable(batch.output).count(b"\n"):
            self._wrong(f"batch {batch.number}: {counts.completed} completed, not all on disk")
        if counts.failed > self.durable(batch.error).count(b"\n"):
            self._wrong(f"batch {batch.number}: {counts.failed} failed, not all on disk")
        tokens = progress.usage.total_tokens
        self.shown(batch, (counts.total, counts.completed, counts.failed, tokens))

    def shown(self, batch: Batch, numbers: Numbers, before: Numbers | None = None) -> None:
        """Somebody was told these; they do not go back behind what was told before."""
        before = before or batch.shown
        if any(now < then for now, then in zip(numbers, before, strict=True)):
            self._wrong(f"batch {batch.number}: counts went back from {before} to {numbers}")
        most = [max(pair) for pair in zip(numbers, batch.shown, strict=True)]
        batch.shown = most[0], most[1], most[2], most[3]

    def ledger(self, batch: Batch, ledger: Ledger) -> None:
        """What a ledger takes for done is on disk, and all of it counts."""
        counts, done = ledger.counts, ledger.total - ledger.missing
        if done != counts.completed + counts.failed + ledger.never_run:
            self._wrong(f"batch {batch.number}: {done} lines are done, but {counts}")
        on_disk = self._recorded(batch, self.durable(batch.output) + self.durable(batch.error))
        for index in range(ledger.total):
            if ledger.next_missing(index) != index and index not in on_disk:
                self._wrong(f"line {batch.number}-{index} is done, but not on disk")
        for which, path in ((LineFile.OUTPUT, batch.output), (LineFile.ERROR, batch.error)):
            if ledger.end(which) > len(self.durable(path)):
                self._wrong(f"batch {batch.number}: the {which} file ends before its end")

    def log_record(self, text: str) -> None:
        if PRIVATE in text:
            self._wrong(f"a prompt or an answer was logged: {text}")

    # -- after a life

    def life_ended(self, kind: EndKind, at: float, *, is_strict: bool) -> list[str]:
        """When the disk is back: acknowledgements stand, and what was counted is there.

        The lines that were in flight and left no result; no others may be sent again.
        """
        for file_id in self._seen.uploads:
            self._has_upload(file_id)
        lost: list[str] = []
        for batch in self._seen.by_id.values():
            if batch.is_terminal:
                self.is_unchanged(batch)
            else:
                self._is_kept(batch)
                lost += self._lost_lines(batch)
                self._budgets.life_ended(batch, kind, at, is_strict=is_strict)
        if len(lost) > self._servers.unsettled_bound:
            self._wrong(f"{len(lost)} lines were in flight at the end")
        return lost

    def _lost_lines(self, batch: Batch) -> list[str]:
        output = self._recorded(batch, self._disk.files.get(batch.output, b""))
        error = self._recorded(batch, self._disk.files.get(batch.error, b""))
        if len(output) < batch.shown[1] or len(error) < batch.shown[2]:
            self._wrong(
                f"batch {batch.number}: {batch.shown} was shown, but {len(output)} and "
                f"{len(error)} lines are left"
            )
        left = output | error
        return [
            line.custom_id
            for line in batch.lines
            if line.is_open and line.request.index not in left
        ]

    def _has_upload(self, file_id: str) -> None:
        row = self._database.execute(FILE_ROW, {"id": file_id}).fetchone()
        if row is None or row["deleted_at"] is not None or not self.durable(FILES / file_id):
            self._wrong(f"upload {file_id} was acknowledged and is gone")

    def _is_kept(self, batch: Batch) -> None:
        row = self.row(batch)
        if row is None:
            if batch.create_was_acknowledged:
                self._wrong(f"batch {batch.number} was acknowledged and is gone")
        elif batch.cancel_was_acknowledged and row["status"] not in {"cancelling", "cancelled"}:
            self._wrong(f"the cancel of batch {batch.number} was acknowledged and is gone")

    def is_unchanged(self, batch: Batch) -> None:
        if self.row(batch) != batch.final_row:
            self._wrong(f"the row of batch {batch.number} changed after its end")

    # -- the end of the history

    def nothing_is_left(self, now: float) -> None:
        """After a sweep: no name that no row names; results as they were."""
        for batch in self._seen.by_id.values():
            self.is_unchanged(batch)
            for path, content in batch.final_files.items():
                self._is_served(path, content, now)
        live = {str(row["id"]) for row in self._database.execute(_LIVE_FILES)}
        kept = {name for name in self._names(FILES) if not name.endswith(".damaged")}
        if kept != live:
            self._wrong(f"files without a row: {kept - live}, rows without a file: {live - kept}")
        if left := self._names(HOLDS) | self._names(INCOMING):
            self._wrong(f"{left} are left although all batches have ended")

    def _names(self, folder: Path) -> set[str]:
        return set(self._disk.names(folder, float("inf")))

    def _is_served(self, path: Path, content: bytes, now: float) -> None:
        row = self._database.execute(FILE_ROW, {"id": path.name}).fetchone()
        if row["deleted_at"] is None:
            if self.durable(path) != content:
                self._wrong(f"result file {path.name} is not what it was")
        elif row["expires_at"] > now:
            self._wrong(f"result file {path.name} was removed before it expired")

    # -- reading

    def durable(self, path: Path) -> bytes:
        return self._disk.durable.get(path, b"")

    def row(self, batch: Batch) -> dict[str, object] | None:
        row = self._database.execute(_BATCH_ROW, {"id": batch.id}).fetchone()
        return None if row is None else dict(row)

    def _recorded(self, batch: Batch, data: bytes) -> set[int]:
        """The lines that stand undamaged in the bytes of a result file."""
        found = (check_result_line(batch.tag, line) for line in data.splitlines(keepends=True))
        return {index for index in found if index is not None}
