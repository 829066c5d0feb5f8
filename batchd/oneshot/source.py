"""The input of a run: open, known by its checksum.

A file is read where it lies. What can be read only once (standard input, a pipe) is copied first
to a file without a name, so that a crash leaves nothing of it.
"""

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

import msgspec

from batchd.jsonl import BOM, lines
from batchd.oneshot.place import RunRefused

_PIECE = 1 << 20


class _Line(msgspec.Struct):
    url: str


class Source(msgspec.Struct, frozen=True):
    """``is_stream``: it cannot be read again from where it came."""

    file: BinaryIO
    name: str
    sha256: str
    size: int
    is_stream: bool

    def endpoint(self) -> str:
        """The one that the first line names. ``RunRefused`` if it names none."""
        self.file.seek(0)
        texts = (line.removeprefix(BOM).strip() for _, line in lines(self.file))
        first = next((text for text in texts if text), None)
        if first is None:
            raise RunRefused(f"{self.name} is empty: there must be one line at least")
        try:
            return msgspec.json.decode(first, type=_Line).url
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise RunRefused(
                f"the first line of {self.name} is not a JSON object with a url: an input has a "
                "request on each line, as for OpenAI's Batch API"
            ) from None


def _stdin() -> BinaryIO:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - so it is when it was closed
        raise RunRefused("standard input is closed: name a file, or send the requests to it")
    return sys.stdin.buffer


@contextlib.contextmanager
def opened(path: Path | None, beside: Path) -> Generator[Source]:
    """The input at ``path``, or standard input; a stream is kept on the disk of ``beside``."""
    with contextlib.ExitStack() as stack:
        given = _stdin() if path is None else stack.enter_context(_open(path))
        name = "standard input" if path is None else path.name
        is_stream = path is None or not stat.S_ISREG(os.fstat(given.fileno()).st_mode)
        file = given
        if is_stream:
            file = stack.enter_context(tempfile.TemporaryFile(dir=beside))
            while piece := given.read(_PIECE):
                file.write(piece)
        size = file.seek(0, os.SEEK_END)
        yield Source(file, name, _sha256(file), size, is_stream)


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise RunRefused(f"there is no file {path}") from None
    except OSError as error:
        raise RunRefused(f"{path} cannot be read: {error.strerror}") from None
