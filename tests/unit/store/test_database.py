"""The database: whole transactions or none, checked pragmas, and a word when it is all over."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import aiosqlite
import pytest

from batchd.errors import ConfigError, NoRoom, SpoolError
from batchd.store.database import Database
from batchd.store.migrations import migrations

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


class Narrow:
    """A database that may not grow, until someone makes room."""

    def __init__(self, gives: int) -> None:
        self.gives = gives
        self.asked = 0
        self.attempts = 0
        self._connection: aiosqlite.Connection | None = None

    async def make_room(self) -> bool:
        assert self._connection is not None
        assert not self._connection.in_transaction
        self.asked += 1
        if self.gives:
            await pragma(self._connection, f"max_page_count = {self.gives}")
        return bool(self.gives)

    async def fill(self, tx: aiosqlite.Connection) -> None:
        self._connection = tx
        self.attempts += 1
        await insert(tx, "before")
        await tx.execute(INSERT, {"id": "x" * 100_000})

    @contextlib.asynccontextmanager
    async def opened(self, directory: Path) -> AsyncGenerator[Database]:
        async with Database.opened(directory / "batchd.db", pytest.fail, self.make_room) as found:
            pages = await found.write(lambda tx: pragma(tx, "page_count"))
            assert isinstance(pages, int)
            await found.write(lambda tx: pragma(tx, f"max_page_count = {pages + 1}"))
            yield found


async def test_when_room_is_made_the_whole_transaction_goes_through(tmp_path: Path) -> None:
    narrow = Narrow(gives=1000)
    async with narrow.opened(tmp_path) as database:
        await database.write(narrow.fill)
        assert len(await names(database)) == 2
    assert (narrow.asked, narrow.attempts) == (1, 2)


async def test_room_that_does_not_suffice_is_asked_for_once(tmp_path: Path) -> None:
    narrow = Narrow(gives=30)
    async with narrow.opened(tmp_path) as database:
        with pytest.raises(NoRoom):
            await database.write(narrow.fill)
        assert await names(database) == []
        assert (narrow.asked, narrow.attempts) == (1, 2)
        await database.write(lambda tx: insert(tx, "small"))
        assert await names(database) == ["small"]


async def test_when_no_room_can_be_made_nothing_is_tried_again(tmp_path: Path) -> None:
    narrow, path = Narrow(gives=0), tmp_path / "batchd.db"
    async with narrow.opened(tmp_path) as database, aiosqlite.connect(path) as reader:
        await reader.execute("BEGIN")
        await reader.execute_fetchall(NAMES)  # keeps the WAL from being emptied
        await database.write(lambda tx: insert(tx, "small"))
        with pytest.raises(NoRoom):
            await database.write(narrow.fill)
        assert await names(database) == ["small"]
    assert (narrow.asked, narrow.attempts) == (1, 1)


async def test_the_wal_is_written_from_its_beginning_again_when_the_disk_is_full(
    tmp_path: Path,
) -> None:
    narrow = Narrow(gives=0)
    async with narrow.opened(tmp_path) as database:
        with pytest.raises(NoRoom):
            await database.write(narrow.fill)
        before = (tmp_path / "batchd.db-wal").stat().st_size
        await database.write(lambda tx: insert(tx, "small"))
        assert (tmp_path / "batchd.db-wal").stat().st_size == before
    assert (narrow.asked, narrow.attempts) == (1, 2)


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


async def test_a_disk_that_fails_at_the_opening_is_no_fault_of_the_configuration(
    tmp_path: Path, fatal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_READ"

    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("batchd.store.database.migrate", fail)
    with pytest.raises(SpoolError, match="disk I/O error"):
        async with Database.opened(tmp_path / "batchd.db", fatal.append):
            pass


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


async def test_the_reader_never_checkpoints(database: Database) -> None:
    assert await database.row("PRAGMA wal_autocheckpoint", {}) == {"wal_autocheckpoint": 0}
    assert await database.row("PRAGMA query_only", {}) == {"query_only": 1}


async def test_a_directory_may_be_called_anything(tmp_path: Path) -> None:
    """SQLite is told of the file by a URI, in which some characters mean something."""
    folder = tmp_path / "a?mode=rw#b%41 ä"
    folder.mkdir()
    async with Database.opened(folder / "batchd.db", pytest.fail) as database:
        await database.write(lambda tx: insert(tx, "a"))
        assert await names(database) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


async def test_a_place_on_the_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr("batchd.disk._MOUNTS", mounts)
    for kind in ("nfs4", "cifs"):
        mounts.write_text(
            "21 27 0:20 / /sys rw - sysfs sysfs rw\n"
            f"30 27 {os.major(device)}:{os.minor(device)} / /mnt rw shared:5 - {kind} host:/x rw\n"
        )
        assert f"is on the network ({kind})" in await refusal(tmp_path / "batchd.db")
    assert not (tmp_path / "batchd.db").exists()


async def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "cannot be used" in await refusal(tmp_path / "nowhere" / "batchd.db")


async def test_closing_leaves_no_wal_behind(tmp_path: Path) -> None:
    async with Database.opened(tmp_path / "batchd.db", pytest.fail) as database:
        await database.write(lambda tx: insert(tx, "a"))
    assert [path.name for path in tmp_path.iterdir()] == ["batchd.db"]


async def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        async with Database.opened(path, pytest.fail):
            pass
    return str(caught.value)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "batchd.db"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    assert str(path) in await refusal(path)


@pytest.mark.parametrize("harm", ["text", "page", "cut"])
async def test_a_damaged_database_is_refused_and_left_as_it_is(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "batchd.db"
    async with Database.opened(path, pytest.fail) as database:
        await database.write(lambda tx: insert(tx, "a"))
    data = await asyncio.to_thread(path.read_bytes)
    damaged = {
        "text": b"no database " * 1000,
        "page": data[:8192] + b"\xff" * 4096 + data[12288:],
        "cut": data[: len(data) // 2],
    }
    await asyncio.to_thread(path.write_bytes, damaged[harm])
    said = await refusal(path)
    assert said.startswith(f"the database {path} is damaged (")
    assert "restore the storage directory from a backup" in said
    assert await asyncio.to_thread(path.read_bytes) == damaged[harm]


async def test_the_database_of_another_program_is_refused_and_left_as_it_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "batchd.db"
    async with aiosqlite.connect(path) as other:
        await other.execute("CREATE TABLE recipes (name)")
    before = await asyncio.to_thread(path.read_bytes)
    assert "is the database of another program" in await refusal(path)
    assert await asyncio.to_thread(path.read_bytes) == before


async def test_a_pragma_that_is_refused_without_an_error_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.store.database._SYNCHRONOUS_FULL", 3)
    assert "answered 2 instead of 3" in await refusal(tmp_path / "batchd.db")
