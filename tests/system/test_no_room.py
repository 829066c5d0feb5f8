"""A file system without one free byte: state is still written, and the daemon still starts.

On a tmpfs, filled to the last byte; needs root for the mount.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiosqlite
import pytest

from batchd.disk import Disk
from batchd.errors import NoRoom
from batchd.room import Room
from batchd.store.database import Database
from tests.support.batchd_process import BatchdProcess
from tests.support.eventlog import sent
from tests.support.jobs import Jobs, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs: needs root"),
]

SIZE = 8 << 20
BALLAST = 256 << 10
INSERT = (
    "INSERT INTO file (id, filename, purpose, bytes, created_at) VALUES (:id, :id, 'batch', 0, 0)"
)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory that is a small file system of its own."""
    folder = tmp_path / "small"
    folder.mkdir(mode=0o750)
    kind = ["-t", "tmpfs", "-o", f"size={SIZE},mode=0750"]
    mounted = subprocess.run(["mount", *kind, "tmpfs", folder], capture_output=True, check=False)  # noqa: S603, S607 - our own directory
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # noqa: S603, S607 - our own mount


def fill(folder: Path) -> None:
    """Leave not one byte."""
    with (folder / "filling").open("ab", buffering=0) as filling:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while filling.write(b"x" * size) == size:
                    pass
    assert Disk().free(folder) == 0


def drain(folder: Path) -> None:
    (folder / "filling").unlink()


def make_room(folder: Path, *, ballast: int = BALLAST) -> Room:
    room = Room(Disk(), folder, reserve=1 << 20, ballast=ballast)
    room.prepare()
    return room


async def insert(database: Database, name: str) -> None:
    async def work(tx: aiosqlite.Connection) -> None:
        await tx.execute(INSERT, {"id": name})

    await database.write(work)


async def names(database: Database) -> list[object]:
    return [row["id"] for row in await database.rows("SELECT id FROM file ORDER BY seq", {})]


@pytest.fixture
async def made(small: Path) -> Path:
    """A database that was opened, written to and closed."""
    async with Database.opened(small / "batchd.db", pytest.fail) as database:
        await insert(database, "before")
    return small


def daemon(directory: Path, storage: Path, model: ModelProcess) -> BatchdProcess:
    settings = {
        "storage": {"directory": str(storage), "reserve": "1MiB", "ballast": "256KiB"},
        "server": {"drain": "100ms"},
    }
    return BatchdProcess(directory, backend=model.base_url, settings=settings)


@pytest.mark.allow_blocking("the room is prepared before there is anything to hold up")
async def test_state_is_written_on_a_full_disk_with_the_ballast_and_only_with_it(
    made: Path,
) -> None:
    wanted = ["before", *(f"{number}" for number in range(30))]
    room = make_room(made)
    async with Database.opened(made / "batchd.db", pytest.fail, room.make_room) as database:
        fill(made)
        assert not room.is_full
        for name in wanted[1:]:
            await insert(database, name)
        assert room.is_full
        assert not (made / "ballast").exists()
        assert await names(database) == wanted
        fill(made)
        with pytest.raises(NoRoom):
            await insert(database, "large" * 100_000)
        assert await names(database) == wanted
        drain(made)
        await insert(database, "after")
    async with Database.opened(made / "batchd.db", pytest.fail) as again:
        found = await names(again)
    assert found == [*wanted, "after"]


@pytest.mark.allow_blocking("the room is prepared before there is anything to hold up")
async def test_a_database_is_opened_on_a_full_disk_with_the_ballast_and_only_with_it(
    made: Path,
) -> None:
    make_room(made)
    fill(made)
    with pytest.raises(NoRoom):
        async with Database.opened(made / "batchd.db", pytest.fail):
            pass
    assert make_room(made).is_full
    async with Database.opened(made / "batchd.db", pytest.fail) as database:
        assert await names(database) == ["before"]
        await insert(database, "after")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_disk_that_runs_full_under_way_costs_no_result_and_no_second_request(
    tmp_path: Path, small: Path, model_process: ModelProcess
) -> None:
    data = request_lines(300, "slow:0.2", prefix="kept")
    with daemon(tmp_path, small, model_process) as batchd:
        jobs = Jobs(batchd.url)
        goes_on, cancelled = jobs.start(data), jobs.start(request_lines(300, "slow:0.2"))
        jobs.wait_for(goes_on, lambda batch: batch["request_counts"]["completed"] > 0)
        fill(small)
        jobs.wait_for(goes_on, lambda batch: bool(batch["batchd"]["notes"]))
        wait_until(lambda: model_process.counts().in_flight == 0, within=20)
        paused = jobs.get(goes_on)
        assert jobs.cancel(cancelled)["status"] == "cancelling"
        assert not (small / "ballast").exists()
        assert Disk().free(small) > BALLAST // 2, "what the ballast freed is not for results"
        assert jobs.get(goes_on)["request_counts"] == paused["request_counts"]
        asked = len(model_process.events)
        drain(small)
        assert jobs.account(data, goes_on, within=40).batch["request_counts"]["completed"] == 300
        assert jobs.wait(cancelled, within=40)["status"] == "cancelled"
        assert len(model_process.events) > asked
        times = sent(model_process.events)
        assert {times[name] for name in times if "kept" in name} == {1}
        log = batchd.log_text()
        assert (log.count("disk_full"), log.count("disk_has_room")) == (1, 1)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_daemon_starts_on_a_full_disk_reads_and_cancels_and_goes_on_with_room(
    tmp_path: Path, small: Path, model_process: ModelProcess
) -> None:
    data = request_lines(200, "slow:0.2")
    with daemon(tmp_path, small, model_process) as batchd:
        jobs = Jobs(batchd.url)
        goes_on, cancelled, never = (jobs.start(data) for _ in range(3))
        jobs.wait(cancelled, {"in_progress"})
        jobs.wait_for(goes_on, lambda batch: batch["request_counts"]["completed"] > 0)
        assert batchd.terminate() == 0
        fill(small)
        batchd.start()
        assert not (small / "ballast").exists()
        before = jobs.get(goes_on)
        assert before["request_counts"]["completed"] > 0
        assert len(before["batchd"]["notes"]) == 1
        assert jobs.cancel(cancelled)["status"] == "cancelling"
        jobs.cancel(never)
        assert batchd.terminate() == 0
        batchd.start()
        assert jobs.get(cancelled)["status"] == "cancelling"
        assert jobs.get(goes_on)["request_counts"] == before["request_counts"]
        drain(small)
        assert jobs.account(data, cancelled, within=40).batch["status"] == "cancelled"
        assert jobs.account(data, goes_on, within=40).batch["status"] == "completed"
        wait_until((small / "ballast").exists)
        assert (small / "ballast").stat().st_size == BALLAST
        assert batchd.log_text().count("disk_has_room") == 1
