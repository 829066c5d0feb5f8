"""A full disk is a pause with a beginning and an end, and the ballast is for the database only."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batchd.disk import Disk
from batchd.errors import NoRoom
from batchd.room import Room
from tests.support.fakes import HastyDisk
from tests.support.waiting import until

TOTAL = 4 << 20
RESERVE = 1 << 20
BALLAST = 256 << 10
STATVFS = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", *"123456")  # in its order


class SmallDisk(HastyDisk):
    """A disk of ``total`` bytes: what lies in its directory is what is used."""

    def __init__(self, directory: Path, total: int = TOTAL) -> None:
        self.directory = directory
        self.total = total
        self.fails: OSError | None = None

    def free(self, path: Path) -> int:
        assert path == self.directory
        return self.total - sum(file.stat().st_size for file in path.iterdir())

    def leave(self, free: int) -> None:
        """From now on so many bytes are free."""
        self.total += free - self.free(self.directory)

    def allocate(self, path: Path, size: int) -> None:
        if self.fails is not None:
            path.touch()
            raise self.fails
        assert size <= self.free(path.parent), "only asked for when there is room"
        super().allocate(path, size)

    def remove(self, path: Path) -> None:
        if self.fails is not None and path.name == "ballast":
            raise self.fails
        super().remove(path)


@pytest.fixture
def disk(tmp_path: Path) -> SmallDisk:
    return SmallDisk(tmp_path)


@pytest.fixture
def room(disk: SmallDisk) -> Room:
    return prepared(disk)


def prepared(disk: SmallDisk, *, ballast: int = BALLAST) -> Room:
    room = Room(disk, disk.directory, reserve=RESERVE, ballast=ballast)
    room.prepare()
    return room


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def size_of_ballast(directory: Path) -> int:
    return (directory / "ballast").stat().st_size


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level("INFO")
    return lambda: [record.message for record in caplog.records]


# -- the ballast


def test_the_ballast_takes_up_room_on_a_real_disk(tmp_path: Path) -> None:
    Room(Disk(), tmp_path, reserve=0, ballast=BALLAST).prepare()
    found = (tmp_path / "ballast").stat()
    assert found.st_size == BALLAST
    assert found.st_blocks * 512 >= BALLAST
    assert names(tmp_path) == ["ballast"]


def test_a_ballast_that_is_there_is_left_alone(disk: SmallDisk, tmp_path: Path) -> None:
    prepared(disk)
    made = (tmp_path / "ballast").stat().st_ino
    prepared(disk)
    assert (tmp_path / "ballast").stat().st_ino == made


def test_a_ballast_of_another_size_is_made_anew(disk: SmallDisk, tmp_path: Path) -> None:
    prepared(disk)
    prepared(disk, ballast=2 * BALLAST)
    assert size_of_ballast(tmp_path) == 2 * BALLAST
    prepared(disk, ballast=0)
    assert names(tmp_path) == []


def test_a_ballast_half_made_when_the_process_ended_is_swept(
    disk: SmallDisk, tmp_path: Path
) -> None:
    (tmp_path / "ballast.new").write_bytes(b"half")
    prepared(disk)
    assert names(tmp_path) == ["ballast"]


def test_without_room_for_it_there_is_no_ballast_until_there_is(
    disk: SmallDisk, tmp_path: Path
) -> None:
    disk.leave(RESERVE + BALLAST)
    room = prepared(disk)
    assert names(tmp_path) == []
    assert not room.is_full
    assert room.is_for_ledgers(), "a small disk must not stop everything for ever"
    assert not room.give_up_ballast()
    disk.leave(RESERVE + BALLAST + 1)
    room.look()
    assert size_of_ballast(tmp_path) == BALLAST
    assert disk.free(tmp_path) > RESERVE


def test_the_ballast_is_given_up_once(disk: SmallDisk, room: Room, tmp_path: Path) -> None:
    disk.leave(0)
    assert room.give_up_ballast()
    assert disk.free(tmp_path) == BALLAST
    assert room.is_full
    assert not room.give_up_ballast()


def test_result_files_do_not_grow_in_the_room_that_the_ballast_freed(
    disk: SmallDisk, room: Room, tmp_path: Path
) -> None:
    disk.leave(0)
    assert room.is_for_ledgers()
    room.give_up_ballast()
    for free in (BALLAST, RESERVE, RESERVE + BALLAST):
        disk.leave(free)
        room.look()
        assert not room.is_for_ledgers()
        assert not room.has_room()
        assert room.is_full
    disk.leave(RESERVE + BALLAST + 1)
    assert room.is_for_ledgers()
    room.look()
    assert not room.is_full
    assert size_of_ballast(tmp_path) == BALLAST


@pytest.mark.parametrize("left", [0, 100_000])
def test_a_restart_knows_that_the_ballast_was_given_up(
    disk: SmallDisk, room: Room, tmp_path: Path, left: int
) -> None:
    disk.leave(left)
    assert room.give_up_ballast()
    again = prepared(disk)
    for free in (BALLAST, RESERVE, RESERVE + BALLAST):
        disk.leave(free)
        again.look()
        assert not again.is_for_ledgers()
    disk.leave(RESERVE + BALLAST + 1)
    again.look()
    assert again.is_for_ledgers()
    disk.leave(RESERVE)
    assert prepared(disk).is_for_ledgers(), "it is back"
    assert names(tmp_path) == ["ballast"]


@pytest.mark.parametrize("free", [BALLAST, RESERVE, RESERVE + BALLAST])
def test_the_pause_for_a_ballast_that_was_given_up_outlives_a_restart(
    disk: SmallDisk, room: Room, said: Callable[[], list[str]], free: int
) -> None:
    disk.leave(0)
    assert room.give_up_ballast()
    disk.leave(free)
    again = prepared(disk)
    assert again.is_full
    with pytest.raises(NoRoom):
        again.check()
    disk.leave(RESERVE + BALLAST + 1)
    again.look()
    assert not again.is_full
    assert said() == ["disk_full", "disk_full", "disk_has_room"]


def test_a_restart_with_room_for_a_ballast_that_was_given_up_tells_of_no_full_disk(
    disk: SmallDisk, room: Room, said: Callable[[], list[str]]
) -> None:
    disk.leave(0)
    assert room.give_up_ballast()
    disk.leave(RESERVE + BALLAST + 1)
    assert not prepared(disk).is_full
    assert said() == ["disk_full"]


def test_a_ballast_that_was_about_to_be_given_up_and_is_there_is_there(
    disk: SmallDisk, tmp_path: Path
) -> None:
    prepared(disk)
    (tmp_path / "ballast.given-up").touch()
    disk.leave(RESERVE)
    assert prepared(disk).is_for_ledgers()
    assert names(tmp_path) == ["ballast"]


def test_without_a_ballast_none_is_waited_for(disk: SmallDisk, room: Room, tmp_path: Path) -> None:
    disk.leave(0)
    room.give_up_ballast()
    disk.leave(RESERVE)
    assert prepared(disk, ballast=0).is_for_ledgers()
    assert names(tmp_path) == []


class NoNewName(SmallDisk):
    """Has no room for one more name while it is full."""

    def open_append(self, path: Path) -> int:
        if self.free(self.directory) < BALLAST:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().open_append(path)


def test_word_of_a_ballast_given_up_is_left_as_soon_as_there_is_room_for_it(
    tmp_path: Path,
) -> None:
    disk = NoNewName(tmp_path)
    room = prepared(disk)
    disk.leave(0)
    assert room.give_up_ballast()
    assert not prepared(disk).is_for_ledgers()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_ballast_that_cannot_be_made_keeps_no_pause_going(
    disk: SmallDisk, room: Room, said: Callable[[], list[str]], number: int
) -> None:
    disk.leave(0)
    room.give_up_ballast()
    disk.fails = OSError(number, os.strerror(number))
    disk.leave(TOTAL)
    for _ in range(3):
        room.look()
        assert not room.is_full
        assert room.is_for_ledgers()
        assert names(disk.directory) == ["ballast.given-up"]
    assert said().count("ballast_not_there") == (1 if number == errno.EIO else 0)
    disk.fails = None
    room.look()
    assert names(disk.directory) == ["ballast"]


def test_a_ballast_that_cannot_be_removed_is_no_help(
    disk: SmallDisk, room: Room, said: Callable[[], list[str]]
) -> None:
    disk.fails = OSError(errno.EIO, "I/O error")
    assert not room.give_up_ballast()
    assert said() == ["disk_full", "ballast_not_there"]
    disk.fails = None
    assert room.give_up_ballast()


def test_with_hardly_any_room_the_ballast_goes_before_anything_is_opened(
    disk: SmallDisk, room: Room, tmp_path: Path
) -> None:
    assert not room.is_full
    disk.leave(100_000)
    assert prepared(disk).is_full
    assert names(tmp_path) == ["ballast.given-up"]


def test_with_some_room_left_the_ballast_stays(disk: SmallDisk, room: Room, tmp_path: Path) -> None:
    assert not room.is_full
    disk.leave(RESERVE // 2 - 1)
    assert prepared(disk).is_full
    assert names(tmp_path) == ["ballast"]


# -- the pause


def test_the_pause_begins_at_half_the_reserve_and_ends_above_the_whole(
    disk: SmallDisk, room: Room, said: Callable[[], list[str]]
) -> None:
    for free, full in (
        (RESERVE, False),
        (RESERVE // 2, False),
        (RESERVE // 2 - 1, True),
        (0, True),
        (RESERVE // 2, True),
        (RESERVE, True),
        (RESERVE + 1, False),
        (RESERVE // 2, False),
    ):
        disk.leave(free)
        for _ in range(2):
            room.look()
            assert room.is_full is full, free
    assert said() == ["disk_full", "disk_has_room"]


def test_a_refused_write_begins_it_whatever_seems_free(
    room: Room, said: Callable[[], list[str]]
) -> None:
    room.note_full()
    assert room.is_full
    room.note_full()
    room.look()
    assert not room.is_full
    assert said() == ["disk_full", "disk_has_room"]


def test_while_bytes_are_kept_only_writing_them_ends_it(
    disk: SmallDisk, room: Room, said: Callable[[], list[str]]
) -> None:
    room.note_written()  # nothing was kept: nothing happens
    room.note_full(kept=True)
    room.note_full()
    for _ in range(3):  # as with a quota: room, and yet no room
        room.look()
        assert room.has_room()
        assert room.is_full
    disk.leave(RESERVE)
    room.note_written()
    assert room.is_full, "what landed may have taken the last of it"
    disk.leave(RESERVE + 1)
    room.look()
    assert not room.is_full
    assert said() == ["disk_full", "disk_has_room"]


def test_what_comes_in_must_leave_the_reserve_alone(disk: SmallDisk, room: Room) -> None:
    disk.leave(RESERVE + 1000)
    room.check()
    room.check(1000)
    with pytest.raises(NoRoom):
        room.check(1001)
    room.note_full()
    with pytest.raises(NoRoom):
        room.check()


def test_what_is_copied_elsewhere_on_the_disk_must_leave_the_reserve_alone(
    disk: SmallDisk, room: Room, tmp_path: Path
) -> None:
    disk.leave(RESERVE + 1000)
    room.check_at(tmp_path.parent, 1000)
    with pytest.raises(NoRoom):
        room.check_at(tmp_path.parent, 1001)


@pytest.mark.parametrize(
    ("size", "reserve"),
    [(100 * RESERVE, RESERVE), (10 * RESERVE, RESERVE), (5 * RESERVE, RESERVE // 2), (9, 0)],
    ids=["large", "just large enough", "small", "tiny"],
)
def test_what_is_copied_to_another_disk_must_leave_the_reserve_or_a_tenth_free_there(
    disk: SmallDisk, room: Room, monkeypatch: pytest.MonkeyPatch, size: int, reserve: int
) -> None:
    disk.leave(0)
    elsewhere = Path("/proc")  # a filesystem of its own
    blocks = {"f_frsize": 1, "f_blocks": size, "f_bavail": reserve + 1000}
    others = dict.fromkeys(("f_bsize", "f_bfree"), 1 << 40)  # not what users may have
    told = [(blocks | others).get(name, 0) for name in STATVFS]

    def statvfs(_: Path) -> os.statvfs_result:
        return os.statvfs_result(told)

    monkeypatch.setattr(os, "statvfs", statvfs)
    room.check_at(elsewhere, 1000)
    with pytest.raises(OSError, match="No space left"):
        room.check_at(elsewhere, 1001)


async def test_it_is_looked_at_until_told_to_stop(
    disk: SmallDisk, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.room._LOOK_EVERY", 0.005)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(room.watch(stop), name="watch")
        disk.leave(0)
        await until(lambda: room.is_full)
        disk.leave(TOTAL)
        await until(lambda: not room.is_full)
        stop.set()


async def test_room_is_made_off_the_loop(disk: SmallDisk, room: Room) -> None:
    assert await room.make_room()
    assert not await room.make_room()
    assert room.is_full
    assert disk.total == TOTAL
