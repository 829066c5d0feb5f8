"""The database: whole transactions or none, checked pragmas, and a word when it is all over."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import aiosqlite
import pytest

from batchd.errors import ConfigError, NoRoom
from batchd.store.database import Database, migrations

SCHEMA = migrations()
NEWEST = SCHEMA[-1][0]

NAMES = "SELECT filename FROM file ORDER BY seq"
INSERT = (
    "INSERT INTO file (id, filename, purpose, bytes, created_at) VALUES (:id, :id, 'batch', 0, 0)"
)


@pytest.fixture
def fatal() -> list[str]:
    return []


@pytest.fixture
async def database(tmp_path: Path, fatal: list[str]) -> AsyncIterator[Database]:
    async with Database.opened(tmp_path / "batchd.db", fatal.append) as opened:
        yield opened


async def names(database: Database) -> list[object]:
    return [row["filename"] for row in await database.rows(NAMES, {})]


async def insert(tx: aiosqlite.Connection, name: str) -> None:
    await tx.execute(INSERT, {"id": name})


async def pragma(tx: aiosqlite.Connection, text: str) -> object:
    return next(iter(await tx.execute_fetchall(f"PRAGMA {text}")))[0]


async def test_a_write_is_seen_by_reads(database: Database) -> None:
    async def work(tx: aiosqlite.Connection) -> str:
        await insert(tx, "a")
        return "done"

    assert await database.write(work) == "done"
    assert await names(database) == ["a"]
    assert await database.row(NAMES, {}) == {"filename": "a"}
    assert await database.row("SELECT 1 WHERE 0", {}) is None


async def test_an_error_leaves_nothing(database: Database, fatal: list[str]) -> None:
    async def work(tx: aiosqlite.Connection) -> None:
        await insert(tx, "a")
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(work)
    assert await names(database) == []

    async def twice(tx: aiosqlite.Connection) -> None:
        await insert(tx, "b")
        await insert(tx, "b")

    with pytest.raises(sqlite3.IntegrityError):
        await database.write(twice)
    assert await names(database) == []
    await database.write(lambda tx: insert(tx, "c"))
    assert await names(database) == ["c"]
    assert fatal == []


async def test_a_cancelled_caller_leaves_a_whole_transaction(database: Database) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(tx: aiosqlite.Connection) -> None:
        await insert(tx, "a")
        begun.set()
        await go_on.wait()
        await insert(tx, "b")

    caller = asyncio.create_task(database.write(work), name="caller")
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await names(database) == []
    go_on.set()
    await database.write(lambda tx: insert(tx, "c"))
    assert await names(database) == ["a", "b", "c"]


async def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def work(tx: aiosqlite.Connection) -> None:
        begun.set()
        await asyncio.sleep(0.01)
        await insert(tx, "a")

    async with Database.opened(tmp_path / "batchd.db", pytest.fail) as database:
        caller = asyncio.create_task(database.write(work), name="caller")
        await begun.wait()
        caller.cancel()
        await asyncio.wait([caller])
    async with Database.opened(tmp_path / "batchd.db", pytest.fail) as again:
        assert await names(again) == ["a"]


async def test_writers_take_turns(database: Database) -> None:
    inside = 0

    async def work(tx: aiosqlite.Connection, name: str) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        await insert(tx, name)
        await asyncio.sleep(0)
        inside -= 1

    await asyncio.gather(
        *(database.write(lambda tx, n=number: work(tx, f"{n}")) for number in range(20))
    )
    assert len(await names(database)) == 20


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await database.rows("DELETE FROM file", {})


async def test_a_full_disk_is_survived(database: Database, fatal: list[str]) -> None:
    async def fill(tx: aiosqlite.Connection) -> None:
        await tx.execute(INSERT, {"id": "x" * 100_000})

    pages = await database.write(lambda tx: pragma(tx, "page_count"))
    assert isinstance(pages, int)
    await database.write(lambda tx: pragma(tx, f"max_page_count = {pages + 1}"))
    with pytest.raises(NoRoom):
        await database.write(fill)
    await database.write(lambda tx: pragma(tx, "max_page_count = 100000"))
    await database.write(fill)
    assert len(await names(database)) == 1
    assert fatal == []


async def test_any_other_failure_is_the_end(
    database: Database, fatal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_tx: aiosqlite.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
        raise error

    with pytest.raises(sqlite3.OperationalError):
        await database.write(fail)
    assert fatal == ["the database failed: SQLITE_IOERR_FSYNC"]
    assert "database_failed" in [record.message for record in caplog.records]


async def test_a_lost_connection_is_the_end(database: Database, fatal: list[str]) -> None:
    async def work(tx: aiosqlite.Connection) -> None:
        await tx.execute("COMMIT")  # as if SQLite had ended the transaction by itself

    with pytest.raises(sqlite3.OperationalError, match="no transaction is active"):
        await database.write(work)
    assert fatal == ["the database failed: SQLITE_ERROR"]


async def test_the_pragmas_are_as_promised(database: Database) -> None:
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "busy_timeout": 5000,
        "trusted_schema": 0,
        "application_id": 0x62617464,
        "user_version": NEWEST,
    }
    for name, value in wanted.items():
        assert await database.write(lambda tx, name=name: pragma(tx, name)) == value


async def test_closing_leaves_no_wal_behind(tmp_path: Path) -> None:
    async with Database.opened(tmp_path / "batchd.db", pytest.fail) as database:
        await database.write(lambda tx: insert(tx, "a"))
    assert [path.name for path in tmp_path.iterdir()] == ["batchd.db"]


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


async def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        async with Database.opened(path, pytest.fail):
            pass
    return str(caught.value)


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "batchd.db"
    await asyncio.to_thread(change, path, "PRAGMA user_version = 99")
    assert "has schema version 99, newer than this batchd's" in await refusal(path)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "batchd.db"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    assert str(path) in await refusal(path)


async def test_a_pragma_that_is_refused_without_an_error_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.store.database._SYNCHRONOUS_FULL", 3)
    assert "answered 2 instead of 3" in await refusal(tmp_path / "batchd.db")


async def test_a_step_that_fails_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "batchd.db"
    bad = [*SCHEMA, (NEWEST + 1, "CREATE TABLE more (a) STRICT;")]
    monkeypatch.setattr("batchd.store.database.migrations", lambda: bad)
    assert "cannot be used" in await refusal(path)
    monkeypatch.setattr("batchd.store.database.migrations", lambda: SCHEMA)
    async with Database.opened(path, pytest.fail) as database:
        rows = await database.rows("SELECT name FROM sqlite_schema WHERE name = 'more'", {})
        version = await database.row("PRAGMA user_version", {})
    assert rows == []
    assert version == {"user_version": NEWEST}


def test_schema_files_are_numbered_without_a_gap() -> None:
    folder = resources.files("batchd.store") / "schema"
    found = sorted(item.name for item in folder.iterdir())
    assert all(re.fullmatch(r"\d{4}_[a-z_]+\.sql", name) for name in found)
    assert [number for number, _ in migrations()] == list(range(1, len(found) + 1))
