"""Lines of a file in bounded memory, and the index that finds them again.

A file is split on ``\\n`` only (U+2028 and friends may stand inside strings). The index has 16
bytes per request line: u64 offset, u32 length, u32 signature of the prompt's prefix (0: none).
"""

import io
import os
import struct
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

_PIECE = 1 << 18  # a larger one is fresh memory from the system each time: three times slower
_ENTRY = struct.Struct("<QII")
_FLUSH = 1 << 16

ENTRY_SIZE = _ENTRY.size
BOM = b"\xef\xbb\xbf"


class Reads(Protocol):
    """What can be read from front to back."""

    def read(self, size: int, /) -> bytes: ...


def lines(file: Reads, piece: int = _PIECE) -> Iterator[tuple[int, bytes]]:
    """Each line with its offset, newline included; the last may have none.

    Memory is bounded by a piece and the longest line.
    """
    for offset, group in line_groups(file, piece):
        at = offset
        for line in group:
            yield at, line
            at += len(line)


def line_groups(
    file: Reads, piece: int = _PIECE, *, without_zeros: bool = False
) -> Iterator[tuple[int, list[bytes]]]:
    """The same lines, about a piece of them at a time, with the offset of the first.

    For who can handle many at once, in less than half the time. ``without_zeros``: a line that has
    a zero byte and no end within its piece may be passed over, so that a region that a disk has
    lost, however long, is never in memory as one line.
    """
    offset = 0
    rest: list[bytes] = []
    is_lost = False
    while data := file.read(piece):
        if is_lost:
            end = data.find(b"\n") + 1
            offset += end or len(data)
            if not end:
                continue
            data, is_lost = data[end:], False
            if not data:
                continue
        cut = data.rfind(b"\n") + 1
        if not cut:
            rest.append(data)
            if without_zeros and b"\0" in data:
                offset += sum(map(len, rest))
                rest, is_lost = [], True
            continue
        block = b"".join([*rest, data[:cut]])
        rest = [data[cut:]] if cut < len(data) else []
        group, size = io.BytesIO(block).readlines(), len(block)
        del block  # or a long line would be in memory twice for as long as it is looked at
        yield offset, group
        offset += size
    if rest:
        yield offset, [b"".join(rest)]


class IndexWriter:
    """Writes an index; ``close`` makes it durable."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._pending = bytearray()
        self.count = 0

    def add(self, offset: int, length: int, signature: int = 0) -> None:
        self._pending += _ENTRY.pack(offset, length, signature)
        self.count += 1
        if len(self._pending) >= _FLUSH:
            self._file.write(self._pending)
            self._pending.clear()

    def flush(self) -> None:
        self._file.write(self._pending)
        self._pending.clear()
        self._file.flush()

    def close(self) -> None:
        with self._file:
            self.flush()
            os.fsync(self._file.fileno())


def entries(index_path: Path) -> Generator[tuple[int, int]]:
    """The offset and the length of each request line in an index, a part of it in memory."""
    with index_path.open("rb") as file:
        while data := file.read(_FLUSH):
            whole = len(data) - len(data) % ENTRY_SIZE
            for offset, length, _ in _ENTRY.iter_unpack(data[:whole]):
                yield offset, length


class IndexedLines:
    """The request lines of an input file, by index. Holds two descriptors until closed."""

    def __init__(self, input_path: Path, index_path: Path) -> None:
        self._input = os.open(input_path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._input).st_size
        try:
            # Not mapped: a sector that cannot be read, or a cut, would end the process (SIGBUS).
            self._index = os.open(index_path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(self._input)
            raise
        self._count = os.fstat(self._index).st_size // ENTRY_SIZE

    def __len__(self) -> int:
        return self._count

    def length(self, index: int) -> int:
        """The bytes of a line, without reading it. ``EOFError`` as in ``read``."""
        return self._entry(index)[1]

    def read(self, index: int) -> bytes:
        """The bytes of a line. ``EOFError`` if they are not in the input: one of the two is bad."""
        offset, length = self._entry(index)
        line = pread(self._input, length, offset)
        if len(line) < length:
            raise EOFError(f"the input ends before request line {index}")
        return line

    def close(self) -> None:
        os.close(self._index)
        os.close(self._input)

    def _entry(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        entry = pread(self._index, ENTRY_SIZE, index * ENTRY_SIZE)
        if len(entry) < ENTRY_SIZE:
            raise EOFError(f"the index ends before request line {index}")
        offset, length, _ = _ENTRY.unpack(entry)
        if offset + length > self._size:
            raise EOFError(f"request line {index} is behind the end of the input")
        return offset, length


def pread(descriptor: int, size: int, at: int) -> bytes:
    """What there is of ``size`` bytes: the system may hand out fewer at a time."""
    data = os.pread(descriptor, size, at)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), at + len(data))
        if not more:
            break
        data += more
    return data
