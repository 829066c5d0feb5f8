"""What the lines of a batch that failed have been through, so that a restart does not forget it.

Owns ``batches/<id>/attempts``: one record of fixed size for each attempt that came to nothing, with
a CRC over it and the batch's tag. The last good record of a line stands. Nothing but a line's fault
budget and what people are told of it depends on this file, so it is written behind the ledgers by
their writer, is never waited for, and is never synced:

    state on disk                                after a crash
    no file                                      no line has failed, or its budget begins anew
    whole records                                each line has its last one
    … and a torn tail                            the tail is cut, so that the next record is aligned
    a bad record, or a sector of them that       passed over: its line has an earlier record, or
      cannot be read                             its budget begins anew
    records not yet on the disk (power cut)      their lines go back by what was lost: half a minute
                                                 at most, which is when the kernel writes of itself
    a file that cannot be read at all            it is removed, and its lines begin anew

So damage gives a line attempts back and never takes one away, but for a CRC that agrees by chance.
A file that is mostly of lines done since is rewritten at a start; where there is no room for that,
it stays as it is.
"""

import contextlib
import struct
from collections.abc import Container, Iterable
from pathlib import Path
from zlib import crc32

import msgspec

from batchd.disk import Disk
from batchd.sectors import PastBadSectors
from batchd.writer import LedgerFile, Writer

# Index, attempts, faults, throttles, kind; then the CRC. Divides a sector: a torn sector tears
# whole records.
_FIELDS = struct.Struct("<IIHH16s")
_CRC = struct.Struct("<I")
RECORD_SIZE = _FIELDS.size + _CRC.size

_PIECE = RECORD_SIZE << 15
_SLACK = 1 << 16  # bytes of old records that are not worth a rewrite
# Lines whose records are believed. More than can wait for another attempt; after damage to a ledger
# there may be more, and memory must not grow with the file.
MAX_LINES = 1 << 16


class Attempt(msgspec.Struct, frozen=True):
    """What a line has come to after ``attempts`` attempts, none of which settled it.

    ``kind`` is why the last came to nothing: a failure kind, or ``http_503`` for an answer.
    """

    index: int
    attempts: int
    faults: int
    throttles: int
    kind: str


def record(tag: bytes, attempt: Attempt) -> bytes:
    """``RECORD_SIZE`` bytes that check themselves. ``tag`` is the batch's."""
    fields = _FIELDS.pack(
        attempt.index,
        min(attempt.attempts, 0xFFFF_FFFF),
        min(attempt.faults, 0xFFFF),
        min(attempt.throttles, 0xFFFF),
        attempt.kind.encode("ascii", "replace"),
    )
    return fields + _CRC.pack(crc32(fields, crc32(tag)))


def open_attempts(
    disk: Disk, path: Path, tag: bytes, total: int, done: Container[int]
) -> tuple[dict[int, Attempt], int]:
    """Read the file back and mend it; as ``read_attempts``. Blocks, and raises nothing."""
    try:
        lines, end = read_attempts(disk, path, tag, total, done)
    except OSError:
        with contextlib.suppress(OSError):
            disk.remove(path)
        return {}, 0
    # What cannot be mended stays as it is: no ledger may wait for this file.
    with contextlib.suppress(OSError):
        end = _mend(disk, path, tag, lines.values(), end)
    return lines, end


def read_attempts(
    disk: Disk, path: Path, tag: bytes, total: int, done: Container[int]
) -> tuple[dict[int, Attempt], int]:
    """The last good record of each line that is not done, and the end of the last good one."""
    lines: dict[int, Attempt] = {}
    size, at, end = disk.size(path), 0, 0
    if size is None:
        return lines, 0
    seed = crc32(tag)
    with disk.open_read(path) as file:
        whole = PastBadSectors(file, size)
        while len(piece := whole.read(_PIECE)) >= RECORD_SIZE:
            for start in range(0, len(piece) - RECORD_SIZE + 1, RECORD_SIZE):
                attempt = _parsed(piece[start : start + RECORD_SIZE], seed)
                if attempt is None or attempt.index >= total:
                    continue
                end = at + start + RECORD_SIZE
                if attempt.index not in done:
                    _keep(lines, attempt)
            at += len(piece)
    return lines, end


def _parsed(data: bytes, seed: int) -> Attempt | None:
    """The record in ``data``; None if it is not one of this batch."""
    fields = data[: _FIELDS.size]
    if _CRC.unpack_from(data, _FIELDS.size)[0] != crc32(fields, seed):
        return None
    index, attempts, faults, throttles, kind = _FIELDS.unpack(fields)
    return Attempt(
        index, attempts, faults, throttles, kind.rstrip(b"\0").decode("ascii", "replace")
    )


def _keep(lines: dict[int, Attempt], attempt: Attempt) -> None:
    if attempt.index in lines or len(lines) < MAX_LINES:
        lines[attempt.index] = attempt


def _mend(disk: Disk, path: Path, tag: bytes, kept: Iterable[Attempt], end: int) -> int:
    """Cut what is not good at the end, or write anew what has grown too large; its new end."""
    fresh = b"".join(record(tag, attempt) for attempt in kept)
    if end > 2 * len(fresh) + _SLACK:
        _rewrite(disk, path, fresh)
        return len(fresh)
    if end < (disk.size(path) or 0):
        descriptor = disk.open_append(path)
        try:
            disk.truncate(descriptor, end)
        finally:
            disk.close(descriptor)
    return end


def _rewrite(disk: Disk, path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".fresh")
    disk.remove(fresh)
    descriptor = disk.open_append(fresh)
    try:
        disk.append(descriptor, data)
        # Before the name changes: a power cut must not find the new name without its bytes.
        disk.sync(descriptor)
    except OSError:
        disk.remove(fresh)
        raise
    finally:
        disk.close(descriptor)
    disk.rename(fresh, path)


class Attempts:
    """The growing file of one batch. Lives on the loop; the writer does the writing."""

    def __init__(self, writer: Writer, file: LedgerFile, tag: bytes) -> None:
        self._writer = writer
        self._file = file
        self._tag = tag

    @property
    def size(self) -> int:
        """How large the file is; it shrinks at a start only."""
        return self._file.end

    def append(self, attempt: Attempt) -> None:
        """Write down what a line has come to; nobody waits for it."""
        self._writer.submit(self._file, record(self._tag, attempt), _not_awaited)

    def close(self) -> None:
        self._writer.forget(self._file)


def _not_awaited() -> None:
    """The receipt of a record."""
