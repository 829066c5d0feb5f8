"""How fast this machine reads files, with and without its page cache."""

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

_PIECE = 1 << 20
_SAMPLES = 32


def drop(paths: Iterable[Path]) -> None:
    """Ask the kernel to forget the contents of files. It may keep them: see ``cached``."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not written yet are not dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached(path: Path) -> float | None:
    """The share of a file that is in the page cache, from samples; None where no one can say.

    Looking brings a little of the file into the cache.
    """
    size = path.stat().st_size
    descriptor = os.open(path, os.O_RDONLY)
    try:
        places = range(0, size, max(1, size // _SAMPLES))
        return sum(_is_cached(descriptor, at) for at in places) / max(1, len(places))
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return None
    finally:
        os.close(descriptor)


def _is_cached(descriptor: int, at: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


def read_rate(paths: Iterable[Path]) -> float:
    """Bytes per second of reading files one after the other, and nothing else."""
    buffer = bytearray(_PIECE)
    size = 0
    began = time.monotonic()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                size += count
    return size / (time.monotonic() - began)
