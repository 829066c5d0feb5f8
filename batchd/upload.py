"""An upload on its way into the spool: its bytes as they come, and what is told from them.

Knows neither rows nor owners. Whoever opens the file removes it.
"""

import asyncio
import hashlib
import os
from codecs import getincrementaldecoder
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batchd.jsonl import BOM, lines

if TYPE_CHECKING:
    from aiofiles.threadpool.binary import AsyncBufferedIOBase

_MAX_FILENAME = 255
_CHECK_ROOM = 4 << 20  # bytes between two looks at the disk

_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class Upload:
    """Bytes on their way into the spool: written to disk as they come, judged at the end."""

    def __init__(
        self,
        path: Path,
        out: "AsyncBufferedIOBase",
        check_room: Callable[[], None],
    ) -> None:
        self.path = path
        self.size = 0
        self._out = out
        self._check_room = check_room
        self._checked = 0
        self._sha256 = hashlib.sha256()
        self._decoder = getincrementaldecoder("utf-8")()
        self.is_utf8 = True

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    async def write(self, data: bytes) -> None:
        """Append a piece (best some hundred KiB: each is a hop to a thread)."""
        self.size += len(data)
        await self._out.write(data)
        await asyncio.to_thread(self._look_at, data, final=False)

    async def finish(self) -> None:
        """Make the bytes durable."""
        await self._out.flush()
        await asyncio.to_thread(os.fsync, self._out.fileno())
        await asyncio.to_thread(self._look_at, b"", final=True)

    def _look_at(self, data: bytes, *, final: bool) -> None:
        if self.size - self._checked >= _CHECK_ROOM:
            self._checked = self.size
            self._check_room()
        self._sha256.update(data)
        if self.is_utf8:
            try:
                self._decoder.decode(data, final)
            except UnicodeDecodeError:
                self.is_utf8 = False


def clean_filename(name: str) -> str:
    """A client's name for a file as text to show: no path, no control characters, 255 at most."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(letter for letter in base if letter.isprintable())
    return shown[:_MAX_FILENAME] or "upload"


def starts_with_json(path: Path) -> bool:
    """Whether its first line that is not blank is JSON. Blocks."""
    with path.open("rb") as file:
        for _, line in lines(file):
            text = line.removeprefix(BOM).strip()
            if text:
                try:
                    _check_json(text)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    return False
                return True
    return False
