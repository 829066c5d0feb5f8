"""A storage directory with something of everything in it, and what a look over it finds."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import pytest

from batchd.closing import Closing
from batchd.ids import batch_tag
from batchd.model import BatchRecord, Counts, Progress, RequestLine, Usage
from batchd.spool import Spool
from batchd.states import Event
from batchd.upkeep.fsck import fsck
from batchd.upkeep.steps import Step, Stepwise
from batchd.wire.lines import CANCELLED, never_run_line, reply_line
from tests.support.fakes import OK, REFUSED, START
from tests.support.parts import Parts, opened, requests

T = TypeVar("T")

DAY = 86400


class Looked:
    """What one look found."""

    def __init__(self, spool: Spool, *, quick: bool, now: float) -> None:
        steps = list(fsck(spool.directory, quick=quick, orphan_age=DAY, now=lambda: now))
        self.findings = [one for step in steps for one in step.findings]
        self.notes = [one for step in steps for one in step.notes]
        self.files = sum(step.files for step in steps)
        self.lines = sum(step.lines for step in steps)
        self.bytes = sum(step.bytes for step in steps)

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(finding.kind.value, finding.path) for finding in self.findings]


class Storage:
    """What a daemon has made: an upload, a batch that runs, and one that has ended."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.spool = parts.spool
        self.running: BatchRecord
        self.ended: BatchRecord

    async def fill(self) -> None:
        self.running = await self.parts.running(requests("abcdef"))
        output = b"".join(result(self.running, index) for index in (1, 0, 4))
        errors = result(self.running, 3, refused=True)
        self.write(self.running.output_file_id, output)
        self.write(self.running.error_file_id, errors)
        known = Progress(Counts(6, 3, 1), output_end=len(output), error_end=len(errors))
        await self.parts.batches.checkpoint(self.running.id, known)
        batch = await self.parts.running(requests("uvwxyz"))
        output = b"".join(result(batch, index) for index in range(4))
        errors = result(batch, 4, refused=True) + never_run(batch, 5)
        self.write(batch.output_file_id, output)
        self.write(batch.error_file_id, errors)
        closing = Closing(
            counts=Counts(6, 4, 1), usage=Usage(), output_bytes=len(output), error_bytes=len(errors)
        )
        await self.parts.batches.advance(batch.id, Event.CANCEL)
        ended = await self.parts.batches.finished(batch.id, Event.PUBLISHED, closing)
        assert ended is not None
        self.ended = ended
        await asyncio.to_thread(self.spool.release, batch.id)
        self.running = await self.parts.row(self.running.id)

    def write(self, file_id: str | None, data: bytes) -> None:
        assert file_id is not None
        self.spool.file(file_id).write_bytes(data)

    async def look(self, *, quick: bool = False, now: float = START) -> Looked:
        return await asyncio.to_thread(Looked, self.spool, quick=quick, now=now)

    @property
    def input(self) -> Path:
        return self.spool.file(self.running.input_file_id)

    @property
    def hold(self) -> Path:
        return self.spool.input(self.running.id)

    @property
    def index(self) -> Path:
        return self.spool.index(self.running.id)

    @property
    def ledger(self) -> Path:
        return self.spool.file(str(self.running.output_file_id))

    @property
    def output(self) -> Path:
        return self.spool.file(str(self.ended.output_file_id))

    @property
    def errors(self) -> Path:
        return self.spool.file(str(self.ended.error_file_id))


def taken(look: Stepwise[T]) -> tuple[list[Step], T]:
    """All steps of a look, and what it came to."""
    steps: list[Step] = []
    while True:
        try:
            steps.append(next(look))
        except StopIteration as end:
            return steps, end.value


def result(batch: BatchRecord, index: int, *, refused: bool = False) -> bytes:
    line = RequestLine(index, f"line-{index}", "m", b"{}")
    return reply_line(batch_tag(batch.id), line, REFUSED if refused else OK)


def never_run(batch: BatchRecord, index: int) -> bytes:
    return never_run_line(batch_tag(batch.id), index, f"line-{index}", CANCELLED)


def flip(path: Path, at: int) -> None:
    """Change one byte of a file, and of no other name of it."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    replace(path, bytes(data))


def replace(path: Path, data: bytes) -> None:
    """Give a name other bytes; other names keep the old ones."""
    path.unlink()
    path.write_bytes(data)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    async with opened(tmp_path / "state") as parts:
        made = Storage(parts)
        await made.fill()
        yield made
