"""A sweep removes what has expired and what is nobody's, and nothing else."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import pytest

from batchd.bell import Bell
from batchd.closing import Closing
from batchd.disk import Disk
from batchd.errors import NoRoom, NotFound
from batchd.model import BatchRecord, Counts, InboxClaim, Usage
from batchd.spool import Spool
from batchd.states import BatchStatus, Event
from batchd.store import inbox as table
from batchd.sweeper import Sweeper
from tests.support.fakes import START
from tests.support.parts import WINDOW, Parts, opened, requests
from tests.support.waiting import until

AGE = 1000.0
OLD = START - AGE - 1
YOUNG = START - AGE + 1


class Sweeping:
    def __init__(self, parts: Parts, *, sweep_every: float = 60) -> None:
        self.parts = parts
        self.bell = Bell()
        self.sweeper = Sweeper(
            parts.batches,
            parts.files,
            parts.spool,
            self.bell,
            sweep_every=sweep_every,
            orphan_age=AGE,
            now=parts.clock,
        )

    def put(self, path: Path, *, at: float = OLD) -> Path:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (at, at))
        os.utime(path.parent, (at, at))
        return path


async def end(parts: Parts, record: BatchRecord) -> None:
    closing = Closing(counts=Counts(1, 1), usage=Usage(), output_bytes=1, error_bytes=0)
    assert await parts.batches.finished(record.id, Event.PUBLISHED, closing)


def claim(batch_id: str) -> InboxClaim:
    return InboxClaim(
        device=1, inode=2, mtime_ns=3, size=4, uid=0, name="a.jsonl", stem="a", batch_id=batch_id
    )


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Sweeping]:
    async with opened(tmp_path) as parts:
        yield Sweeping(parts)


async def test_expired_files_go_with_their_bytes(it: Sweeping) -> None:
    kept = await it.parts.upload(b"{}\n", expires_after=7200)
    gone = [await it.parts.upload(b"{}\n", expires_after=3600) for _ in range(150)]
    it.parts.clock.at += 3600
    await it.sweeper.sweep()
    assert it.parts.spool.file(kept.id).exists()
    for file in gone:
        assert not it.parts.spool.file(file.id).exists()
        with pytest.raises(NotFound):
            await it.parts.files.get("local", file.id)


async def test_orphans_of_every_kind_go_when_they_are_old(
    it: Sweeping, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    spool = it.parts.spool
    deleted = await it.parts.upload(b"{}\n")
    await it.parts.files.delete("local", deleted.id)
    ended = await it.parts.create("file-" + "0" * 22)
    await it.parts.batches.rejected(ended.id, [])
    places = [
        spool.incoming("abc"),
        spool.file("file-" + "1" * 22),  # published, and no row was written
        spool.file(deleted.id),  # a tombstone whose bytes were not removed
        spool.file(str(ended.output_file_id)),  # the empty ledger of a batch that has ended
        spool.file("file-" + "2" * 22 + ".salvage"),
        spool.input(ended.id),
        spool.index("batch_" + "0" * 32),
    ]
    for path in places:
        it.put(path, at=YOUNG)
    await it.sweeper.sweep()
    assert all(path.exists() for path in places)
    for path in places:
        it.put(path, at=OLD)
    await it.sweeper.sweep()
    assert not any(path.exists() for path in places)
    (swept,) = [record for record in caplog.records if record.message == "swept"]
    assert vars(swept)["orphans"] == len(places)


async def test_what_a_backup_kept_from_being_removed_goes_with_a_later_sweep(
    it: Sweeping, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    spool = it.parts.spool
    held = contextlib.ExitStack()
    await asyncio.to_thread(held.enter_context, spool.locked())
    deleted = await it.parts.upload(b"{}\n")
    expired = await it.parts.upload(b"{}\n", expires_after=1)
    ended = await it.parts.running(requests("a"))
    backup = contextlib.ExitStack()
    await asyncio.to_thread(backup.enter_context, Spool(spool.directory, Disk()).kept())
    await it.parts.files.delete("local", deleted.id)
    it.parts.clock.at += 1
    await it.parts.batches.advance(ended.id, Event.LINES_DONE)
    await end(it.parts, ended)
    kept = [spool.file(deleted.id), spool.file(expired.id), spool.input(ended.id)]
    for path in kept:
        it.put(path)
    orphan = it.put(spool.incoming("abc"))
    await it.sweeper.sweep()
    assert all(path.exists() for path in kept)
    assert not orphan.exists()
    await asyncio.to_thread(backup.close)
    await it.sweeper.sweep()
    assert not any(path.exists() for path in kept)
    swept = [record for record in caplog.records if record.message == "swept"]
    found = [(vars(record)["expired_files"], vars(record)["orphans"]) for record in swept]
    assert found == [(1, 1), (0, 3)]
    await asyncio.to_thread(held.close)


async def test_what_somebody_owns_stays_however_old(it: Sweeping) -> None:
    spool = it.parts.spool
    file = await it.parts.upload(requests("a"))
    record = await it.parts.running(requests("ab"))
    waiting = await it.parts.create(file.id)
    owned = [
        spool.file(f"{record.output_file_id}.damaged"),  # the operator's to look at
        spool.file(file.id),
        spool.file(str(record.output_file_id)),
        spool.file(str(record.error_file_id)),
        spool.input(record.id),
        spool.index(record.id),
        spool.input(waiting.id),
    ]
    for path in owned:
        it.put(path)
    await it.sweeper.sweep()
    assert all(path.exists() for path in owned)


async def test_a_batch_that_ends_during_the_sweep_keeps_its_files(
    it: Sweeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger becomes a file between the look at the names and that at the rows."""
    record = await it.parts.running(requests("a"))
    await it.parts.batches.advance(record.id, Event.LINES_DONE)
    path = it.put(it.parts.spool.file(str(record.output_file_id)))
    orphans = it.parts.files.orphans

    async def late(names: Sequence[str]) -> AsyncGenerator[str]:
        await end(it.parts, record)
        async for name in orphans(names):
            yield name

    monkeypatch.setattr(it.parts.files, "orphans", late)
    await it.sweeper.sweep()
    assert (await it.parts.row(record.id)).status is BatchStatus.COMPLETED
    assert path.exists()


async def test_more_names_than_are_asked_for_at_once_are_told_apart(
    it: Sweeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.files._ASKED_AT_ONCE", 2)
    kept = [it.put(it.parts.spool.file((await it.parts.upload(b"{}\n")).id)) for _ in range(3)]
    names = [f"file-{number:022}" for number in range(4)] + [os.fsdecode(b"\xff"), "a'b"]
    gone = [it.put(it.parts.spool.file(name)) for name in names]
    await it.sweeper.sweep()
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)


async def test_results_that_are_still_to_be_delivered_do_not_expire(it: Sweeping) -> None:
    it.parts.files.keep_undelivered()
    record = await it.parts.running(requests("a"))
    await it.parts.database.write(lambda tx: table.insert(tx, claim(record.id)))
    await it.parts.batches.advance(record.id, Event.LINES_DONE)
    file_id = str(record.output_file_id)
    path = it.put(it.parts.spool.file(file_id))
    await end(it.parts, record)
    it.parts.clock.at += 3600
    await it.sweeper.sweep()
    assert path.exists()
    _, found = await it.parts.files.find_kept_bytes("local", file_id)
    assert found == path
    with pytest.raises(NotFound):
        await it.parts.files.find_bytes("local", file_id)
    await it.parts.database.write(lambda tx: table.delivered(tx, record.id, 1))
    await it.sweeper.sweep()
    assert not path.exists()


async def test_a_start_that_finds_files_expired_waits_until_the_clock_has_been_steady(
    it: Sweeping, caplog: pytest.LogCaptureFixture
) -> None:
    sweeper = Sweeping(it.parts, sweep_every=0.5).sweeper
    file = await it.parts.upload(b"{}\n", expires_after=3600)
    it.parts.clock.at += 3600
    assert 0 < await sweeper.look() < 0.501
    assert it.parts.spool.file(file.id).exists()
    assert [entry.message for entry in caplog.records] == ["overdue_at_start"]
    steady = asyncio.get_running_loop().time() + 0.5
    await until(lambda: asyncio.get_running_loop().time() > steady)
    await sweeper.look()
    assert not it.parts.spool.file(file.id).exists()


async def test_windows_close_when_they_end(it: Sweeping, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await it.parts.running(requests("a"))
    waiting = await it.parts.create(record.input_file_id)
    assert await it.sweeper.look() == WINDOW
    it.parts.clock.at += WINDOW - 1
    monkeypatch.setattr(it.sweeper, "_last", None)  # the time has passed on both clocks
    assert await it.sweeper.look() == 1
    assert (await it.parts.row(record.id)).status is BatchStatus.IN_PROGRESS
    it.parts.clock.at += 1
    assert await it.sweeper.look() == 60
    ended, never_ran = await it.parts.row(record.id), await it.parts.row(waiting.id)
    assert ended.status is BatchStatus.FINALIZING
    assert ended.finalizing_at == ended.expires_at
    assert never_ran.status is BatchStatus.EXPIRED
    assert never_ran.expired_at == never_ran.expires_at
    assert (never_ran.output_file_id, never_ran.error_file_id) == (None, None)


@pytest.mark.parametrize("jump", [WINDOW + 61.0, -3600.0])
async def test_after_a_jump_of_the_clock_nothing_expires_until_it_stays(
    it: Sweeping, jump: float, caplog: pytest.LogCaptureFixture
) -> None:
    sweeper = Sweeping(it.parts, sweep_every=0.5).sweeper
    record = await it.parts.running(requests("a"))
    await sweeper.look()
    it.parts.clock.at += jump
    for _ in range(2):
        assert 0 < await sweeper.look() < 0.501
        assert (await it.parts.row(record.id)).status is BatchStatus.IN_PROGRESS
    assert [entry.message for entry in caplog.records] == ["clock_jumped"]
    steady = asyncio.get_running_loop().time() + 0.5
    await until(lambda: asyncio.get_running_loop().time() > steady)
    await sweeper.look()
    stays = BatchStatus.FINALIZING if jump > 0 else BatchStatus.IN_PROGRESS
    assert (await it.parts.row(record.id)).status is stays


async def test_it_looks_and_sweeps_until_told_to_stop(
    it: Sweeping, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    sweeping = Sweeping(it.parts, sweep_every=0.01)
    orphan = sweeping.put(it.parts.spool.incoming("abc"))
    record = await it.parts.running(requests("a"))
    stop = asyncio.Event()

    async def full(_work: object) -> None:
        raise NoRoom

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sweeping.sweeper.run(stop), name="sweeper")
        await until(lambda: not orphan.exists())
        with monkeypatch.context() as patch:
            patch.setattr(it.parts.database, "write", full)
            it.parts.clock.at += WINDOW
            monkeypatch.setattr(
                sweeping.sweeper, "_last", None
            )  # the time has passed on both clocks
            await until(lambda: "step_waits" in [entry.message for entry in caplog.records])
        async with asyncio.timeout(5):
            while (await it.parts.row(record.id)).status is BatchStatus.IN_PROGRESS:
                pass
        stop.set()
