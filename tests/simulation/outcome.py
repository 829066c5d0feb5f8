"""A batch at the very moment of its terminal commit: rows, files, counts and status agree.

Each line of its input stands exactly once in its two files, with an answer that the model server
gave to that very line, or with an error that is right for what became of it.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Never

import msgspec

from batchd.model import NO_USAGE, LineFile, Usage
from batchd.wire.lines import check_result_line
from batchd.wire.usage import answer_usage
from tests.simulation.checks import FILE_ROW, Checks
from tests.simulation.disk import SimDisk
from tests.simulation.lines import Line
from tests.simulation.seen import Batch

Wrong = Callable[[str], Never]
Row = dict[str, object]

_EXPIRED, _CANCELLED = "batch_expired", "batch_cancelled"
_LOST = "The input file was lost before this request was executed."
_FAULT_CODES = frozenset({"server_error", "request_timeout"})


class _Answered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: str
    message: str


class _Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a result file. All four keys, always, and no other."""

    id: str
    custom_id: str
    response: _Answered | None
    error: _Error | None


_decode_result = msgspec.json.Decoder(_Result).decode


class _Sum(msgspec.Struct):
    """What the lines of both files add up to."""

    completed: int = 0
    failed: int = 0
    never_run: int = 0
    usage: Usage = NO_USAGE


class Outcomes:
    """Judges each batch that ends."""

    def __init__(
        self, disk: SimDisk, database: sqlite3.Connection, checks: Checks, wrong: Wrong
    ) -> None:
        self._disk = disk
        self._database = database
        self._checks = checks
        self._wrong = wrong

    def ended(self, batch: Batch) -> None:
        """Right after the commit."""
        row = self._checks.row(batch)
        assert row is not None
        batch.final_row = row
        if row["in_progress_at"] is None:
            self._has_nothing(batch, row)
            return
        if batch.status == "failed":
            self._wrong(f"batch {batch.number} failed after it was validated")
        found = _Sum()
        indexes: list[int] = []
        for which, path in ((LineFile.OUTPUT, batch.output), (LineFile.ERROR, batch.error)):
            content = self._file(batch, row, which, path)
            lines = content.splitlines(keepends=True)
            indexes += [self._result(batch, which, line, found) for line in lines]
        if sorted(indexes) != list(range(batch.plan.total)):
            self._wrong(f"batch {batch.number}: its result lines are {sorted(indexes)}")
        self._adds_up(batch, row, found)

    def _has_nothing(self, batch: Batch, row: Row) -> None:
        if batch.status == "completed" or row["output_file_id"] or row["error_file_id"]:
            self._wrong(f"batch {batch.number} never ran and is {batch.status} with files")
        if batch.output in self._disk.files or batch.error in self._disk.files:
            self._wrong(f"batch {batch.number} never ran and has a result file")

    def _file(self, batch: Batch, row: Row, which: LineFile, path: Path) -> bytes:
        """The bytes of a result file, if it has any: all on disk, as many as both rows say."""
        content = self._checks.durable(path)
        file_id, size = row[f"{which}_file_id"], row[f"{which}_end"]
        if file_id is None:
            if content or size:
                self._wrong(f"batch {batch.number}: the {which} file has bytes and no id")
            return b""
        found = self._database.execute(FILE_ROW, {"id": path.name}).fetchone()
        if file_id != path.name or found is None or found["deleted_at"] is not None:
            self._wrong(f"batch {batch.number}: the {which} file has no row at its end")
        if not content or not (len(content) == size == found["bytes"]):
            self._wrong(
                f"batch {batch.number}: the {which} file has {len(content)} bytes on disk, "
                f"{size} by its batch, {found['bytes']} by its row"
            )
        if self._disk.files.get(path) != content:
            self._wrong(f"batch {batch.number}: not all of the {which} file is on disk")
        batch.final_files[path] = content
        return content

    def _result(self, batch: Batch, which: LineFile, text: bytes, found: _Sum) -> int:
        """Hold one result line against the truth; its index."""
        index = check_result_line(batch.tag, text)
        if index is None or index >= batch.plan.total:
            self._wrong(f"batch {batch.number}: a line of the {which} file is damaged")
        result, line = _decode_result(text), batch.lines[index]
        is_nameless = not result.custom_id and batch.was_lost
        if result.custom_id != line.custom_id and not is_nameless:
            self._wrong(f"line {line.custom_id} is called {result.custom_id!r} in its result")
        if result.response is not None:
            self._answered(line, which, result.response, found)
        elif result.error is None or which is LineFile.OUTPUT:
            self._wrong(f"line {line.custom_id} has no response, and stands in the {which} file")
        elif result.error.code in _FAULT_CODES and result.error.message != _LOST:
            found.failed += 1
            if not line.failures:
                self._wrong(f"line {line.custom_id} has a fault that never was")
        else:
            self._never_ran(batch, line, result.error, found)
        return index

    def _answered(self, line: Line, which: LineFile, answer: _Answered, found: _Sum) -> None:
        body = bytes(answer.body)
        if (answer.status_code, body) not in line.replies:
            self._wrong(f"line {line.custom_id} has an answer that it never got")
        is_good = 200 <= answer.status_code < 300
        if is_good is not (which is LineFile.OUTPUT):
            self._wrong(f"line {line.custom_id} has a {answer.status_code} in the {which} file")
        if is_good:
            found.completed += 1
            found.usage += answer_usage(body)
        else:
            found.failed += 1

    def _never_ran(self, batch: Batch, line: Line, error: _Error, found: _Sum) -> None:
        """Only expired and cancelled batches have such lines, or one whose input was lost."""
        if error.message == _LOST:
            found.failed += 1
            # A result that was lost when nothing could be sent any more is told the same way.
            is_right = batch.was_lost or batch.was_damaged
        else:
            found.never_run += 1
            is_right = _is_never_run(batch, error.code)
        if not is_right:
            self._wrong(f"line {line.custom_id} is {error.code} in a batch that is {batch.status}")

    def _adds_up(self, batch: Batch, row: Row, found: _Sum) -> None:
        total = batch.plan.total
        counts = {"total": total, "completed": found.completed, "failed": found.failed}
        if msgspec.json.decode(str(row["counts"])) != counts:
            self._wrong(f"batch {batch.number}: {row['counts']} in its row, {counts} in its files")
        usage = msgspec.json.decode(str(row["usage"]), type=Usage)
        if usage != found.usage:
            self._wrong(f"batch {batch.number}: {usage} in its row, {found.usage} in its files")
        numbers = (total, found.completed, found.failed, found.usage.total_tokens)
        self._checks.shown(batch, numbers)
        expires = found.never_run > 0 and batch.status != "cancelled"
        if (batch.status == "expired") is not expires:
            self._wrong(f"batch {batch.number} is {batch.status}; {found.never_run} never ran")
        if batch.cancel_was_acknowledged and batch.status != "cancelled":
            self._wrong(f"batch {batch.number} was cancelled and is {batch.status}")


def _is_never_run(batch: Batch, code: str) -> bool:
    """Whether this is the code for a line that was not executed. A batch may be cancelled when its
    window has closed and some lines have been told so."""
    if code == _CANCELLED:
        return batch.status == "cancelled"
    closed, window_end = batch.final_row["finalizing_at"], batch.final_row["expires_at"]
    is_late = isinstance(closed, int) and isinstance(window_end, int) and closed >= window_end
    return code == _EXPIRED and is_late and batch.status in {"expired", "cancelled"}
