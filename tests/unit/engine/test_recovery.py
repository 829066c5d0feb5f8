"""A start reads back what every unfinished batch has come to."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from batchd.damage import Damage
from batchd.engine.orders import Orders
from batchd.engine.recovery import Recovery
from batchd.engine.runs import Run, Runs
from batchd.errors import SpoolError
from batchd.ids import batch_tag
from batchd.metrics import Metrics
from batchd.model import BatchRecord, Counts, LineFile, Progress, RequestLine
from batchd.states import Event
from batchd.store import Transaction
from batchd.store import batches as table
from batchd.wire.lines import EXPIRED, never_run_line, reply_line
from tests.support.fakes import OK, REFUSED, TroubledDisk
from tests.support.parts import Parts, opened, requests
from tests.support.waiting import until


class Starting:
    """One start."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.runs = Runs(parts.batches.live, lambda _: None)
        self.recovery = Recovery(
            parts.spool,
            parts.batches,
            self.runs,
            parts.writer,
            parts.metrics,
            parts.damage,
            Orders(parts.spool, "prefix").open,
        )


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path) as opened_parts:
        yield opened_parts


def result(record: BatchRecord, index: int, *, refused: bool = False) -> bytes:
    line = RequestLine(index, f"line-{index}", "m", b"{}")
    return reply_line(batch_tag(record.id), line, REFUSED if refused else OK)


async def write(parts: Parts, file_id: str | None, data: bytes) -> Path:
    assert file_id is not None
    path = parts.spool.file(file_id)
    await asyncio.to_thread(path.write_bytes, data)
    return path


def to_send(run: Run) -> list[int]:
    """The lines that go, in their order."""
    [queue] = run.queues
    taken = list[int]()
    while (index := queue.take(0, "gpu", 1, lambda: False)) is not None:
        taken.append(index)
    return taken


async def test_counts_and_usage_come_back(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    record = await parts.running(requests("abcde"))
    await write(parts, record.output_file_id, result(record, 1) + result(record, 0) + b'{"id')
    never = never_run_line(batch_tag(record.id), 4, "e", EXPIRED)
    await write(parts, record.error_file_id, result(record, 3, refused=True) + never)
    it = Starting(parts)
    await it.recovery.recover_all()
    run = it.runs.get(record.id)
    assert run is not None
    assert run.ledger.counts == Counts(5, 2, 1)
    assert (run.ledger.missing, run.ledger.never_run) == (1, 1)
    assert run.ledger.usage.total_tokens == 10
    assert run.ledger.end(LineFile.OUTPUT) == len(result(record, 0)) * 2
    assert to_send(run) == [2]
    logged = {entry.message: vars(entry) for entry in caplog.records}
    assert (logged["batch_recovered"]["done"], logged["batch_recovered"]["total"]) == (4, 5)
    size = run.ledger.end(LineFile.OUTPUT) + run.ledger.end(LineFile.ERROR)
    read = [logged["ledgers_read"][name] for name in ("batches", "lines", "bytes")]
    assert read == [1, 4, size]
    seen = parts.batches.progress(await parts.row(record.id))
    ends = (run.ledger.end(LineFile.OUTPUT), run.ledger.end(LineFile.ERROR))
    known = Progress(Counts(5, 2, 1), run.ledger.usage, output_end=ends[0], error_end=ends[1])
    assert seen == known


async def test_only_batches_that_are_to_run_get_a_run(parts: Parts) -> None:
    validating = await parts.create("file-" + "0" * 22)
    cancelled = await parts.running(requests("a"))
    await parts.batches.cancel("local", cancelled.id)
    ended = await parts.create("file-" + "0" * 22)
    await parts.batches.rejected(ended.id, [])
    it = Starting(parts)
    await it.recovery.recover_all()
    assert [run.id for run in it.runs] == [cancelled.id]
    for batch_id in (validating.id, ended.id, "batch_" + "0" * 32):
        await it.recovery.open(batch_id)
    first = it.runs.get(cancelled.id)
    await it.recovery.open(cancelled.id)
    assert list(it.runs) == [first]


async def test_damage_is_told_to_everybody(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    record = await parts.running(requests("abc"))
    data = result(record, 0) + result(record, 1)
    path = await write(parts, record.output_file_id, data[:-9] + b"X" + data[-8:])
    await parts.batches.checkpoint(record.id, Progress(Counts(3, 2), output_end=len(data)))
    it = Starting(parts)
    await it.recovery.recover_all()
    run = it.runs.get(record.id)
    assert run is not None
    assert to_send(run) == [1, 2]
    assert path.with_name(path.name + ".damaged").exists()
    row = await parts.row(record.id)
    assert [note[:32] for note in row.notes] == ["the output file was damaged: eve"]
    assert str(record.output_file_id) in row.notes[0]
    entry = next(entry for entry in caplog.records if entry.message == "damage_found")
    assert (vars(entry)["kind"], vars(entry)["offset"]) == (
        "ledger_damaged",
        len(result(record, 0)),
    )
    assert b'batchd_damage_total{kind="ledger_damaged"} 1.0' in parts.metrics.text()
    assert (row.output_end, row.counts) == (len(result(record, 0)), Counts(3, 1))


@pytest.mark.parametrize(
    ("kept", "kind", "words"),
    [(1, "ledger_short", "was shorter than it had been"), (0, "ledger_missing", "was gone")],
)
async def test_lines_that_are_gone_run_again_and_the_next_start_has_nothing_to_say(
    parts: Parts, caplog: pytest.LogCaptureFixture, kept: int, kind: str, words: str
) -> None:
    record = await parts.running(requests("abc"))
    data = result(record, 0) + result(record, 1)
    if kept:
        await write(parts, record.output_file_id, result(record, 0))
    await parts.batches.checkpoint(record.id, Progress(Counts(3, 2), output_end=len(data)))
    for _ in range(2):
        parts.damage = Damage(Metrics())  # a new life has said nothing yet
        it = Starting(parts)
        await it.recovery.recover_all()
        run = it.runs.get(record.id)
        assert run is not None
        assert run.ledger.counts == Counts(3, kept)
    said = [vars(entry)["kind"] for entry in caplog.records if entry.message == "damage_found"]
    assert said == [kind]
    (note,) = (await parts.row(record.id)).notes
    assert f"the output file {words}" in note


async def test_after_a_failed_sync_ledgers_are_copied_once(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    record = await parts.running(requests("ab"))
    path = await write(parts, record.output_file_id, result(record, 0))
    inode = path.stat().st_ino
    await asyncio.to_thread(parts.spool.distrust)
    await Starting(parts).recovery.recover_all()
    copied = path.stat().st_ino
    assert copied != inode
    assert not await asyncio.to_thread(parts.spool.is_distrusted)
    await Starting(parts).recovery.recover_all()
    assert path.stat().st_ino == copied
    said = [vars(entry)["kind"] for entry in caplog.records if entry.message == "damage_found"]
    assert said == ["sync_failed"]


async def test_a_start_on_a_full_disk_waits_for_the_room_to_mend_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.engine.recovery._ROOM_AGAIN", 0.001)
    disk = TroubledDisk()
    async with opened(tmp_path, disk) as parts:
        record = await parts.running(requests("ab"))
        await write(parts, record.output_file_id, result(record, 0))
        await asyncio.to_thread(parts.spool.distrust)
        disk.room = 10
        it = Starting(parts)
        recovering = asyncio.create_task(it.recovery.recover_all())
        await until(lambda: disk.log.count("write") > 2)
        assert not recovering.done()
        disk.room = None
        await recovering
        (run,) = it.runs
        assert run.ledger.missing == 1


async def test_an_unfinished_batch_without_its_files_is_not_touched(parts: Parts) -> None:
    record = await parts.running(requests("ab"))
    lost = msgspec.structs.replace(record, output_file_id=None)

    async def lose(tx: Transaction) -> bool:
        return await table.update(tx, record.status, lost)

    assert await parts.database.write(lose)
    with pytest.raises(SpoolError, match="has lost its output file"):
        await Starting(parts).recovery.recover_all()


async def test_a_batch_that_was_finalizing_is_opened_too(parts: Parts) -> None:
    record = await parts.running(requests("ab"))
    await parts.batches.advance(record.id, Event.WINDOW_CLOSED)
    it = Starting(parts)
    await it.recovery.recover_all()
    assert record.id in it.runs
