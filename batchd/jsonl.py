"""Lines of a file in bounded memory, and the index that finds them again.

A file is split on ``\\n`` only (U+2028 and friends may stand inside strings). The index has 16
bytes per request line: u64 offset, u32 length, u32 signature of the prompt's prefix (0: not taken).
"""

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PIECE = 1 << 20
_ENTRY = struct.Struct("<QII")
_FLUSH = 1 << 16

BOM = b"\xef\xbb\xbf"


def lines(file: BinaryIO, piece: int = _PIECE) -> Iterator[tuple[int, bytes]]:
    """Each line with its offset, newline included; the last may have none.

    Memory is bounded by a piece and the longest line.
    """
    offset = 0
    rest: list[bytes] = []
    while data := file.read(piece):
        start = 0
        while (end := data.find(b"\n", start) + 1) > 0:
            line = data[start:end]
            if rest:
                rest.append(line)
                line = b"".join(rest)
                rest.clear()
            yield offset, line
            offset += len(line)
            start = end
        if start < len(data):
            rest.append(data[start:])
    if rest:
        yield offset, b"".join(rest)


class IndexWriter:
    """Writes an index; ``close`` makes it durable."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._pending = bytearray()
        self.count = 0

    def add(self, offset: int, length: int) -> None:
        self._pending += _ENTRY.pack(offset, length, 0)
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


class IndexedLines:
    """The request lines of an input file, by index. Holds two descriptors until closed."""

    def __init__(self, input_path: Path, index_path: Path) -> None:
        self._input = os.open(input_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with index_path.open("rb") as index:
                self._count = os.fstat(index.fileno()).st_size // _ENTRY.size
                self._index = (
                    mmap.mmap(index.fileno(), 0, access=mmap.ACCESS_READ) if self._count else None
                )
        except BaseException:
            os.close(self._input)
            raise

    def __len__(self) -> int:
        return self._count

    def length(self, index: int) -> int:
        """The bytes of a line, without reading it."""
        return self._entry(index)[1]

    def read(self, index: int) -> bytes:
        """The bytes of a line. ``EOFError`` if the input is shorter than when it was indexed."""
        offset, length = self._entry(index)
        line = os.pread(self._input, length, offset)
        while len(line) < length:
            more = os.pread(self._input, length - len(line), offset + len(line))
            if not more:
                raise EOFError(f"the input ends before request line {index}")
            line += more
        return line

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
        os.close(self._input)

    def _entry(self, index: int) -> tuple[int, int]:
        if self._index is None or not 0 <= index < self._count:
            raise IndexError(index)
        offset, length, _ = _ENTRY.unpack_from(self._index, index * _ENTRY.size)
        return offset, length
