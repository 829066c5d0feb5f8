"""A disk some sectors of which cannot be read, as a kernel shows it."""

import errno
import io
import os
from pathlib import Path
from typing import BinaryIO, cast

from tests.support.fakes import HastyDisk

SECTOR = 4096


class _BadFile(io.RawIOBase):
    def __init__(self, data: bytes, bad: set[int]) -> None:
        self._file = io.BytesIO(data)
        self._bad = bad

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] - what the library hands in
        """Up to the bad sector, and an error if it is the first."""
        at = self._file.tell()
        if at // SECTOR in self._bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        left = [number * SECTOR - at for number in self._bad if number * SECTOR > at]
        data = self._file.read(min([len(buffer), *left]))
        buffer[: len(data)] = data
        return len(data)


def bad_file(data: bytes, bad: set[int]) -> BinaryIO:
    """An open file; ``bad`` are the numbers of the sectors that cannot be read."""
    return cast("BinaryIO", io.BufferedReader(_BadFile(data, bad)))


class WornDisk(HastyDisk):
    """Cannot read some sectors of one file, by whatever name it is opened."""

    def __init__(self, path: Path, bad: set[int]) -> None:
        self._inode = path.stat().st_ino
        self._bad = bad

    def open_read(self, path: Path) -> BinaryIO:
        if path.stat().st_ino != self._inode:
            return super().open_read(path)
        return bad_file(path.read_bytes(), self._bad)
