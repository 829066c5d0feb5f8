"""An upload as multipart/form-data, read from disk piece by piece.

Bounded memory, and an exact length beforehand. A file that changes while it is read, or between
two of its parts, stops the upload before its end, so that the daemon never stores half a line.
"""

import os
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from batchd.cli.errors import CommandFailed

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE = 256 * 1024


class Stamp(NamedTuple):
    """By what a file is known to be as it was."""

    size: int
    changed: int

    @classmethod
    def of(cls, file: BinaryIO) -> "Stamp":
        found = os.fstat(file.fileno())
        return cls(found.st_size, found.st_mtime_ns)


class Span(NamedTuple):
    """A part of a file, which must be as it was when it was divided."""

    start: int
    end: int
    stamp: Stamp


class FileForm:
    """A form with the field ``purpose`` and the file at ``path``, or a part of it.

    ``name`` is what the daemon is to call it.
    """

    def __init__(self, path: Path, purpose: str, name: str, span: Span | None = None) -> None:
        self.path = path
        self._span = span
        self._boundary = os.urandom(16).hex()
        name = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        self._head = (
            f"--{self._boundary}\r\n"
            f'Content-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
            f"--{self._boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode(errors="surrogateescape")
        self._tail = f"\r\n--{self._boundary}--\r\n".encode()

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self._boundary}"

    def size(self, file: BinaryIO) -> int:
        span = self._span_of(file)
        return len(self._head) + span.end - span.start + len(self._tail)

    def pieces(self, file: BinaryIO) -> Iterator[bytes]:
        span = self._span_of(file)
        yield self._head
        file.seek(span.start)
        left = span.end - span.start
        while left and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece
        if left or Stamp.of(file) != span.stamp:
            raise CommandFailed(f"{self.path} changed while it was uploaded; submit it again")
        yield self._tail

    def _span_of(self, file: BinaryIO) -> Span:
        """The part that is asked for, else all of the file as it is now."""
        stamp = Stamp.of(file)
        return self._span or Span(0, stamp.size, stamp)


class _Input(FileIO):
    """What cannot be read of it is said with its name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path

    def readinto(self, buffer: "WriteableBuffer", /) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise _unreadable(self._path, error) from None


def open_file(path: Path) -> BinaryIO:
    """Open a file that can be uploaded, or say why it cannot."""
    try:
        file = BufferedReader(_Input(path))
    except OSError as error:
        raise _unreadable(path, error) from None
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CommandFailed(f"{path} is not a file; hand its content to `batchd submit -`")
    return file


def _unreadable(path: Path, error: OSError) -> CommandFailed:
    return CommandFailed(f"{path} cannot be read: {error.strerror}")
