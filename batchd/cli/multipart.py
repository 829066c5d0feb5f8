"""An upload as multipart/form-data, read from disk piece by piece.

Bounded memory, and an exact length beforehand. A file that changes while it is read stops the
upload before its end, so that the daemon never stores half a line.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from batchd.cli.errors import CommandFailed

_PIECE = 256 * 1024


class FileForm:
    """A form with the field ``purpose`` and the file at ``path``."""

    def __init__(self, path: Path, purpose: str) -> None:
        self.path = path
        self._boundary = os.urandom(16).hex()
        name = path.name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
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
        return len(self._head) + os.fstat(file.fileno()).st_size + len(self._tail)

    def pieces(self, file: BinaryIO) -> Iterator[bytes]:
        before = os.fstat(file.fileno())
        yield self._head
        left = before.st_size
        while left and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece
        after = os.fstat(file.fileno())
        if left or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise CommandFailed(f"{self.path} changed while it was uploaded; submit it again")
        yield self._tail


def open_file(path: Path) -> BinaryIO:
    """Open a file that can be uploaded, or say why it cannot."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}") from None
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CommandFailed(f"{path} is not a file; save its content to one and submit that")
    return file
