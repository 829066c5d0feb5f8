"""A copy of the database: what was committed, whole, and nothing changed where it came from."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from batchd.errors import ConfigError
from batchd.store import copies
from batchd.store.database import Database

FILE = "INSERT INTO file (id, filename, purpose, bytes, created_at) VALUES (?, '', 'batch', 0, 0)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a?b#c%41").mkdir()
    return tmp_path / "a?b#c%41" / "batchd.db"


def ids(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM file ORDER BY seq")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def written(path: Path) -> None:
    """A database that was closed."""
    async with Database.opened(path, pytest.fail) as database:
        await database.write(lambda tx: tx.execute(FILE, ["a"]))


async def test_a_copy_has_what_is_in_the_wal_and_checkpoints_nothing(
    path: Path, tmp_path: Path
) -> None:
    async with Database.opened(path, pytest.fail) as database:
        await database.write(lambda tx: tx.execute(FILE, ["a"]))
        before = contents(path.parent)
        await asyncio.to_thread(copies.copy, path, tmp_path / "copy.db")
        after = contents(path.parent)
        assert after["batchd.db"] == before["batchd.db"]
        assert after["batchd.db-wal"] == before["batchd.db-wal"]
        assert b"CREATE TABLE" not in after["batchd.db"], "all of it is in the WAL still"
        await database.write(lambda tx: tx.execute(FILE, ["b"]))
    assert (ids(tmp_path / "copy.db"), ids(path)) == (["a"], ["a", "b"])


async def test_a_closed_database_is_left_as_it_is(path: Path, tmp_path: Path) -> None:
    await written(path)
    before = contents(path.parent)
    await asyncio.to_thread(copies.copy, path, tmp_path / "copy.db")
    assert contents(path.parent) == before
    assert ids(tmp_path / "copy.db") == ["a"]


async def test_a_database_that_is_opened_meanwhile_is_copied_as_it_is_then(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read as a file that does not change did change."""
    await written(path)
    target, loop = tmp_path / "copy.db", asyncio.get_running_loop()
    stack = contextlib.AsyncExitStack()
    copy_once = vars(copies)["_copy"]
    attempts: list[bool] = []

    async def start() -> None:
        database = await stack.enter_async_context(Database.opened(path, pytest.fail))
        await database.write(lambda tx: tx.execute(FILE, ["b"]))

    def copy_and_start(source: Path, copy: Path) -> None:
        copy_once(source, copy)
        if not attempts:
            asyncio.run_coroutine_threadsafe(start(), loop).result(5)
        attempts.append(True)

    monkeypatch.setattr(copies, "_copy", copy_and_start)
    await asyncio.to_thread(copies.copy, path, target)
    assert len(attempts) == 2
    assert ids(target) == ["a", "b"]
    await stack.aclose()


def test_a_copy_takes_no_more_room_than_the_database(path: Path, tmp_path: Path) -> None:
    """It has no journal: what is broken off is thrown away."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE file (id)")
    copies.copy(path, tmp_path / "copy.db")
    assert {found.name for found in tmp_path.iterdir()} == {"copy.db", path.parent.name}
    assert (tmp_path / "copy.db").stat().st_size == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "raised", "reason"),
    [
        ("SQLITE_FULL", OSError, "No space left on device"),
        ("SQLITE_CORRUPT", ConfigError, "cannot be copied: torn"),
    ],
)
def test_what_sqlite_cannot_do_is_said(
    name: str, raised: type[Exception], reason: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path, _target: Path) -> None:
        error = sqlite3.DatabaseError("torn")
        error.sqlite_errorname = name
        raise error

    path.touch()
    monkeypatch.setattr(copies, "_copy", fail)
    with pytest.raises(raised, match=reason):
        copies.copy(path, path.with_name("copy.db"))


def test_nothing_can_be_written_through_a_connection_for_looking(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE file (id)")
        with (
            copies.read_only(path) as looking,
            pytest.raises(sqlite3.OperationalError, match="readonly"),
        ):
            looking.execute("INSERT INTO file VALUES ('a')")
    with (
        copies.read_only(path) as looking,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        looking.execute("INSERT INTO file VALUES ('a')")
