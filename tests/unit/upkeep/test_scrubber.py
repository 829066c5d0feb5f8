"""The daemon looks its storage over by itself, and says what it finds once, everywhere."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from batchd.errors import ConfigError, NoRoom
from batchd.findings import DamageKind
from batchd.store.readonly import DatabaseDamaged, ReadOnly
from batchd.upkeep import scrubber as scrubbing
from batchd.upkeep import steps
from batchd.upkeep.scrubber import Scrubber
from tests.support.fakes import START
from tests.support.waiting import until
from tests.unit.upkeep.conftest import Storage, flip

RATE = 1 << 30


def scrubber(storage: Storage, *, rate: int = RATE, every: float = 3600) -> Scrubber:
    return Scrubber(
        storage.spool,
        storage.parts.batches,
        storage.parts.damage,
        rate=rate,
        every=every,
        orphan_age=86400,
        now=lambda: START,
    )


@contextlib.asynccontextmanager
async def running(work: Scrubber) -> AsyncGenerator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(work.run(stop), name="scrubber")
        try:
            yield
        finally:
            stop.set()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[dict[str, object]]]:
    caplog.set_level("INFO")
    return lambda event: [vars(entry) for entry in caplog.records if entry.message == event]


Said = Callable[[str], list[dict[str, object]]]


async def test_nothing_is_said_where_nothing_is_damaged(storage: Storage, said: Said) -> None:
    await scrubber(storage).look(asyncio.Event())
    (entry,) = said("scrubbed")
    looked = await storage.look()
    assert (entry["files"], entry["lines"], entry["bytes"], entry["findings"]) == (
        looked.files,
        looked.lines,
        looked.bytes,
        0,
    )
    assert said("damage_found") == []


async def test_each_finding_is_said_once_in_log_metric_and_note(
    storage: Storage, said: Said
) -> None:
    await asyncio.to_thread(flip, storage.output, 70)
    await asyncio.to_thread(storage.errors.unlink)
    await asyncio.to_thread(flip, storage.input, 5)
    work = scrubber(storage)
    for _ in range(2):
        await work.look(asyncio.Event())
    assert [entry["findings"] for entry in said("scrubbed")] == [3, 3]
    assert sorted(str(entry["kind"]) for entry in said("damage_found")) == [
        "file_changed",
        "file_missing",
        "result_lines",
    ]
    metrics = storage.parts.metrics.text()
    for kind in (b"file_changed", b"file_missing", b"result_lines"):
        assert b'batchd_damage_total{kind="%b"} 1.0' % kind in metrics
    notes = (await storage.parts.row(storage.ended.id)).notes
    assert len(notes) == 2
    assert notes[0].startswith(f"files/{storage.ended.error_file_id} (of {storage.ended.id}) is")
    assert "line 1 at byte 0" in notes[1]
    assert (await storage.parts.row(storage.running.id)).notes == []


async def test_a_rate_of_zero_looks_at_sizes_only(storage: Storage, said: Said) -> None:
    await asyncio.to_thread(flip, storage.output, 70)
    await asyncio.to_thread(storage.index.unlink)
    await scrubber(storage, rate=0).look(asyncio.Event())
    assert [entry["kind"] for entry in said("damage_found")] == ["index_missing"]
    assert said("scrubbed")[0]["bytes"] == 0


async def test_sizes_are_looked_at_at_once_and_bytes_at_the_rate(
    storage: Storage, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "PIECE", 100)
    monkeypatch.setattr(scrubbing, "PIECE", 100)
    await asyncio.to_thread(storage.errors.unlink)
    # At this rate the first piece is followed by a pause longer than any test.
    async with running(scrubber(storage, rate=1)):
        await until(lambda: bool(said("damage_found")))
    assert said("scrubbed") == []


async def test_bytes_are_followed_by_the_pause_that_makes_the_rate(
    storage: Storage, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def pause(_: asyncio.Event, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(steps, "PIECE", 100)
    monkeypatch.setattr(scrubbing, "PIECE", 100)
    monkeypatch.setattr(scrubbing, "_pause", pause)
    await scrubber(storage, rate=100).look(asyncio.Event())
    (entry,) = said("scrubbed")
    size = entry["bytes"]
    assert isinstance(size, int)
    # What the reading itself took is part of it, and a pause is never shorter than that.
    assert sum(pauses) > size / 100 / 2
    assert len([seconds for seconds in pauses if seconds > 0.4]) > size / 100 / 2


async def test_passes_are_repeated(storage: Storage, said: Said) -> None:
    async with running(scrubber(storage, every=0.001)):
        await until(lambda: len(said("scrubbed")) > 2)


@pytest.mark.parametrize("error", [ConfigError("it cannot be read"), OSError(5, "I/O error")])
async def test_a_pass_that_cannot_be_made_is_said_and_made_again(
    storage: Storage, said: Said, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    faults = ReadOnly.live_files

    def fail_once(*_: object) -> object:
        monkeypatch.setattr(ReadOnly, "live_files", faults)
        raise error

    monkeypatch.setattr(ReadOnly, "live_files", fail_once)
    async with running(scrubber(storage, every=0.001)):
        await until(lambda: bool(said("scrubbed")))
    assert [entry["reason"] for entry in said("scrub_given_up")] == [str(error)]


async def test_a_database_that_makes_no_sense_is_damage(
    storage: Storage, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> object:
        raise DatabaseDamaged(DamageKind.DATABASE_DAMAGED, "malformed")

    monkeypatch.setattr(ReadOnly, "live_files", damaged)
    async with running(scrubber(storage, every=0.001)):
        await until(lambda: bool(said("damage_found")))
    (entry,) = said("damage_found")
    assert (entry["kind"], entry["reason"]) == ("database_damaged", "malformed")


async def test_a_note_that_finds_no_room_is_left_out(
    storage: Storage, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_room(*_: object) -> None:
        raise NoRoom

    monkeypatch.setattr(storage.parts.batches, "add_note", no_room)
    await asyncio.to_thread(storage.errors.unlink)
    await scrubber(storage).look(asyncio.Event())
    assert len(said("damage_found")) == len(said("scrubbed")) == 1


def open_files(storage: Storage) -> list[str]:
    """What this process has open under ``files`` and ``batches``."""
    names: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(str(descriptor.readlink()))
    folders = tuple(str(folder) for folder in storage.spool.folders)
    return [name for name in names if name.startswith(folders)]


async def test_a_pass_that_is_told_to_stop_ends_at_once_and_leaves_nothing_open(
    storage: Storage, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "PIECE", 100)
    monkeypatch.setattr(scrubbing, "PIECE", 100)
    async with running(scrubber(storage, rate=1)):
        await until(lambda: bool(open_files(storage)))
    assert open_files(storage) == []
    assert said("scrubbed") == []
