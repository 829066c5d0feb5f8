"""The simulated disk keeps to its own rules: a simulation on a kind disk would prove nothing.

What depends on chance is asked of many seeds at once: what must never happen, and that each
outcome that may happen does.
"""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from batchd.disk import Disk, is_full
from tests.simulation.disk import SECTOR, Crash, SimDisk

FOLDER = Path("/spool/files")
A = FOLDER / "a"
B = FOLDER / "b"
SEEDS = range(200)


class ForgetfulDisk(SimDisk):
    """A disk that syncs no directory, for what a missing sync may lead to."""

    def sync_directory(self, path: Path) -> None:
        pass


def new_disk(seed: int = 0, kind: type[SimDisk] = SimDisk) -> SimDisk:
    disk = kind(random.Random(seed))  # noqa: S311 - what a crash leaves
    disk.plant(FOLDER / "planted", b"")
    return disk


@pytest.fixture
def disk() -> SimDisk:
    return new_disk()


def write(disk: SimDisk, path: Path, data: bytes, *, sync: bool) -> None:
    descriptor = disk.open_append(path)
    disk.append(descriptor, data)
    if sync:
        disk.sync(descriptor)
    disk.close(descriptor)


def read(disk: SimDisk, path: Path) -> bytes | None:
    if disk.size(path) is None:
        return None
    with disk.open_read(path) as file:
        return file.read()


def outcomes(story: Callable[[SimDisk], object], kind: type[SimDisk] = SimDisk) -> set[object]:
    """What a story comes to, over many draws of chance."""
    return {story(new_disk(seed, kind)) for seed in SEEDS}


def bad_sync() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


def test_every_call_of_the_real_disk_is_simulated() -> None:
    calls = {name for name in vars(Disk) if not name.startswith("_")}
    assert calls <= vars(SimDisk).keys()


# -- bytes


def test_bytes_show_at_once_and_are_durable_after_a_sync(disk: SimDisk) -> None:
    descriptor = disk.open_append(A)
    disk.append(descriptor, b"one")
    assert (disk.files[A], disk.durable[A]) == (b"one", b"")
    disk.sync(descriptor)
    assert (disk.files[A], disk.durable[A]) == (b"one", b"one")


def test_a_kill_keeps_the_page_cache() -> None:
    def story(disk: SimDisk) -> bytes | None:
        write(disk, A, b"never synced", sync=False)
        disk.kill()
        return read(disk, A)

    assert outcomes(story) == {b"never synced"}


def test_a_power_cut_keeps_all_that_was_synced_and_any_prefix_of_the_rest() -> None:
    def story(disk: SimDisk) -> bytes | None:
        write(disk, A, b"synced", sync=True)
        write(disk, A, b"123", sync=False)
        write(disk, A, b"45", sync=False)
        disk.power_cut()
        return read(disk, A)

    found = outcomes(story)
    prefixes = {b"synced" + b"12345"[:size] for size in range(6)}
    assert prefixes <= found
    # The others have bytes that were never written: the size grew, and the sector stayed empty.
    assert {text.rstrip(b"\0") for text in found if isinstance(text, bytes)} <= prefixes
    assert b"synced\0\0\0\0\0" in found


def test_a_kill_makes_nothing_durable_so_a_power_cut_after_it_loses_what_was_pending() -> None:
    def story(disk: SimDisk) -> bytes | None:
        write(disk, A, b"pending", sync=False)
        disk.kill()
        assert read(disk, A) == b"pending"
        disk.power_cut()
        return read(disk, A)

    assert {b"", b"pend", b"pending"} <= outcomes(story)


def test_what_is_synced_after_a_kill_survives_a_power_cut() -> None:
    def story(disk: SimDisk) -> bytes | None:
        write(disk, A, b"pending", sync=False)
        disk.kill()
        disk.sync(disk.open_append(A))
        disk.power_cut()
        return read(disk, A)

    assert outcomes(story) == {b"pending"}


def test_a_power_cut_after_a_power_cut_loses_nothing_more() -> None:
    def story(disk: SimDisk) -> bool:
        write(disk, A, b"x" * 2000, sync=False)
        disk.power_cut()
        before = read(disk, A)
        disk.power_cut()
        return read(disk, A) == before

    assert outcomes(story) == {True}


def test_a_power_cut_leaves_sectors_of_the_unsynced_range_empty_and_no_other_byte() -> None:
    def story(disk: SimDisk) -> tuple[bool, ...]:
        write(disk, A, b"s" * 700, sync=True)
        write(disk, A, b"u" * 2000, sync=False)
        disk.power_cut()
        left = read(disk, A) or b""
        assert left[:700] == b"s" * 700
        sectors = [left[start : start + SECTOR] for start in range(0, len(left), SECTOR)]
        # The sector in which synced bytes end is empty behind them.
        whole = [set(sector) - {ord("s")} for sector in sectors]
        assert all(len(kinds) <= 1 for kinds in whole)
        return tuple(kinds == {0} for kinds in whole[1:])

    found = outcomes(story)
    assert (False, False, False, False, False) in found
    assert any(isinstance(holes, tuple) and True in holes[:-1] for holes in found)


def test_a_truncation_is_pending_like_any_write_and_in_its_turn() -> None:
    def story(disk: SimDisk) -> bytes | None:
        write(disk, A, b"good torn", sync=True)
        descriptor = disk.open_append(A)
        disk.truncate(descriptor, 4)
        disk.append(descriptor, b"!")
        disk.power_cut()
        return read(disk, A)

    assert outcomes(story) == {b"good torn", b"good", b"good!", b"good\0"}


# -- names


def test_bytes_synced_under_a_name_that_was_not_are_lost_with_it() -> None:
    def story(disk: SimDisk) -> bytes | None:
        write(disk, A, b"synced", sync=True)
        disk.power_cut()
        return read(disk, A)

    assert outcomes(story) == {b"synced"}
    assert outcomes(story, ForgetfulDisk) == {b"synced", None}


def test_a_new_name_is_durable_and_its_bytes_are_not(disk: SimDisk) -> None:
    write(disk, A, b"x", sync=False)
    assert disk.durable[A] == b""


def test_a_rename_is_whole_or_not_at_all() -> None:
    def story(disk: SimDisk) -> tuple[bytes | None, bytes | None]:
        disk.plant(A, b"new")
        disk.plant(B, b"old")
        disk.rename(A, B)
        disk.power_cut()
        return read(disk, A), read(disk, B)

    assert outcomes(story) == {(None, b"new")}
    assert outcomes(story, ForgetfulDisk) == {(None, b"new"), (b"new", b"old")}


def test_pending_names_reach_the_disk_in_their_order() -> None:
    def story(disk: SimDisk) -> tuple[bytes | None, bytes | None]:
        write(disk, A, b"1", sync=True)
        write(disk, B, b"2", sync=True)
        disk.power_cut()
        return read(disk, A), read(disk, B)

    assert outcomes(story, ForgetfulDisk) == {(None, None), (b"1", None), (b"1", b"2")}


def test_a_directory_synced_takes_along_what_its_changes_rest_on() -> None:
    elsewhere = Path("/spool/incoming/a")

    def story(disk: SimDisk) -> tuple[bytes | None, bytes | None]:
        disk.plant(elsewhere.with_name("planted"), b"")
        write(disk, elsewhere, b"x", sync=True)
        disk.rename(elsewhere, A)
        SimDisk.sync_directory(disk, FOLDER)
        disk.power_cut()
        return read(disk, elsewhere), read(disk, A)

    assert outcomes(story, ForgetfulDisk) == {(None, b"x")}


def test_a_removed_name_may_come_back_until_its_directory_is_synced() -> None:
    def story(disk: SimDisk) -> bytes | None:
        disk.plant(A, b"x")
        disk.remove(A)
        assert read(disk, A) is None
        disk.power_cut()
        return read(disk, A)

    assert outcomes(story) == {b"x", None}


def test_what_stands_in_a_lost_directory_is_lost() -> None:
    folder = Path("/spool/batches/1")

    def story(disk: SimDisk) -> tuple[bytes | None, bytes | None]:
        disk.plant(folder.with_name("0") / "planted", b"")
        disk.make_directory(folder)
        write(disk, folder / "a", b"x", sync=True)
        SimDisk.sync_directory(disk, folder)
        disk.power_cut()
        return read(disk, folder / "a"), read(disk, folder.with_name("0") / "planted")

    assert outcomes(story, ForgetfulDisk) == {(None, b""), (b"x", b"")}


def test_two_names_are_one_file(disk: SimDisk) -> None:
    write(disk, A, b"one ", sync=True)
    disk.link_or_copy(A, B)
    write(disk, B, b"two", sync=True)
    disk.remove(A)
    disk.power_cut()
    assert read(disk, B) == b"one two"


def test_a_link_replaces_what_was_there(disk: SimDisk) -> None:
    disk.plant(A, b"new")
    disk.plant(B, b"torn")
    disk.link_or_copy(A, B)
    disk.power_cut()
    assert (read(disk, A), read(disk, B)) == (b"new", b"new")


def test_directories_come_and_go(disk: SimDisk) -> None:
    folder = Path("/spool/files/deep")
    for _ in range(2):
        disk.make_directory(folder)
    disk.make_directory(folder / "er")
    write(disk, folder / "er" / "x", b"x", sync=True)
    for _ in range(2):
        disk.remove_directory(folder)
        disk.remove(folder)
    assert disk.size(folder) is None
    assert disk.size(folder / "er" / "x") is None
    assert disk.names(FOLDER, 1.0) == ["planted"]


def test_a_directory_that_was_made_is_durable_even_if_a_killed_life_began_it() -> None:
    def story(disk: SimDisk) -> int | None:
        disk.crash_at = 2  # the name is made, and its directory not yet synced
        with pytest.raises(Crash):
            disk.make_directory(A)
        disk.kill()
        disk.make_directory(A)
        disk.power_cut()
        return disk.size(A)

    assert outcomes(story) == {0}


def test_names_are_dated_by_their_last_change(disk: SimDisk) -> None:
    time = 10.0
    disk.now = lambda: time
    write(disk, A, b"x", sync=True)
    disk.make_directory(FOLDER / "deep")
    time = 20.0
    write(disk, B, b"x", sync=True)
    assert sorted(disk.names(FOLDER, 15.0)) == ["a", "deep", "planted"]
    write(disk, A, b"x", sync=True)
    disk.make_directory(FOLDER / "deep" / "er")
    assert disk.names(FOLDER, 15.0) == ["planted"]


def test_what_is_not_there_is_not_found(disk: SimDisk) -> None:
    calls: list[Callable[[], object]] = [
        lambda: disk.open_read(A),
        lambda: disk.open_append(A / "below"),
        lambda: disk.allocate(A / "below", 1),
        lambda: disk.make_directory(A / "below"),
        lambda: disk.rename(A, B),
        lambda: disk.link_or_copy(A, B),
        lambda: disk.names(A, 0.0),
        lambda: disk.sync_directory(A),
    ]
    for call in calls:
        with pytest.raises(FileNotFoundError):
            call()


# -- crashes


def three_lines(disk: SimDisk) -> None:
    descriptor = disk.open_append(A)  # two operations: the name, and its directory
    for line in (b"one\n", b"two\n"):
        disk.append(descriptor, line)
        disk.sync(descriptor)
    disk.truncate(descriptor, 4)
    disk.rename(A, B)
    disk.remove(B)


OPERATIONS = 10


def test_every_change_and_every_sync_is_an_operation(disk: SimDisk) -> None:
    three_lines(disk)
    assert disk.operations == OPERATIONS


@pytest.mark.parametrize("operation", range(1, OPERATIONS + 1))
def test_a_crash_comes_in_the_middle_of_its_operation(operation: int) -> None:
    def story(disk: SimDisk) -> tuple[bytes | None, ...]:
        disk.crash_at = operation
        with pytest.raises(Crash):
            three_lines(disk)
        assert disk.operations == operation
        disk.kill()
        sizes = read(disk, A), read(disk, B)
        return *sizes, disk.durable.get(A), disk.durable.get(B)

    found = outcomes(story)
    parts = [b"one\n"[:size] for size in range(5)]
    expected: dict[int, set[tuple[bytes | None, ...]]] = {
        1: {(None, None, None, None), (b"", None, None, None)},
        2: {(b"", None, None, None), (b"", None, b"", None)},
        3: {(part, None, b"", None) for part in parts},
        4: {(b"one\n", None, part, None) for part in parts},
        5: {(b"one\n" + b"two\n"[:size], None, b"one\n", None) for size in range(5)},
        6: {(b"one\ntwo\n", None, b"one\n" + b"two\n"[:size], None) for size in range(5)},
        7: {(text, None, b"one\ntwo\n", None) for text in (b"one\n", b"one\ntwo\n")},
        8: {
            (b"one\n", None, b"one\ntwo\n", None),
            (None, b"one\n", b"one\ntwo\n", None),
        },
        9: {
            (None, b"one\n", b"one\ntwo\n", None),
            (None, b"one\n", None, b"one\ntwo\n"),
        },
        10: {
            (None, b"one\n", None, b"one\ntwo\n"),
            (None, None, None, b"one\ntwo\n"),
        },
    }
    assert found == expected[operation]


def test_a_dead_disk_refuses_everything_and_changes_nothing(disk: SimDisk) -> None:
    write(disk, A, b"x", sync=True)
    descriptor = disk.open_append(A)
    disk.dead = True
    operations = disk.operations
    calls: list[Callable[[], object]] = [
        lambda: disk.open_append(A),
        lambda: disk.open_append(B),
        lambda: disk.open_read(A),
        lambda: disk.allocate(B, 1),
        lambda: disk.append(descriptor, b"y"),
        lambda: disk.sync(descriptor),
        lambda: disk.truncate(descriptor, 0),
        lambda: disk.close(descriptor),
        lambda: disk.size(A),
        lambda: disk.names(FOLDER, 1.0),
        lambda: disk.sync_directory(FOLDER),
        lambda: disk.make_directory(B),
        lambda: disk.rename(A, B),
        lambda: disk.link_or_copy(A, B),
        lambda: disk.remove(A),
        lambda: disk.remove_directory(FOLDER),
        lambda: disk.free(FOLDER),
    ]
    for call in calls:
        with pytest.raises(Crash):
            call()
    assert disk.operations == operations
    disk.kill()
    assert dict(disk.files) == {A: b"x", FOLDER / "planted": b""}


async def test_work_that_outlives_its_disk_is_told_so(disk: SimDisk) -> None:
    def die() -> None:
        disk.dead = True

    with pytest.raises(Crash):
        await disk.run(die)
    with pytest.raises(Crash):
        await disk.run(lambda: None)


async def test_work_gets_its_arguments_and_gives_its_result(disk: SimDisk) -> None:
    await disk.run(disk.make_directory, path=A)
    assert await disk.run(disk.names, FOLDER, before=1.0) == ["planted", "a"]


@pytest.mark.parametrize("end", [SimDisk.kill, SimDisk.power_cut])
def test_the_next_life_knows_no_descriptor_of_the_last(
    disk: SimDisk, end: Callable[[SimDisk], None]
) -> None:
    old = disk.open_append(A)
    disk.crash_at = disk.operations + 1
    with pytest.raises(Crash):
        disk.append(old, b"x")
    end(disk)
    assert (disk.dead, disk.crash_at, disk.open_descriptors) == (False, None, 0)
    assert disk.open_append(A) != old
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        disk.append(old, b"x")


def test_the_same_seed_makes_the_same_history() -> None:
    def story(disk: SimDisk) -> bytes:
        for lap in range(5):
            for path in (A, B, FOLDER / "c"):
                write(disk, path, b"%d" % lap * 1500, sync=lap == 2)
            disk.power_cut()
        return b"|".join(disk.files.values())

    assert [story(new_disk(seed)) for seed in range(20)] == [
        story(new_disk(seed)) for seed in range(20)
    ]


# -- a full disk


def test_an_append_with_too_little_room_writes_what_fits(disk: SimDisk) -> None:
    descriptor = disk.open_append(A)
    disk.room = 5
    disk.append(descriptor, b"abc")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as raised:
        disk.append(descriptor, b"defg")
    assert is_full(raised.value)
    assert disk.files[A] == b"abcde"
    assert disk.free(FOLDER) == 0


def test_a_truncation_and_a_removal_give_room_back(disk: SimDisk) -> None:
    disk.room = 10
    write(disk, A, b"0123456789", sync=True)
    descriptor = disk.open_append(A)
    disk.truncate(descriptor, 4)
    assert disk.free(FOLDER) == 6
    disk.link_or_copy(A, B)
    disk.remove(A)
    assert disk.free(FOLDER) == 6
    disk.remove(B)
    assert disk.free(FOLDER) == 6  # it is still open
    disk.close(descriptor)
    assert disk.free(FOLDER) == 10


def test_a_rename_over_a_file_gives_the_room_of_that_file_back(disk: SimDisk) -> None:
    disk.room = 10
    write(disk, A, b"new", sync=True)
    write(disk, B, b"older", sync=True)
    disk.rename(A, B)
    assert disk.free(FOLDER) == 7
    assert disk.files[B] == b"new"


def test_a_power_cut_gives_back_the_room_of_what_it_lost() -> None:
    def story(disk: SimDisk) -> bool:
        disk.room = 100
        write(disk, A, b"x" * 30, sync=True)
        write(disk, A, b"y" * 30, sync=False)
        disk.remove(B)
        disk.power_cut()
        return disk.room == 100 - len(disk.files[A])

    assert outcomes(story) == {True}


def test_where_there_is_no_room_no_file_can_be_made(disk: SimDisk) -> None:
    disk.room = 0
    for make in (disk.open_append, disk.make_directory):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            make(A)
    assert disk.size(A) is None


def test_room_that_is_allocated_is_taken(disk: SimDisk) -> None:
    disk.room = 10
    disk.allocate(A, 6)
    assert disk.free(FOLDER) == 4
    with pytest.raises(OSError, match=os.strerror(errno.EEXIST)):
        disk.allocate(A, 1)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        disk.allocate(B, 5)
    assert disk.free(FOLDER) == 4
    disk.sync_directory(FOLDER)
    disk.power_cut()
    assert read(disk, A) == bytes(6)
    disk.remove(A)
    assert disk.free(FOLDER) == 10


def test_without_a_limit_there_is_plenty_of_room(disk: SimDisk) -> None:
    assert disk.free(FOLDER) > 1 << 30


# -- a failing disk


@pytest.mark.parametrize("operation", ["open", "append", "sync", "sync_directory"])
def test_the_next_call_of_a_kind_fails_once(disk: SimDisk, operation: str) -> None:
    disk.fail_next[operation] = bad_sync()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write(disk, A, b"x", sync=True)
    write(disk, A, b"y", sync=True)


def test_a_name_that_was_not_made_durable_is_taken_back(disk: SimDisk) -> None:
    disk.fail_next["sync_directory"] = bad_sync()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        disk.open_append(A)
    assert (disk.size(A), disk.open_descriptors) == (None, 0)


def failed_sync(disk: SimDisk) -> int:
    write(disk, A, b"good ", sync=True)
    descriptor = disk.open_append(A)
    disk.append(descriptor, b"bad")
    disk.fail_next["sync"] = bad_sync()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        disk.sync(descriptor)
    return descriptor


def test_after_a_failed_sync_the_page_cache_still_shows_the_bytes(disk: SimDisk) -> None:
    failed_sync(disk)
    assert disk.files[A] == b"good bad"


def test_after_a_failed_sync_a_later_one_succeeds_and_writes_nothing(disk: SimDisk) -> None:
    descriptor = failed_sync(disk)
    disk.append(descriptor, b" more")
    disk.sync(descriptor)
    assert disk.files[A] == b"good bad more"
    assert disk.durable[A] == b"good \0\0\0 more"


def test_a_kill_after_a_failed_sync_may_drop_the_page() -> None:
    def story(disk: SimDisk) -> bytes | None:
        failed_sync(disk)
        disk.kill()
        return read(disk, A)

    assert outcomes(story) == {b"good bad", b"good \0\0\0"}


def test_a_power_cut_after_a_failed_sync_loses_the_bytes_whatever_was_synced_later() -> None:
    def story(disk: SimDisk) -> bytes | None:
        descriptor = failed_sync(disk)
        disk.sync(descriptor)
        disk.kill()
        disk.sync(disk.open_append(A))
        disk.power_cut()
        return read(disk, A)

    assert outcomes(story) == {b"good \0\0\0"}
