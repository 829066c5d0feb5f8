"""batchd's ``Files`` with uploads that are written to the simulated disk.

What is written, in which order and what is then the commit is batchd's; an input is not looked at.
"""

import contextlib
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from batchd.disk import is_full
from batchd.errors import NoRoom
from batchd.files import Files, Upload
from tests.simulation.disk import SimDisk

if TYPE_CHECKING:
    import aiofiles


class _Out:
    """An open file of the simulated disk."""

    def __init__(self, disk: SimDisk, descriptor: int) -> None:
        self._disk = disk
        self.descriptor = descriptor

    async def write(self, data: bytes) -> None:
        await self._disk.run(self._disk.append, self.descriptor, data)


class _Upload(Upload):
    def __init__(self, path: Path, disk: SimDisk, descriptor: int) -> None:
        out = _Out(disk, descriptor)
        super().__init__(
            path, cast("aiofiles.threadpool.binary.AsyncBufferedIOBase", out), lambda: None
        )
        self._disk = disk
        self._descriptor = descriptor

    async def finish(self) -> None:
        await self._disk.run(self._disk.sync, self._descriptor)


class SimFiles(Files):
    """The files of one life."""

    @contextlib.asynccontextmanager
    async def receive(self, expected: int | None = None) -> AsyncGenerator[Upload]:
        disk = cast("SimDisk", self._spool.disk)
        await disk.run(self._room.check, expected or 0)
        path = self._spool.incoming(self._draw(16).hex())
        try:
            with _no_room_when_full():
                descriptor = await disk.run(disk.open_append, path)
                try:
                    yield _Upload(path, disk, descriptor)
                finally:
                    disk.close(descriptor)
        finally:
            await disk.run(disk.remove, path)

    async def _check_batch_input(self, upload: Upload) -> None:
        """It is what the plan says."""


@contextlib.contextmanager
def _no_room_when_full() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise NoRoom from error
        raise
