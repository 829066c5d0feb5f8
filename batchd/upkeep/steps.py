"""Reading much in small steps: whoever looks a storage directory over is told after each piece.

Between two steps the reader may pause, or give up. Memory is bounded by some pieces, whatever a
damaged file holds.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from batchd.findings import DamageKind, Finding, Note

T = TypeVar("T")

PIECE = 1 << 20
LONGEST_LINE = 8 << 20


class Step(msgspec.Struct, frozen=True):
    """A little of the work: what it covered, and what it came upon."""

    files: int = 0
    lines: int = 0
    bytes: int = 0
    findings: tuple[Finding, ...] = ()
    notes: tuple[Note, ...] = ()


Stepwise = Generator[Step, None, T]


class Group(msgspec.Struct, frozen=True):
    """Some lines, the offset of the first, and how many bytes were read for them.

    A line that is too long for memory stands alone, as its ``long`` size, and ``lines`` is empty.
    """

    offset: int
    lines: list[bytes]
    read: int
    long: int = 0


@contextlib.contextmanager
def opened(path: Path) -> Generator[io.FileIO]:
    """A file, to be read from the disk and not from what the page cache remembers of it."""
    with path.open("rb", buffering=0) as file:
        _forget(file)
        try:
            yield file
        finally:
            _forget(file)  # nor shall what was read here displace what others use


def _forget(file: io.FileIO) -> None:
    with contextlib.suppress(OSError):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def pieces(file: io.FileIO) -> Iterator[bytes]:
    while data := file.read(PIECE):
        yield data


def sha256(path: Path) -> Stepwise[str]:
    """The checksum of a file."""
    digest = hashlib.sha256()
    with opened(path) as file:
        for data in pieces(file):
            digest.update(data)
            yield Step(bytes=len(data))
    return digest.hexdigest()


def readable(
    path: str, look: Stepwise[list[Finding]], *, file: str | None = None, batch: str | None = None
) -> Stepwise[list[Finding]]:
    """As ``look``; what the system does not let be read is a finding too."""
    try:
        return (yield from look)
    except FileNotFoundError:
        return []  # it has gone since its size was looked at
    except OSError as error:
        reason = error.strerror or type(error).__name__
        unreadable = DamageKind.UNREADABLE
        return [Finding(kind=unreadable, path=path, file=file, batch=batch, reason=reason)]


def groups(file: io.FileIO, longest: int = LONGEST_LINE) -> Iterator[Group]:
    """All lines in order, newlines included, about a piece at a time; the last may have none."""
    offset, held = 0, 0  # of what is not yet told: where it begins, and how much of it was read
    rest: list[bytes] = []
    for data in pieces(file):
        begin, cut = 0, data.rfind(b"\n") + 1
        if cut and held > longest:
            begin = data.find(b"\n") + 1
            yield Group(offset, [], 0, long=held + begin)
            offset, held = offset + held + begin, 0
        at, lines = offset, list[bytes]()
        if cut > begin:
            block = b"".join([*rest, data[begin:cut]])
            lines, offset, held, rest = io.BytesIO(block).readlines(), offset + len(block), 0, []
        held += len(data) - max(begin, cut)
        if held > longest:
            rest.clear()
        else:
            rest.append(data[max(begin, cut) :])
        yield Group(at, lines, len(data))
    if held > longest:
        yield Group(offset, [], 0, long=held)
    elif held:
        yield Group(offset, [b"".join(rest)], 0)
