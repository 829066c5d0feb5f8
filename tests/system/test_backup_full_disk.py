"""Backups and upgrades that find no room, on a filesystem that is really full."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchd.errors import NoRoom
from batchd.store.database import Database
from batchd.store.migrations import migrations
from batchd.upkeep.backup import BackupFailed, back_up
from tests.support.parts import opened, requests

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a filesystem needs root"),
    pytest.mark.skipif(shutil.which("mount") is None, reason="mount is not installed"),
]

SCHEMA = migrations()


class SmallDisk:
    def __init__(self, root: Path) -> None:
        self.root = root

    def mount(self, size: str) -> None:
        self.root.mkdir()
        self._run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.root))

    def grow(self, size: str) -> None:
        self._run("mount", "-o", f"remount,size={size}", str(self.root))

    def unmount(self) -> None:
        if self.root.is_mount():
            self._run("umount", str(self.root))

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, timeout=30)  # noqa: S603 - the test's own


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "small")
    yield small
    small.unmount()


async def fill(state: Path, size: int) -> None:
    async with opened(state) as parts:
        await parts.upload(requests("a", size=size))


@pytest.mark.parametrize("room", ["16k", "200k"], ids=["database", "files"])
def test_a_backup_without_room_is_refused_and_leaves_nothing(
    room: str, disk: SmallDisk, tmp_path: Path
) -> None:
    asyncio.run(fill(tmp_path / "state", 300_000))
    disk.mount(room)
    with pytest.raises(BackupFailed, match=f"no room for a backup at {disk.root}/copy"):
        back_up(tmp_path / "state", disk.root / "copy", lambda _done, _of: None)
    assert list(disk.root.iterdir()) == []
    disk.grow("2m")
    assert back_up(tmp_path / "state", disk.root / "copy", lambda _done, _of: None).copied == 1


async def open_once(database: Path) -> None:
    async with Database.opened(database, pytest.fail):
        pass


def test_an_upgrade_without_room_for_the_copy_does_not_begin(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.mount("2m")
    state = disk.root / "state"
    asyncio.run(fill(state, 10))
    free = shutil.disk_usage(disk.root).free
    (disk.root / "rest").write_bytes(b"x" * (free - 60_000))
    monkeypatch.setattr(
        "batchd.store.migrations.migrations", lambda: [*SCHEMA, (99, "CREATE TABLE more (a);")]
    )
    with pytest.raises(NoRoom, match="no room for a copy of the database before it is upgraded"):
        asyncio.run(open_once(state / "batchd.db"))
    assert not list(state.glob("batchd.db.before-*"))
    (disk.root / "rest").unlink()
    asyncio.run(open_once(state / "batchd.db"))
    assert [path.name for path in state.glob("batchd.db.before-*")] == [
        f"batchd.db.before-{SCHEMA[-1][0] + 1}"
    ]
