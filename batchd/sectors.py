"""Reading past what a disk cannot read: one bad sector must not cost the rest of a file.

Zeros stand for a sector that cannot be read, so every byte keeps its offset, and whoever has a
checksum for what stood there finds it wrong.
"""

import errno
from typing import BinaryIO

_SECTOR = 4096


class PastBadSectors:
    """An open file; ``read`` as usual, but that it does not fail with ``EIO``."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer at the end."""
        data = self._read(size)
        if data is None:
            data = b"".join(self._sectors(size))
        self._at += len(data)
        return data

    def _sectors(self, size: int) -> list[bytes]:
        found: list[bytes] = []
        begin, end = self._at, min(self._at + size, self._size)
        while self._at < end:
            step = min(_SECTOR - self._at % _SECTOR, end - self._at)
            self._file.seek(self._at)
            found.append((self._read(step) or b"").ljust(step, b"\0"))
            self._at += step
        self._at = begin
        self._file.seek(end)
        return found

    def _read(self, size: int) -> bytes | None:
        try:
            return self._file.read(size)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return None
