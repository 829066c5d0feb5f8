"""Result files line by line: of a batch that has ended, and the ledgers of one that has not.

Each line is judged by its own checksum, as recovery does it: it counts if it verifies, belongs to
this batch, and is the first of its index over both files.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from batchd import ids
from batchd.findings import DamageKind, Finding, Note, NoteKind
from batchd.ledger import Bitmap
from batchd.model import BatchRecord
from batchd.spool import Spool
from batchd.upkeep.steps import PIECE, Group, Step, Stepwise, groups, opened, readable
from batchd.wire.lines import check_long_result_line, check_result_lines, is_never_run

_TAIL = 256  # bytes that tell a line that was never run


class Account:
    """What the lines of a file come to. ``tail``: the bytes behind the last good line.

    ``bad`` lines are counted; ``line`` and ``offset`` are those of the first.
    """

    def __init__(self) -> None:
        self.good = 0
        self.never_run = 0
        self.bad = 0
        self.line = 0
        self.offset = 0
        self.tail = 0


class Line(msgspec.Struct, frozen=True):
    """A line as judged: ``index`` is None if it does not verify."""

    offset: int
    size: int
    index: int | None
    never_run: bool


def account(
    path: Path, tag: bytes, done: Bitmap, *, known_end: int | None = None
) -> Stepwise[Account]:
    """Read a file of result lines. What is bad from ``known_end`` on is nobody's damage."""
    found = Account()
    number, end, good_end = 0, 0, 0
    with opened(path) as file:
        for group in groups(file):
            for line in _judged(path, tag, group):
                number, end = number + 1, line.offset + line.size
                if line.index is not None and line.index < done.size and done.add(line.index):
                    found.good += 1
                    found.never_run += line.never_run
                    good_end = end
                elif known_end is None or line.offset < known_end:
                    if not found.bad:
                        found.line, found.offset = number, line.offset
                    found.bad += 1
            yield Step(lines=len(group.lines), bytes=group.read)
    found.tail = end - good_end
    return found


def _judged(path: Path, tag: bytes, group: Group) -> Iterator[Line]:
    if group.long:
        yield _judged_long(path, tag, group.offset, group.long)
    start = group.offset
    for line, index in zip(group.lines, check_result_lines(tag, group.lines), strict=True):
        yield Line(start, len(line), index, is_never_run(line))
        start += len(line)


def _judged_long(path: Path, tag: bytes, offset: int, size: int) -> Line:
    with path.open("rb") as file:
        file.seek(offset)
        left = (min(PIECE, size - at) for at in range(0, size, PIECE))
        index = check_long_result_line(tag, map(file.read, left))
        file.seek(offset + size - _TAIL)
        return Line(offset, size, index, is_never_run(file.read(_TAIL)))


def ended(spool: Spool, record: BatchRecord, file_id: str, done: Bitmap) -> Stepwise[list[Finding]]:
    """A result file of a batch that has ended: the output file first, with the same ``done``."""
    found = yield from account(spool.file(file_id), ids.batch_tag(record.id), done)
    if found.bad:
        return [_bad_lines(DamageKind.RESULT_LINES, record, file_id, found)]
    is_output = file_id == record.output_file_id
    expected = record.counts.completed if is_output else record.counts.failed
    counted = found.good - found.never_run
    if counted == expected:
        return []
    return [
        Finding(
            kind=DamageKind.RESULT_COUNTS,
            path=f"files/{file_id}",
            file=file_id,
            batch=record.id,
            expected=expected,
            found=counted,
        )
    ]


def running(spool: Spool, record: BatchRecord) -> Stepwise[list[Finding]]:
    """The ledgers of a batch that has not ended."""
    findings: list[Finding] = []
    done = Bitmap(record.counts.total)
    for file_id, known_end in ledgers(record):
        look = _ledger(spool, record, file_id, known_end, done)
        findings += yield from readable(f"files/{file_id}", look, file=file_id, batch=record.id)
    return findings


def _ledger(
    spool: Spool, record: BatchRecord, file_id: str, known_end: int, done: Bitmap
) -> Stepwise[list[Finding]]:
    path = spool.file(file_id)
    if (spool.disk.size(path) or 0) < known_end:
        return []  # found by its size
    found = yield from account(path, ids.batch_tag(record.id), done, known_end=known_end)
    if found.bad:
        return [_bad_lines(DamageKind.LEDGER_DAMAGED, record, file_id, found)]
    if found.tail:
        yield Step(
            notes=(Note(kind=NoteKind.TORN_TAIL, path=f"files/{file_id}", bytes=found.tail),)
        )
    return []


def ledgers(record: BatchRecord) -> Iterator[tuple[str, int]]:
    """The two result files of a batch, the output file first, and how far each is known good."""
    for file_id, known_end in (
        (record.output_file_id, record.output_end),
        (record.error_file_id, record.error_end),
    ):
        if file_id is not None:
            yield file_id, known_end


def wrong_ledger_size(
    record: BatchRecord, file_id: str, known_end: int, size: int | None
) -> Finding | None:
    """What is wrong if a ledger has ``size`` bytes (None: there is no such name)."""
    if (size or 0) >= known_end:
        return None
    return Finding(
        kind=DamageKind.LEDGER_MISSING if size is None else DamageKind.LEDGER_SHORT,
        path=f"files/{file_id}",
        file=file_id,
        batch=record.id,
        expected=known_end,
        found=size,
    )


def _bad_lines(kind: DamageKind, record: BatchRecord, file_id: str, found: Account) -> Finding:
    return Finding(
        kind=kind,
        path=f"files/{file_id}",
        file=file_id,
        batch=record.id,
        count=found.bad,
        line=found.line,
        offset=found.offset,
    )
