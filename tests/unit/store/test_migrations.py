"""Upgrades: one version or the next, never between, and a copy of the one before.

The later versions are made up here; the schema of the first is batchd's own.
"""

import asyncio
import contextlib
import errno
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import pytest

from batchd.errors import ConfigError, NoRoom
from batchd.store import copies
from batchd.store.database import Database
from batchd.store.migrations import migrations

SCHEMA = migrations()
NEWEST = SCHEMA[-1][0]
STEPS = [
    (NEWEST + 1, "CREATE TABLE more (a TEXT) STRICT; INSERT INTO more SELECT id FROM file;"),
    (NEWEST + 2, "ALTER TABLE more ADD COLUMN b TEXT; CREATE INDEX more_by_a ON more (a);"),
]
BROKEN = (NEWEST + 1, "CREATE TABLE more (a TEXT) STRICT; CREATE TABLE more (a TEXT) STRICT;")
FILE = (
    "INSERT INTO file (id, filename, purpose, bytes, created_at) VALUES ('a', 'a', 'batch', 0, 0)"
)

Steps = Sequence[tuple[int, str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "batchd.db"


def before(path: Path) -> Path:
    return path.with_name(f"batchd.db.before-{NEWEST + 1}")


def plan(monkeypatch: pytest.MonkeyPatch, more: Steps) -> None:
    monkeypatch.setattr("batchd.store.migrations.migrations", lambda: [*SCHEMA, *more])


async def open_once(path: Path) -> None:
    async with Database.opened(path, pytest.fail):
        pass


async def opened_old(path: Path) -> None:
    """A database of the newest real version that has a row."""
    async with Database.opened(path, pytest.fail) as database:
        await database.write(lambda tx: tx.execute(FILE))


def ask(path: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def version(path: Path) -> object:
    return ask(path, "PRAGMA user_version")[0][0]


def schema(path: Path) -> list[tuple[object, ...]]:
    return ask(path, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")


def names(path: Path) -> set[str]:
    return {found.name for found in path.parent.iterdir()}


def test_schema_files_are_numbered_without_a_gap() -> None:
    folder = resources.files("batchd.store") / "schema"
    found = sorted(item.name for item in folder.iterdir())
    assert all(re.fullmatch(r"\d{4}_[a-z_]+\.sql", name) for name in found)
    assert [number for number, _ in migrations()] == list(range(1, len(found) + 1))


async def test_a_fresh_database_and_one_of_this_version_need_no_copy(path: Path) -> None:
    await open_once(path)
    await open_once(path)
    assert version(path) == NEWEST
    assert names(path) == {"batchd.db"}


@pytest.mark.parametrize("at", range(1, NEWEST + len(STEPS)))
async def test_from_every_version_one_comes_to_the_schema_of_a_fresh_database(
    at: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [*SCHEMA, *STEPS]
    fresh = path.with_name("fresh.db")
    monkeypatch.setattr("batchd.store.migrations.migrations", lambda: known[:at])
    await open_once(path)
    assert version(path) == at
    monkeypatch.setattr("batchd.store.migrations.migrations", lambda: known)
    await open_once(path)
    await open_once(fresh)
    assert version(path) == version(fresh) == NEWEST + len(STEPS)
    assert schema(path) == schema(fresh)


async def test_an_upgrade_leaves_a_copy_of_the_version_before(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await opened_old(path)
    path.chmod(0o640)
    plan(monkeypatch, STEPS)
    caplog.clear()
    await open_once(path)
    assert names(path) == {"batchd.db", before(path).name}
    assert (version(path), ask(path, "SELECT a, b FROM more")) == (NEWEST + 2, [("a", None)])
    assert (version(before(path)), ask(before(path), "SELECT id FROM file")) == (NEWEST, [("a",)])
    assert stat.S_IMODE(before(path).stat().st_mode) == 0o640
    said = [(record.message, vars(record)["version"]) for record in caplog.records]
    assert said == [
        ("database_copied", NEWEST),
        ("schema_migrated", NEWEST + 1),
        ("schema_migrated", NEWEST + 2),
    ]
    assert vars(caplog.records[0])["copy"] == str(before(path))


async def test_the_copy_is_put_in_place_of_the_database_to_go_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened_old(path)
    with monkeypatch.context() as upgrade:
        plan(upgrade, STEPS)
        await open_once(path)
    before(path).rename(path)
    async with Database.opened(path, pytest.fail) as database:
        assert await database.rows("SELECT id FROM file", {}) == [{"id": "a"}]


async def test_a_copy_of_an_earlier_upgrade_is_replaced_by_one_of_what_is_there_now(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened_old(path)
    before(path).write_bytes(b"of an upgrade that was taken back")
    before(path).with_name(f"{before(path).name}.new").write_bytes(b"half")
    plan(monkeypatch, STEPS)
    await open_once(path)
    assert names(path) == {"batchd.db", before(path).name}
    assert ask(before(path), "SELECT id FROM file") == [("a",)]


async def test_a_step_that_fails_leaves_the_old_version_and_says_where_the_copy_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened_old(path)
    plan(monkeypatch, [BROKEN])
    with pytest.raises(ConfigError) as caught:
        await open_once(path)
    assert str(caught.value) == (
        f"the database {path} could not be brought to schema version {NEWEST + 1}: table more "
        f"already exists. It still has version {NEWEST}, and a copy from before is in "
        f"{before(path)}: run the batchd that wrote it"
    )
    assert (version(path), ask(path, "SELECT id FROM file")) == (NEWEST, [("a",)])
    assert (version(before(path)), ask(before(path), "SELECT id FROM file")) == (NEWEST, [("a",)])
    plan(monkeypatch, [])
    await open_once(path)


async def test_a_second_step_that_fails_leaves_the_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened_old(path)
    plan(monkeypatch, [STEPS[0], (NEWEST + 2, "nonsense")])
    with pytest.raises(ConfigError, match=f"It still has version {NEWEST + 1}"):
        await open_once(path)
    assert (version(path), ask(path, "SELECT a FROM more")) == (NEWEST + 1, [("a",)])
    plan(monkeypatch, STEPS)
    await open_once(path)
    assert version(path) == NEWEST + 2
    assert version(before(path)) == NEWEST
    assert version(path.with_name(f"batchd.db.before-{NEWEST + 2}")) == NEWEST + 1


async def test_a_fresh_database_that_cannot_be_made_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(monkeypatch, [BROKEN])
    with pytest.raises(ConfigError, match="cannot be used: table more already exists"):
        await open_once(path)


async def test_a_newer_database_is_refused(path: Path) -> None:
    ask(path, "PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="has schema version 99, newer than this batchd's"):
        await open_once(path)


async def test_without_room_for_the_copy_nothing_is_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened_old(path)
    plan(monkeypatch, STEPS)

    def no_room(_path: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left")

    with monkeypatch.context() as full:
        full.setattr(copies, "copy", no_room)
        with pytest.raises(NoRoom, match=r"no room for a copy .* before it is upgraded: free \d+"):
            await open_once(path)
    assert names(path) == {"batchd.db"}
    assert version(path) == NEWEST
    await open_once(path)
    assert version(path) == NEWEST + 2


async def test_without_room_for_a_step_the_version_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened_old(path)
    pages = ask(path, "PRAGMA page_count")[0][0]
    step = f"PRAGMA max_page_count = {pages}; {STEPS[0][1]}"
    plan(monkeypatch, [(NEWEST + 1, step)])
    with pytest.raises(NoRoom):
        await open_once(path)
    assert version(path) == NEWEST


async def test_a_copy_that_cannot_be_made_stops_the_upgrade(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened_old(path)
    plan(monkeypatch, STEPS)

    def fail(_path: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(copies, "copy", fail)
    with pytest.raises(ConfigError, match=r"cannot be used: .*Permission denied"):
        await open_once(path)
    assert (names(path), version(path)) == ({"batchd.db"}, NEWEST)


# Opens the database in a process that dies at one point of the upgrade.
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
import batchd.store.migrations as upgrade
from batchd.store.database import Database

path, at, number, first, second = sys.argv[1:]
path, number = Path(path), int(number)
known = [*upgrade.migrations(), (number, first), (number + 1, second)]
upgrade.migrations = lambda: known
copy, rename, apply = upgrade.copies.copy, upgrade.Disk.rename, upgrade._apply

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def dying_copy(source, target):
    copy(source, target)
    at == "copied" and die()

def dying_rename(disk, old, new):
    rename(disk, old, new)
    at == "renamed" and die()

async def dying_apply(connection, step, script):
    if at == "mid-step":
        await connection.executescript("BEGIN IMMEDIATE;" + script)
        # More than fits into the cache, so that uncommitted pages are in the WAL.
        await connection.execute(
            "INSERT INTO more WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
            "LIMIT 20000) SELECT hex(randomblob(500)) FROM n"
        )
        die()
    await apply(connection, step, script)
    at == f"after-{step - number + 1}" and die()

upgrade.copies.copy, upgrade.Disk.rename, upgrade._apply = dying_copy, dying_rename, dying_apply

async def main():
    async with Database.opened(path, sys.exit):
        pass

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("copied", NEWEST),
        ("renamed", NEWEST),
        ("mid-step", NEWEST),
        ("after-1", NEWEST + 1),
        ("after-2", NEWEST + 2),
    ],
)
async def test_a_kill_during_an_upgrade_leaves_one_version_or_the_next(
    at: str, expected: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened_old(path)
    steps = [str(NEWEST + 1), *(script for _, script in STEPS)]
    command = [sys.executable, "-c", KILLED, str(path), at, *steps]
    killed = await asyncio.to_thread(subprocess.run, command, check=False, timeout=15)
    assert killed.returncode == -signal.SIGKILL
    copied = path.with_name("after-the-kill.db")
    copied.write_bytes(path.read_bytes())
    wal = path.with_name("batchd.db-wal")
    if wal.exists():
        copied.with_name("after-the-kill.db-wal").write_bytes(wal.read_bytes())
    assert (version(copied), ask(copied, "SELECT id FROM file")) == (expected, [("a",)])
    assert at == "copied" or ask(before(path), "SELECT id FROM file") == [("a",)]
    plan(monkeypatch, STEPS)
    await open_once(path)
    assert (version(path), ask(path, "SELECT a, b FROM more")) == (NEWEST + 2, [("a", None)])
    assert (version(before(path)), ask(before(path), "SELECT id FROM file")) == (NEWEST, [("a",)])
    assert not list(path.parent.glob("*.new"))
