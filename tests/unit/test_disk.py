"""The disk seam: what it makes is whole, and only room is a pause."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from batchd.disk import Disk, cannot_link, filesystem, is_full, make_like


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.mark.parametrize(
    ("number", "full"),
    [
        (errno.ENOSPC, True),
        (errno.EDQUOT, True),
        (errno.EFBIG, True),
        (errno.EIO, False),
        (errno.EROFS, False),
    ],
)
def test_only_room_is_a_pause(number: int, full: bool) -> None:
    assert is_full(OSError(number, "")) == full


def test_a_copy_does_where_a_link_cannot_be_made() -> None:
    assert cannot_link(OSError(errno.EXDEV, ""))
    assert not cannot_link(OSError(errno.EIO, ""))


def test_a_filesystem_is_known_by_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filesystem(Path("/proc")) == "proc"
    device, mounts = tmp_path.stat().st_dev, tmp_path / "mountinfo"
    monkeypatch.setattr("batchd.disk._MOUNTS", mounts)
    assert filesystem(tmp_path) is None
    mounts.write_bytes(
        b"22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        b"30 27 %d:%d / /a\\040b\xff rw shared:5 master:1 - xfs /dev/x rw\n"
        % (os.major(device), os.minor(device))
    )
    assert filesystem(tmp_path) == "xfs"
    mounts.write_text("22 27 0:21 / /proc rw,relatime - proc proc rw\n")
    assert filesystem(tmp_path) is None


def test_what_is_made_like_another_has_its_mode(tmp_path: Path) -> None:
    (tmp_path / "old").touch(mode=0o604)
    (tmp_path / "old").chmod(0o604)
    with (tmp_path / "new").open("xb") as new:
        make_like(new.fileno(), (tmp_path / "old").stat())
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "old").stat().st_mode


def test_appends_go_behind_what_is_there(disk: Disk, tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert disk.size(path) is None
    for text in (b"one", b"two"):
        descriptor = disk.open_append(path)
        disk.append(descriptor, text)
        disk.sync(descriptor)
        disk.close(descriptor)
    assert disk.size(path) == 6
    assert path.stat().st_mode & 0o777 & ~0o640 == 0
    descriptor = disk.open_append(path)
    disk.truncate(descriptor, 3)
    disk.append(descriptor, b"!")
    disk.close(descriptor)
    with disk.open_read(path) as file:
        assert file.read() == b"one!"


def test_what_is_allocated_takes_up_room(disk: Disk, tmp_path: Path) -> None:
    disk.allocate(tmp_path / "a", 100_000)
    found = (tmp_path / "a").stat()
    assert found.st_size == 100_000
    assert found.st_blocks * 512 >= 100_000
    assert found.st_mode & 0o777 & ~0o640 == 0
    with pytest.raises(FileExistsError):
        disk.allocate(tmp_path / "a", 1)


def test_a_symbolic_link_is_not_followed(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        disk.open_append(tmp_path / "a")


def test_a_write_in_pieces_is_whole(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def write_a_piece(descriptor: int, data: memoryview) -> int:
        return write(descriptor, data[:2])

    monkeypatch.setattr(os, "write", write_a_piece)
    descriptor = disk.open_append(tmp_path / "a")
    disk.append(descriptor, b"seven b")
    disk.close(descriptor)
    assert (tmp_path / "a").read_bytes() == b"seven b"


def test_directories_come_and_go(disk: Disk, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for _ in range(2):
        disk.make_directory(folder)
    (folder / "x").write_bytes(b"x")
    disk.rename(folder / "x", tmp_path / "y")
    disk.rename(tmp_path / "y", tmp_path / "z")
    assert (tmp_path / "z").read_bytes() == b"x"
    for _ in range(2):
        disk.remove_directory(folder)
        disk.remove(tmp_path / "z")
    assert list(tmp_path.iterdir()) == []
    assert disk.free(tmp_path) > 0


def test_a_hold_is_a_link_and_replaces_what_a_crash_left(disk: Disk, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"bytes")
    target.write_bytes(b"torn")
    disk.link_or_copy(source, target)
    assert target.samefile(source)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_where_no_link_can_be_made_it_is_a_copy(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"bytes" * 1_000_000)

    def refuse(_target: Path, _source: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    disk.link_or_copy(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert not target.samefile(source)


def test_any_other_reason_not_to_link_is_an_error(disk: Disk, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        disk.link_or_copy(tmp_path / "none", tmp_path / "target")


async def test_work_runs_off_the_loop(disk: Disk) -> None:
    def is_in_loop() -> bool:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False
        return True

    assert is_in_loop()
    assert not await disk.run(is_in_loop)
