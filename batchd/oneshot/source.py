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
        with _readable(self.name):
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
        name = "standard input" if path is None else _told(path)
        is_stream = path is None or not stat.S_ISREG(os.fstat(given.fileno()).st_mode)
        file = stack.enter_context(_kept(given, name, beside)) if is_stream else given
        with _readable(name):
            size, sha256 = file.seek(0, os.SEEK_END), _sha256(file)
        yield Source(file, name, sha256, size, is_stream)


def _told(path: Path) -> str:
    """Its name as text: a name may be any bytes, and is stored and told as UTF-8."""
    return os.fsencode(path.name).decode(errors="replace")


def _kept(given: BinaryIO, name: str, beside: Path) -> BinaryIO:
    """A stream as a file without a name."""
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile(dir=beside))
            while piece := _piece(given, name):
                file.write(piece)
            file.flush()
            stack.pop_all()
            return file
    except OSError as error:
        raise RunRefused(
            f"{name} cannot be kept in {beside}: {error.strerror}; nothing was sent: name a "
            "directory with more room with --state"
        ) from None


def _piece(given: BinaryIO, name: str) -> bytes:
    with _readable(name):
        return given.read(_PIECE)


@contextlib.contextmanager
def _readable(name: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise RunRefused(f"{name} cannot be read: {error.strerror}") from None


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
