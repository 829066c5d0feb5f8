"""A storage directory as a killed daemon leaves it: batches in progress, half of their lines done.

Rows, input, index and result lines are made by the program's own parts, so a start finds what it
would find after a real run; only the model server was never asked. The order of lines in the result
files is not that of the input, some lines were refused, the row's checkpoint is a little behind,
and the last line is torn.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from batchd import ids
from batchd.disk import Disk
from batchd.jsonl import IndexWriter
from batchd.model import (
    LOCAL_OWNER,
    NO_USAGE,
    BatchRecord,
    Counts,
    FileRecord,
    LineFile,
    Progress,
    Purpose,
    Reply,
    RequestLine,
    Usage,
)
from batchd.spool import Spool
from batchd.store import files as file_table
from batchd.wire.lines import file_of, reply_line
from benchmarks.job import write_input
from tests.support.fakes import Clock
from tests.support.parts import Parts, opened

T = TypeVar("T")

_INPUT_LINE = 200
_REFUSED_EVERY = 100
_MIXED = 0b101101  # lines of one stretch of 64 end in another order than they began
_GROUP = 4096
# The row is written every five seconds: this much of the result files is newer.
_BEHIND = 0.05
_TEXT = (
    "The river rises in the hills north of the town, passes three old mills and a railway bridge "
    "and reaches the sea after sixty kilometres. Most of the valley is farmland; the upper part "
    "is forest, and a nature reserve since 1974. Trains stop twice an hour in both directions."
)


class HalfDone(msgspec.Struct, frozen=True):
    """What was prepared: the batches' ids, their result files, and how many lines those hold."""

    batch_ids: list[str]
    ledgers: list[Path]
    lines: int

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.ledgers)


async def prepare(state: Path, *, batches: int, lines: int) -> HalfDone:
    """Fill an empty directory with ``batches`` half-done batches of ``lines`` lines each."""
    async with opened(state, Disk(), Clock(time.time())) as parts:
        input_id = await _input(parts, lines) if batches else ""
        found = HalfDone([], [], batches * (lines // 2))
        for _ in range(batches):
            record = await parts.create(input_id)
            _hold(parts.spool, record, lines)
            validated = await parts.batches.validated(record.id, total=lines, model="test-model")
            found.batch_ids.append(record.id)
            found.ledgers.extend(await _ledgers(parts, _there(validated)))
    return found


async def _input(parts: Parts, lines: int) -> str:
    """The one input of all batches."""
    file_id = ids.file_id(os.urandom(ids.FILE_ID_BYTES))
    path = parts.spool.file(file_id)
    record = FileRecord(
        id=file_id,
        owner=LOCAL_OWNER,
        filename="input.jsonl",
        purpose=Purpose.BATCH,
        bytes=write_input(path, count=lines, line_size=_INPUT_LINE),
        sha256=None,
        created_at=int(time.time()),
        expires_at=None,
    )
    await parts.database.write(lambda tx: file_table.insert(tx, record))
    return file_id


def _hold(spool: Spool, record: BatchRecord, lines: int) -> None:
    spool.hold(record.input_file_id, record.id)
    index = IndexWriter(spool.index(record.id))
    for number in range(lines):
        index.add(number * _INPUT_LINE, _INPUT_LINE - 1)
    index.close()


async def _ledgers(parts: Parts, record: BatchRecord) -> list[Path]:
    """Write the two result files and the checkpoint; their paths."""
    paths = {
        LineFile.OUTPUT: parts.spool.file(_there(record.output_file_id)),
        LineFile.ERROR: parts.spool.file(_there(record.error_file_id)),
    }
    half = record.counts.total // 2
    checkpoint_at = half - max(1, int(half * _BEHIND))
    known = Progress(Counts(record.counts.total))
    ends = dict.fromkeys(paths, 0)
    opened_files = {which: path.open("wb") for which, path in paths.items()}
    try:
        for first in range(0, half, _GROUP):
            for which, lines, usage in _results(record, first, min(first + _GROUP, half)):
                opened_files[which].write(b"".join(lines))
                if first < checkpoint_at:
                    known = _more(known, which, len(lines), usage)
                    ends[which] = opened_files[which].tell()
        opened_files[LineFile.OUTPUT].write(b'{"id":"batch_req_torn by the kill')
    finally:
        for file in opened_files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
    known = msgspec.structs.replace(
        known, output_end=ends[LineFile.OUTPUT], error_end=ends[LineFile.ERROR]
    )
    await parts.batches.checkpoint(record.id, known)
    return list(paths.values())


def _results(
    record: BatchRecord, first: int, end: int
) -> Iterator[tuple[LineFile, list[bytes], Usage]]:
    """A stretch of result lines for each of the two files, with the usage of its answers."""
    tag = ids.batch_tag(record.id)
    lines: dict[LineFile, list[bytes]] = {which: [] for which in LineFile}
    usage = NO_USAGE
    for number in range(first, end):
        index = number ^ _MIXED
        line = RequestLine(index, f"line-{index:08d}", "test-model", b"")
        reply = _refusal(index) if index % _REFUSED_EVERY == 0 else _answer(index)
        lines[file_of(reply)].append(reply_line(tag, line, reply))
        usage += reply.usage
    yield LineFile.OUTPUT, lines[LineFile.OUTPUT], usage
    yield LineFile.ERROR, lines[LineFile.ERROR], NO_USAGE


def _there(value: T | None) -> T:
    if value is None:
        raise RuntimeError("the batch that was made is not as it should be")
    return value


def _more(known: Progress, which: LineFile, lines: int, usage: Usage) -> Progress:
    counts = known.counts
    if which is LineFile.ERROR:
        counts = msgspec.structs.replace(counts, failed=counts.failed + lines)
    else:
        counts = msgspec.structs.replace(counts, completed=counts.completed + lines)
    return Progress(counts, known.usage + usage)


def _answer(index: int) -> Reply:
    text = _TEXT[: 20 + index * 37 % 260].encode()
    prompt, completion = 20 + index % 13, 5 + len(text) // 4
    body = (
        b'{"id":"chatcmpl-%08x","object":"chat.completion","created":1763876000,'
        b'"model":"test-model","choices":[{"index":0,"message":{"role":"assistant","content":"%b"},'
        b'"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":%d,'
        b'"completion_tokens":%d,"total_tokens":%d}}'
    ) % (index, text, prompt, completion, prompt + completion)
    usage = Usage(prompt, 0, completion, 0, prompt + completion)
    return Reply(status_code=200, request_id=f"req_{index:032x}", body=body, usage=usage)


def _refusal(index: int) -> Reply:
    body = b'{"error":{"message":"The prompt is too long.","type":"invalid_request_error"}}'
    return Reply(status_code=400, request_id=f"req_{index:032x}", body=body)
