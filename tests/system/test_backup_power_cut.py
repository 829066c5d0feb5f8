"""The power is cut during and after a backup and an upgrade, on real filesystems.

What has its name is whole; what the command said to be done is there afterwards.
"""

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import loop_disk
from tests.support.loop_disk import LoopDisk
from tests.support.parts import opened, requests

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
FILESYSTEMS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            loop_disk.missing(name) is not None, reason=str(loop_disk.missing(name))
        ),
    )
    for name in ("ext4", "xfs")
]
# Backs up, and ends at once in place of the call of this number that makes, syncs or names.
BACK_UP = """
import os, pathlib, sys
from batchd.upkeep.backup import back_up

left = int(sys.argv[3])

def or_end(work):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(3)
        return work(*args, **kwargs)
    return counted

path = pathlib.Path
for owner, names in ((os, ["open", "fsync"]), (path, ["mkdir", "hardlink_to", "rename"])):
    for name in names:
        setattr(owner, name, or_end(getattr(owner, name)))
back_up(path(sys.argv[1]), path(sys.argv[2]), lambda done, of: None)
"""
WITHOUT_SYNC = "import os\nos.fsync = os.fdatasync = lambda descriptor: None\n"
# Opens a database with a version more than this program knows; ends after the copy was made.
UPGRADE = """
import asyncio, os, sys
from pathlib import Path
import batchd.store.migrations as upgrade
from batchd.store.database import Database

known = [*upgrade.migrations(), (upgrade.migrations()[-1][0] + 1, "CREATE TABLE more (a);")]
upgrade.migrations = lambda: known
if sys.argv[2] == "copied":
    upgrade._apply = lambda *_: os._exit(3)

async def main():
    async with Database.opened(Path(sys.argv[1]), sys.exit):
        os._exit(3)

asyncio.run(main())
"""


@pytest.fixture(params=FILESYSTEMS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoopDisk]:
    """A disk with a storage directory of which all is durable."""
    with LoopDisk(tmp_path / "disk", request.param) as mounted:
        asyncio.run(fill(mounted.root / "state"))
        subprocess.run(["sync"], check=True)  # noqa: S607 - wherever it is
        yield mounted


async def fill(state: Path) -> None:
    async with opened(state) as parts:
        for name in "abcd":
            await parts.upload(requests(name, size=5000))
        for _ in range(3):
            batch = await parts.running(requests("ef"))
            parts.spool.file(str(batch.output_file_id)).write_bytes(b"torn" * 5000)


def run(program: str, *args: object) -> int:
    command = [sys.executable, "-c", program, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=60).returncode  # noqa: S603 - our own program


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        )
        for path in directory.rglob("*")
    }


def cut(disk: LoopDisk) -> None:
    disk.cut_power()
    disk.power_on()


def test_a_backup_that_is_done_is_on_the_disk(disk: LoopDisk) -> None:
    state, copy = disk.root / "state", disk.root / "copy"
    assert run(BACK_UP, state, copy, 10_000) == 0
    before = contents(copy)
    cut(disk)
    assert contents(copy) == before
    assert len([name for name in before if name.startswith("files/")]) == 10


def test_without_syncs_it_would_not_be(disk: LoopDisk) -> None:
    """That this test can see a sync that is missing."""
    assert run(WITHOUT_SYNC + BACK_UP, disk.root / "state", disk.root / "copy", 10_000) == 0
    before = contents(disk.root / "copy")
    cut(disk)
    assert contents(disk.root / "copy") != before


def test_a_backup_that_was_cut_off_has_no_name_or_is_whole(disk: LoopDisk) -> None:
    state, copy, calls, named = disk.root / "state", disk.root / "copy", 0, 0
    assert run(BACK_UP, state, disk.root / "whole", 10_000) == 0
    whole = contents(disk.root / "whole")
    while run(BACK_UP, state, copy, calls):
        cut(disk)
        if copy.exists():
            named += 1
            assert contents(copy) == whole
            copy.rename(disk.root / f"named-{calls}")
        calls += 5 if calls < 40 else 1
    cut(disk)
    assert contents(copy) == whole
    print(f"{calls} calls, {named} cuts left a whole backup")  # noqa: T201 - to read


def test_the_copy_of_an_upgrade_is_on_the_disk_before_its_first_step(disk: LoopDisk) -> None:
    database = disk.root / "state" / "batchd.db"
    for at in ("copied", "upgraded"):
        assert run(UPGRADE, database, at) == 3
        copies = list(database.parent.glob("batchd.db.before-*"))
        assert len(copies) == 1
        before = copies[0].read_bytes()
        cut(disk)
        assert copies[0].read_bytes() == before
        assert before.startswith(b"SQLite format 3\0")
