"""A receipt means: on disk. Whatever the disk does, nothing is lost, torn or reordered."""

import asyncio
import errno
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchd.disk import Disk
from batchd.metrics import Metrics
from batchd.room import Room
from batchd.writer import LedgerFile, Writer
from tests.support.fakes import HastyDisk, TroubledDisk
from tests.support.waiting import until

BALLAST = 100


def wait_for(event: threading.Event) -> None:
    assert event.wait(5)


class Group:
    """A writer with its files, the receipts it gave, and how it ended."""

    def __init__(self, disk: Disk, directory: Path, *, reserve: int = 0, ballast: int = 0) -> None:
        self.directory = directory
        self.fatal: list[str] = []
        self.receipts: list[str] = []
        self.room = Room(disk, directory, reserve=reserve, ballast=ballast)
        self.writer = Writer(disk, self.room, Metrics(), self.fatal.append)
        self._files: dict[str, LedgerFile] = {}

    def file(self, name: str) -> LedgerFile:
        return self._files.setdefault(name, LedgerFile(self.directory / name, 0))

    def submit(self, name: str, text: str) -> None:
        receipt = functools.partial(self.receipts.append, text)
        self.writer.submit(self.file(name), text.encode(), receipt)

    def text(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture(autouse=True)
def looks_for_room_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchd.writer._FULL_RETRY", 0.005)


@pytest.fixture
def disk() -> TroubledDisk:
    return TroubledDisk()


@pytest.fixture
def group(disk: TroubledDisk, tmp_path: Path) -> Group:
    return Group(disk, tmp_path)


async def test_leaving_writes_all_that_was_queued_in_order(group: Group) -> None:
    async with group.writer.running():
        for number in range(50):
            group.submit("ab"[number % 2], f"{number} ")
    assert group.text("a") == "".join(f"{number} " for number in range(0, 50, 2))
    assert group.text("b") == "".join(f"{number} " for number in range(1, 50, 2))
    assert group.receipts == [f"{number} " for number in range(50)]
    assert group.file("a").end == len(group.text("a"))


async def test_a_receipt_comes_after_the_sync(disk: TroubledDisk, group: Group) -> None:
    async with group.writer.running() as writer:
        writer.submit(group.file("a"), b"x", lambda: disk.log.append("receipt"))
        await until(lambda: "receipt" in disk.log)
    assert disk.log == ["write", "sync", "receipt"]


async def test_what_comes_during_a_sync_is_one_group(disk: TroubledDisk, group: Group) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        wait_for(go_on)

    disk.before_sync = hold
    async with group.writer.running():
        group.submit("a", "1")
        await until(reached.is_set)
        assert group.receipts == []
        for number in range(2, 9):
            group.submit("a", str(number))
        go_on.set()
        await until(lambda: len(group.receipts) == 8)
    assert disk.log == ["write", "sync"] * 2
    assert group.text("a") == "12345678"


async def test_a_write_in_small_pieces_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def write_a_piece(descriptor: int, data: memoryview) -> int:
        return write(descriptor, data[:3])

    monkeypatch.setattr(os, "write", write_a_piece)
    group = Group(HastyDisk(), tmp_path)
    async with group.writer.running():
        group.submit("a", "one and two\n")
    assert group.text("a") == "one and two\n"


async def test_a_full_disk_is_a_pause(
    disk: TroubledDisk, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with group.writer.running() as writer:
        group.submit("a", "good ")
        await until(lambda: group.receipts == ["good "])
        disk.room = 3
        group.submit("a", "first ")
        await until(lambda: writer.is_full)
        group.submit("a", "second ")
        await until(lambda: "truncate" in disk.log)
        assert group.text("a") == "good "
        assert group.file("a").end == 5
        assert group.receipts == ["good "]
        disk.room = None
        await until(lambda: len(group.receipts) == 3)
        assert not writer.is_full
    assert group.text("a") == "good first second "
    assert group.receipts == ["good ", "first ", "second "]
    assert group.fatal == []
    assert [record.message for record in caplog.records] == ["disk_full", "disk_has_room"]


async def test_when_one_file_of_a_group_has_no_room_none_counts(
    disk: TroubledDisk, tmp_path: Path
) -> None:
    group = Group(disk, tmp_path)
    disk.room = 6
    group.submit("a", "1111")
    group.submit("b", "2222")
    async with group.writer.running() as writer:
        await until(lambda: writer.is_full)
        await until(lambda: disk.log.count("truncate") >= 2)
        assert group.receipts == []
        assert (group.file("a").end, group.file("b").end) == (0, 0)
        disk.room = None
        await until(lambda: len(group.receipts) == 2)
    assert (group.text("a"), group.text("b")) == ("1111", "2222")


async def test_room_no_greater_than_the_reserve_is_none(disk: TroubledDisk, tmp_path: Path) -> None:
    group = Group(disk, tmp_path, reserve=1000)
    disk.room = 3
    async with group.writer.running() as writer:
        group.submit("a", "12345")
        await until(lambda: writer.is_full)
        writes = disk.log.count("write")
        disk.room = 1000
        await asyncio.sleep(0.03)
        assert disk.log.count("write") == writes
        disk.room = 1001
        await until(lambda: group.receipts == ["12345"])


async def test_in_the_room_that_the_ballast_freed_no_result_is_written(
    disk: TroubledDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    group = Group(disk, tmp_path, ballast=BALLAST)
    await asyncio.to_thread(group.room.prepare)
    assert await group.room.make_room()
    disk.room = BALLAST
    async with group.writer.running():
        group.submit("a", "1234")
        await until(lambda: disk.looks > 3)
        assert "write" not in disk.log
        disk.room = BALLAST + 5
        await until(lambda: group.receipts == ["1234"])
        assert not group.room.is_full
    assert [record.message for record in caplog.records] == ["disk_full", "disk_has_room"]


async def test_no_room_for_a_new_name_is_a_pause_too(disk: TroubledDisk, group: Group) -> None:
    disk.fails["open"] = OSError(errno.ENOSPC, "no space")
    async with group.writer.running() as writer:
        group.submit("a", "x")
        await until(lambda: writer.is_full or bool(group.fatal))
        disk.fails.clear()
        await until(lambda: group.receipts == ["x"])
    assert group.fatal == []


async def test_stopping_does_not_wait_for_room(disk: TroubledDisk, group: Group) -> None:
    disk.room = 0
    async with group.writer.running() as writer:
        group.submit("a", "lost, and run again")
        await until(lambda: writer.is_full)
    assert group.receipts == []
    assert group.text("a") == ""


@pytest.mark.parametrize(
    ("operation", "number"),
    [
        ("append", errno.EIO),
        ("sync", errno.EIO),
        ("sync", errno.ENOSPC),  # whatever its reason: the page may be marked clean now
        ("open", errno.EACCES),
    ],
)
@pytest.mark.parametrize("files", [1, 3])
async def test_any_other_error_is_the_end(
    disk: TroubledDisk, group: Group, operation: str, number: int, files: int
) -> None:
    disk.fails[operation] = OSError(number, os.strerror(number))
    for name in range(files):
        group.submit(str(name), "x")
    async with group.writer.running():
        await until(lambda: bool(group.fatal))
        group.submit("0", "y")
    assert group.fatal == [f"a ledger could not be written: {os.strerror(number)}"]
    assert group.receipts == []
    assert disk.log.count("write") <= files


async def test_more_files_than_may_be_open_are_all_written(
    disk: TroubledDisk, group: Group
) -> None:
    opened = len(list(Path("/proc/self/fd").iterdir()))
    async with group.writer.running():
        for lap in range(2):
            for number in range(150):
                group.submit(str(number), f"{lap}")
            await until(lambda lap=lap: len(group.receipts) == 150 * (lap + 1))
            assert len(list(Path("/proc/self/fd").iterdir())) < opened + 100
    assert {group.text(str(number)) for number in range(150)} == {"01"}
    assert disk.log.count("write") == disk.log.count("sync")


def descriptors_of(path: Path) -> Iterator[Path]:
    for link in Path("/proc/self/fd").iterdir():
        if os.path.realpath(link) == str(path):
            yield link


async def test_a_forgotten_file_is_closed_and_can_be_taken_up_again(group: Group) -> None:
    path = group.file("a").path
    async with group.writer.running() as writer:
        await writer.append(group.file("a"), b"1")
        assert list(descriptors_of(path))
        writer.forget(group.file("a"))
        writer.forget(group.file("never written"))
        await until(lambda: not list(descriptors_of(path)))
        await writer.append(group.file("a"), b"2")
    assert group.text("a") == "12"
    assert not list(descriptors_of(path))


async def test_a_waiter_who_is_gone_is_no_trouble(disk: TroubledDisk, group: Group) -> None:
    go_on = threading.Event()
    disk.before_sync = lambda: wait_for(go_on)
    async with group.writer.running() as writer:
        waiting = asyncio.create_task(writer.append(group.file("a"), b"1"), name="waiter")
        await until(lambda: bool(disk.log))
        waiting.cancel()
        await asyncio.wait([waiting])
        go_on.set()
    assert group.text("a") == "1"


async def test_a_file_that_need_not_last_is_not_synced_and_comes_behind_the_ledgers(
    disk: TroubledDisk, group: Group
) -> None:
    async with group.writer.running() as writer:
        passing = LedgerFile(group.directory / "p", 0, lasting=False)
        writer.submit(passing, b"p1", lambda: None)
        await until(lambda: passing.end == 2)
        assert disk.log == ["write"]
        writer.submit(passing, b"p2", lambda: None)
        group.submit("a", "1")
        await until(lambda: group.receipts == ["1"])
    assert disk.log[1:] in (["write", "sync", "write"], ["write", "write", "sync"])
    assert group.text("p") == "p1p2"


class _NoRoomFor(HastyDisk):
    """Fails the appends to one file after a part of them."""

    def __init__(self, name: str, error: int) -> None:
        self._name = name
        self._error = error

    def append(self, descriptor: int, data: bytes) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == self._name:
            super().append(descriptor, data[:1])
            raise OSError(self._error, os.strerror(self._error))
        super().append(descriptor, data)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_a_file_that_need_not_last_never_holds_the_ledgers_up(
    tmp_path: Path, error: int
) -> None:
    group = Group(_NoRoomFor("p", error), tmp_path)
    async with group.writer.running() as writer:
        passing = LedgerFile(tmp_path / "p", 0, lasting=False)
        for number in range(3):
            writer.submit(passing, b"pp", lambda: None)
            group.submit("a", str(number))
        await until(lambda: len(group.receipts) == 3)
    assert group.text("a") == "012"
    assert group.text("p") == ""
    assert passing.end == 0
    assert group.fatal == []
    assert not group.writer.is_full


async def test_a_file_that_need_not_last_and_has_no_directory_any_more_is_let_go(
    group: Group,
) -> None:
    async with group.writer.running() as writer:
        writer.submit(
            LedgerFile(group.directory / "gone" / "p", 0, lasting=False), b"p", lambda: None
        )
        group.submit("a", "1")
        await until(lambda: group.receipts == ["1"])
    assert group.fatal == []
