"""Bytes that a disk does not give back: to who asked for them, they are damaged.

A shortage of the system (no room, no descriptors, no memory) is no damage and passes as it is, and
so does a name that is not there any more: what that means, the caller knows.
"""

import contextlib
import errno
from collections.abc import Generator
from typing import BinaryIO

from batchd.disk import PASSING
from batchd.errors import FileCorrupt

_SHORTAGES = PASSING - {errno.EIO}


@contextlib.contextmanager
def corrupt_if_unreadable(what: str) -> Generator[None]:
    """``FileCorrupt`` in place of the error of who reads ``what`` ("The input file of …")."""
    try:
        yield
    except EOFError:
        raise FileCorrupt(
            f"{what} is shorter than it was: run `batchd fsck` where batchd runs."
        ) from None
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        raise FileCorrupt(
            f"{what} cannot be read ({error.strerror}): run `batchd fsck` where batchd runs."
        ) from error


class Readable:
    """An open file, read from front to back; ``FileCorrupt`` where it cannot be."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file = file
        self._what = what

    def read(self, size: int, /) -> bytes:
        with corrupt_if_unreadable(self._what):
            return self._file.read(size)
