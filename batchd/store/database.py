"""The one SQLite database: opening, migrating, transactions.

WAL with synchronous=FULL, so a committed transaction survives power loss. One connection writes and
checkpoints (two would meet SQLite's WAL-reset bug, fixed only in 3.51.3); one more, read-only,
reads. A write is a whole transaction per call, in a task of its own: a caller who is cancelled
neither leaves it open nor cuts it short.

A failed commit means *unknown*, not *rolled back*: after an I/O error the process must end and
start again, so ``on_fatal`` is told. Only a full disk is survivable: SQLite has rolled back.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TypeVar

import aiosqlite

from batchd.errors import ConfigError, NoRoom

log = logging.getLogger(__name__)

T = TypeVar("T")
Params = Mapping[str, object]
Row = dict[str, object]
Work = Callable[[aiosqlite.Connection], Awaitable[T]]

SQLITE_VERSION = sqlite3.sqlite_version
_APPLICATION_ID = 0x62617464  # "batd"
_SYNCHRONOUS_FULL = 2
_SURVIVABLE = ("SQLITE_FULL", "SQLITE_CONSTRAINT")


class Database:
    """Reads and whole-transaction writes on one database file."""

    def __init__(
        self,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        on_fatal: Callable[[str], None],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._on_fatal = on_fatal
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[object]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls, path: Path, on_fatal: Callable[[str], None]
    ) -> "AsyncGenerator[Database]":
        """The database at ``path``, checked and migrated; ``ConfigError`` if it can't be used."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                writer = await stack.enter_async_context(
                    aiosqlite.connect(path, isolation_level=None)
                )
                await _prepare(writer)
                await _migrate(writer)
                reader = await stack.enter_async_context(
                    aiosqlite.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
                )
                reader.row_factory = sqlite3.Row
                await reader.execute("PRAGMA query_only = 1")
            except sqlite3.Error as error:
                raise ConfigError(f"the database {path} cannot be used: {error}") from error
            database = cls(writer, reader, on_fatal)
            try:
                yield database
            finally:
                await database._finish()

    async def write(self, work: Work[T]) -> T:
        """Run ``work`` in one transaction and return what it returns.

        Either all of it is on disk when this returns, or (on any exception) none of it. Cancelling
        the caller does not cancel the transaction.
        """
        task = asyncio.create_task(self._transaction(work), name="transaction")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def rows(self, statement: str, params: Params) -> list[Row]:
        """All rows of a read, at once: an unfinished cursor would hold the WAL."""
        found = await self._reader.execute_fetchall(statement, dict(params))
        return [dict(row) for row in found]

    async def row(self, statement: str, params: Params) -> Row | None:
        found = await self.rows(statement, params)
        return found[0] if found else None

    async def _transaction(self, work: Work[T]) -> T:
        async with self._lock:
            try:
                await self._writer.execute("BEGIN IMMEDIATE")
                try:
                    result = await work(self._writer)
                    await self._writer.execute("COMMIT")
                except BaseException:
                    if self._writer.in_transaction:
                        await self._writer.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._translated(error) from error
            return result

    def _translated(self, error: sqlite3.Error) -> Exception:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            return NoRoom()
        if not name.startswith(_SURVIVABLE):
            log.critical("database_failed", extra={"sqlite_error": name, "reason": str(error)})
            self._on_fatal(f"the database failed: {name}")
        return error

    async def _finish(self) -> None:
        while self._running:
            await asyncio.wait(set(self._running))
        with contextlib.suppress(sqlite3.Error):
            await self._writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")


async def _prepare(connection: aiosqlite.Connection) -> None:
    connection.row_factory = sqlite3.Row
    await connection.execute("PRAGMA busy_timeout = 5000")
    await _expect(connection, "PRAGMA journal_mode = WAL", "wal")
    await connection.execute("PRAGMA synchronous = FULL")
    await _expect(connection, "PRAGMA synchronous", _SYNCHRONOUS_FULL)
    await connection.execute("PRAGMA trusted_schema = OFF")
    await connection.execute("PRAGMA cell_size_check = ON")
    await connection.execute("PRAGMA journal_size_limit = 4194304")
    await _expect(connection, "PRAGMA quick_check", "ok")


async def _expect(connection: aiosqlite.Connection, statement: str, expected: object) -> None:
    """Run a pragma and look at its answer: SQLite can refuse one without an error."""
    rows = list(await connection.execute_fetchall(statement))
    found: object = rows[0][0] if rows else None
    if found != expected:
        raise sqlite3.DatabaseError(f"{statement} answered {found!r} instead of {expected!r}")


def migrations() -> list[tuple[int, str]]:
    """The numbered schema files, in order: number and script."""
    folder = resources.files("batchd.store") / "schema"
    files = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(int(name[:4]), (folder / name).read_text(encoding="utf-8")) for name in files]


async def _migrate(connection: aiosqlite.Connection) -> None:
    """Bring the schema to this program's version, one transaction a step."""
    rows = list(await connection.execute_fetchall("PRAGMA user_version"))
    current = int(rows[0][0])
    known = await asyncio.to_thread(migrations)
    if current > known[-1][0]:
        raise ConfigError(
            f"the database has schema version {current}, newer than this batchd's "
            f"{known[-1][0]}: run the newer batchd that wrote it"
        )
    for number, script in known:
        if number > current:
            try:
                await connection.executescript(
                    f"BEGIN IMMEDIATE;\n{script}\n"
                    f"PRAGMA application_id = {_APPLICATION_ID};\n"
                    f"PRAGMA user_version = {number};\nCOMMIT;"
                )
            except sqlite3.Error:
                if connection.in_transaction:
                    await connection.execute("ROLLBACK")
                raise
            log.info("schema_migrated", extra={"version": number})
