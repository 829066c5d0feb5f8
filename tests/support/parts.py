"""The real parts of batchd, opened on a directory; only time and chance are the test's."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from batchd.batches import Batches
from batchd.damage import Damage
from batchd.disk import Disk
from batchd.files import Files
from batchd.jsonl import IndexWriter
from batchd.metrics import Metrics
from batchd.model import LOCAL_OWNER, BatchRecord, FileRecord, NewBatch
from batchd.room import Room
from batchd.spool import Spool
from batchd.store.database import Database
from batchd.writer import Writer
from tests.support.fakes import Clock, Draws, HastyDisk

ENDPOINT = "/v1/chat/completions"
WINDOW = 86400


def request(custom_id: str, *, model: str = "m", size: int = 0) -> bytes:
    """One good line of an input file, made longer by ``size`` bytes."""
    body = {"model": model, "messages": [{"role": "user", "content": "x" * size}]}
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line).encode() + b"\n"


def requests(names: str, *, size: int = 0) -> bytes:
    """A good line for each letter."""
    return b"".join(request(name, size=size) for name in names)


class Parts:
    """What the engine and the doors stand on."""

    def __init__(  # noqa: PLR0913, PLR0917 - all that a test wants to reach
        self,
        spool: Spool,
        room: Room,
        metrics: Metrics,
        database: Database,
        writer: Writer,
        clock: Clock,
    ) -> None:
        self.spool = spool
        self.room = room
        self.metrics = metrics
        self.damage = Damage(metrics)
        self.database = database
        self.writer = writer
        self.clock = clock
        self.rings = 0
        self.draws = Draws()
        self.files = Files(
            database,
            spool,
            max_size=1 << 20,
            room=room,
            damage=self.damage,
            lifetime=30 * 86400,
            now=clock,
            draw=self.draws,
        )
        self.batches = Batches(
            database,
            self.files,
            room=room,
            now=clock,
            draw=self.draws,
            ring=self._ring,
        )

    def _ring(self) -> None:
        self.rings += 1

    async def upload(
        self, data: bytes, *, purpose: str = "batch", expires_after: int | None = None
    ) -> FileRecord:
        async with self.files.receive() as upload:
            await upload.write(data)
            return await self.files.create(
                LOCAL_OWNER,
                upload,
                filename="input.jsonl",
                purpose=purpose,
                expires_after=expires_after,
            )

    async def create(self, input_file_id: str) -> BatchRecord:
        """A batch in ``validating``."""
        wish = NewBatch(
            input_file_id=input_file_id,
            endpoint=ENDPOINT,
            completion_window="24h",
            window=WINDOW,
            output_expires_after=3600,
        )
        return await self.batches.create(LOCAL_OWNER, wish)

    async def running(self, data: bytes) -> BatchRecord:
        """A batch in ``in_progress`` that holds its input and its index."""
        record = await self.create((await self.upload(data)).id)
        await asyncio.to_thread(self._index, record, data)
        total = len(data.splitlines())
        validated = await self.batches.validated(record.id, total=total, model="m")
        assert validated is not None
        return validated

    def _index(self, record: BatchRecord, data: bytes) -> None:
        self.spool.hold(record.input_file_id, record.id)
        index = IndexWriter(self.spool.index(record.id))
        offset = 0
        for line in data.splitlines(keepends=True):
            index.add(offset, len(line) - 1)
            offset += len(line)
        index.close()

    async def row(self, batch_id: str) -> BatchRecord:
        record = await self.batches.find(batch_id)
        assert record is not None
        return record

    def results(self, file_id: str | None) -> list[dict[str, object]]:
        """The lines of a result file."""
        if file_id is None or not self.spool.file(file_id).exists():
            return []
        return [json.loads(line) for line in self.spool.file(file_id).read_bytes().splitlines()]


def no_accident(reason: str) -> None:
    raise AssertionError(reason)


@contextlib.asynccontextmanager
async def opened(
    directory: Path, disk: Disk | None = None, clock: Clock | None = None, *, reserve: int = 0
) -> AsyncGenerator[Parts]:
    """The parts on ``directory``; whatever ends batchd fails the test."""
    spool = Spool(directory, disk or HastyDisk())
    room, metrics = Room(spool.disk, directory, reserve=reserve), Metrics()
    await asyncio.to_thread(spool.prepare)
    async with (
        Database.opened(spool.database, no_accident, room.make_room) as database,
        Writer(spool.disk, room, metrics, no_accident).running() as writer,
    ):
        yield Parts(spool, room, metrics, database, writer, clock or Clock())


async def parts_in(directory: Path) -> AsyncIterator[Parts]:
    """For fixtures."""
    async with opened(directory) as parts:
        yield parts
