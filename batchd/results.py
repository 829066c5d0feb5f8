"""The results of a batch so far: the part of its result files that is on disk for good.

A batch that runs has them too: its two files only grow, and a line that is counted is synced. A
cursor says how far a reader has come in both; what lies behind it can be read at any time, until
the files are gone. With its input each line carries its request, which is looked up by the index in
the line's id.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from batchd import ids
from batchd.batches import Batches
from batchd.disk import is_full
from batchd.errors import FileCorrupt, InvalidRequest, NoRoom, NotFound
from batchd.files import Files
from batchd.hops import hopping
from batchd.jsonl import BOM, IndexedLines, IndexWriter, Reads, line_groups, lines
from batchd.model import BatchRecord, LineFile
from batchd.spool import Spool
from batchd.states import TERMINAL
from batchd.unreadable import Readable, corrupt_if_unreadable
from batchd.wire.lines import check_result_lines, with_input

_CURSOR = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_AT_ONCE = 2  # indexes being made
_PIECE = 1 << 18
_NOT_AS_VALIDATED = (
    "The input file of batch {id} does not have the lines any more that it was validated with: it "
    "is damaged. Run `batchd fsck` where batchd runs."
)


class Cursor(msgspec.Struct, frozen=True):
    """How far a reader has come: offsets in the output and in the error file."""

    output: int = 0
    error: int = 0

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise _no_cursor(text)
        return cls(int(found[1], 16), int(found[2], 16))

    def __str__(self) -> str:
        return f"{self.output:x}-{self.error:x}"


class Part(msgspec.Struct, frozen=True):
    """Whole lines of one file."""

    path: Path
    start: int
    end: int


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What there is behind a cursor. ``has_more``: later there may be more behind ``next``."""

    record: BatchRecord
    parts: list[Part]
    next: Cursor
    has_more: bool

    @property
    def size(self) -> int:
        return sum(part.end - part.start for part in self.parts)


class Results:
    """Reads results of batches that run or have ended."""

    def __init__(self, files: Files, batches: Batches, spool: Spool) -> None:
        self._files = files
        self._batches = batches
        self._spool = spool
        # Each keeps a thread busy, and so the loop from its turns.
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def find(
        self, owner: str, batch_id: str, after: Cursor, which: Collection[LineFile]
    ) -> Found:
        """What is durable behind ``after``. ``NotFound`` if it is gone."""
        record = await self._batches.get(owner, batch_id)
        ends = self._ends(record)
        parts: list[Part] = []
        for file, file_id, start, end in (
            (LineFile.OUTPUT, record.output_file_id, after.output, ends.output),
            (LineFile.ERROR, record.error_file_id, after.error, ends.error),
        ):
            if file in which and start > end:
                raise _no_cursor(str(after))
            if file in which and start < end and file_id is not None:
                part = Part(await self._path(record, file_id), start, end)
                await self._spool.disk.run(_check_part, part, record, after)
                parts.append(part)
        reached = Cursor(
            ends.output if LineFile.OUTPUT in which else after.output,
            ends.error if LineFile.ERROR in which else after.error,
        )
        has_more = record.status not in TERMINAL
        return Found(record=record, parts=parts, next=reached, has_more=has_more)

    def _ends(self, record: BatchRecord) -> Cursor:
        progress = self._batches.live.of(record.id) if record.status not in TERMINAL else None
        if progress is not None:
            return Cursor(progress.output_end, progress.error_end)
        return Cursor(record.output_end, record.error_end)

    async def _path(self, record: BatchRecord, file_id: str) -> Path:
        if record.status not in TERMINAL:
            return self._spool.file(file_id)
        try:
            _, path = await self._files.find_bytes(record.owner, file_id)
        except NotFound:
            raise _gone(record) from None
        return path

    async def read(self, found: Found, *, with_inputs: bool) -> AsyncGenerator[bytes]:
        """The lines, in pieces."""
        async with AsyncExitStack() as stack:
            inputs = None
            if with_inputs and found.parts:
                inputs = await stack.enter_async_context(self._inputs(found.record))
            for part in found.parts:
                async for piece in hopping(_pieces(part, found.record, inputs)):
                    yield piece

    @asynccontextmanager
    async def _inputs(self, record: BatchRecord) -> AsyncGenerator[IndexedLines]:
        """The requests of a batch: of one that runs with its index, else with one made anew."""
        disk, spool = self._spool.disk, self._spool
        try:
            with corrupt_if_unreadable(_input(record)):
                opened = await disk.run(
                    IndexedLines, spool.input(record.id), spool.index(record.id)
                )
        except FileNotFoundError:
            opened = await self._indexed(record)
        try:
            yield opened
        finally:
            await disk.run(opened.close)

    async def _indexed(self, record: BatchRecord) -> IndexedLines:
        disk = self._spool.disk
        try:
            _, path = await self._files.find_bytes(record.owner, record.input_file_id)
        except NotFound:
            raise _input_gone(record) from None
        index = self._spool.incoming(f"{record.id}-{id(asyncio.current_task()):x}.index")
        try:
            async with self._at_once:
                async for _ in hopping(_index(path, index, _input(record))):
                    pass
            with corrupt_if_unreadable(_input(record)):
                indexed = await disk.run(IndexedLines, path, index)
        except FileNotFoundError:  # since it was looked at
            raise _input_gone(record) from None
        except OSError as error:
            if is_full(error):
                raise NoRoom from error
            raise
        finally:
            await disk.run(disk.remove, index)
        if len(indexed) != record.counts.total:
            await disk.run(indexed.close)
            raise FileCorrupt(_NOT_AS_VALIDATED.format(id=record.id))
        return indexed


def _gone(record: BatchRecord) -> NotFound:
    return NotFound(f"The results of batch {record.id} were deleted or have expired.")


def _input_gone(record: BatchRecord) -> NotFound:
    return NotFound(
        f"The input file {record.input_file_id} of batch {record.id} was deleted or has expired: "
        "its lines cannot be included."
    )


def _input(record: BatchRecord) -> str:
    return f"The input file of batch {record.id}"


def _result(record: BatchRecord) -> str:
    return f"A result file of batch {record.id}"


def _no_cursor(text: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid 'after': '{text[:64]}' is not a cursor of this batch's results. Leave it out to "
        "begin anew.",
        param="after",
        code="invalid_value",
    )


def _check_part(part: Part, record: BatchRecord, after: Cursor) -> None:
    """``InvalidRequest`` unless it begins with a line: a mended file may have become shorter."""
    if part.start:
        with _opened_part(part, record) as file:
            file.seek(part.start - 1)
            if Readable(file, _result(record)).read(1) != b"\n":
                raise _no_cursor(str(after))


def _opened_part(part: Part, record: BatchRecord) -> BinaryIO:
    try:
        return _opened(part.path, _result(record))
    except FileNotFoundError:  # since it was looked at
        raise _gone(record) from None


def _opened(path: Path, what: str) -> BinaryIO:
    with corrupt_if_unreadable(what):
        return path.open("rb")


class _Upto:
    """A file as if it ended at an offset."""

    def __init__(self, file: Reads, left: int) -> None:
        self._file = file
        self._left = left

    def read(self, size: int, /) -> bytes:
        data = self._file.read(min(size, self._left))
        if self._left and not data:
            raise FileCorrupt("A result file is shorter than it was: run `batchd fsck`.")
        self._left -= len(data)
        return data


def _pieces(part: Part, record: BatchRecord, inputs: IndexedLines | None) -> Iterator[bytes]:
    with _opened_part(part, record) as file:
        file.seek(part.start)
        upto = _Upto(Readable(file, _result(record)), part.end - part.start)
        for _, group in line_groups(upto):
            if inputs is None:
                yield b"".join(group)
            else:
                with corrupt_if_unreadable(_input(record)):
                    yield from _joined(group, record, inputs)


def _joined(group: list[bytes], record: BatchRecord, inputs: IndexedLines) -> Iterator[bytes]:
    """Each line with its request; requests may be large, so that a group is many pieces."""
    piece = bytearray()
    for line, index in zip(group, check_result_lines(ids.batch_tag(record.id), group), strict=True):
        if index is None or index >= len(inputs):
            raise FileCorrupt(
                f"A result of batch {record.id} is damaged: run `batchd fsck` where batchd runs."
            )
        piece += with_input(line, inputs.read(index))
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _index(path: Path, index_path: Path, what: str) -> Iterator[None]:
    """Write the index of an input file that was valid once, a slice at each step."""
    index = IndexWriter(index_path)
    try:
        with _opened(path, what) as file:
            for number, (offset, line) in enumerate(lines(Readable(file, what))):
                text = line.removeprefix(BOM) if offset == 0 else line
                if text.strip():
                    index.add(offset + len(line) - len(text), len(text.rstrip(b"\r\n")))
                if number % 4096 == 0:
                    yield
    finally:
        index.close()
