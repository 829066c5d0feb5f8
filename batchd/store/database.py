"""The one SQLite database: opening, transactions.

WAL with synchronous=FULL, so a committed transaction survives power loss. One connection writes and
checkpoints (two would meet SQLite's WAL-reset bug, fixed only in 3.51.3); one more, read-only,
reads. A write is a whole transaction per call, in a task of its own: a caller who is cancelled
neither leaves it open nor cuts it short.

A failed commit means *unknown*, not *rolled back*: after an I/O error the process must end and
start again, so ``on_fatal`` is told. Only a full disk is survivable: SQLite has rolled back, and
``make_room`` is asked whether it can free some for a second attempt.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import aiosqlite

from batchd.disk import NETWORK, PASSING, filesystem
from batchd.errors import ConfigError, NoRoom, SpoolError
from batchd.store.copies import uri
from batchd.store.migrations import APPLICATION_ID, migrate

log = logging.getLogger(__name__)

T = TypeVar("T")
Params = Mapping[str, object]
Row = dict[str, object]
Work = Callable[[aiosqlite.Connection], Awaitable[T]]
MakeRoom = Callable[[], Awaitable[bool]]

SQLITE_VERSION = sqlite3.sqlite_version
_SYNCHRONOUS_FULL = 2
_SURVIVABLE = ("SQLITE_FULL", "SQLITE_CONSTRAINT")
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
# At the opening only. Later on the second one may come after the commit has reached the disk.
_NO_ROOM_TO_OPEN = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")


async def _no_more_room() -> bool:
    return False


class Database:
    """Reads and whole-transaction writes on one database file."""

    def __init__(
        self,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        on_fatal: Callable[[str], None],
        make_room: MakeRoom,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._on_fatal = on_fatal
        self._make_room = make_room
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[object]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls, path: Path, on_fatal: Callable[[str], None], make_room: MakeRoom = _no_more_room
    ) -> "AsyncGenerator[Database]":
        """The database at ``path``, checked and migrated.

        ``ConfigError`` if it can't be used, ``NoRoom`` if it can't for want of room, ``SpoolError``
        if the disk fails.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                await asyncio.to_thread(_refuse_network, path.parent)
                writer = await stack.enter_async_context(
                    aiosqlite.connect(path, isolation_level=None)
                )
                await _prepare(writer)
                await migrate(writer, path)
                reader = await stack.enter_async_context(
                    aiosqlite.connect(uri(path, "mode=ro"), uri=True, isolation_level=None)
                )
                reader.row_factory = sqlite3.Row
                await reader.execute("PRAGMA query_only = 1")
                await reader.execute("PRAGMA wal_autocheckpoint = 0")
            except (sqlite3.Error, OSError) as error:
                name = getattr(error, "sqlite_errorname", "")
                if name in _NO_ROOM_TO_OPEN:
                    raise NoRoom from error
                if name.startswith("SQLITE_IOERR") or getattr(error, "errno", None) in PASSING:
                    # A disk may come to itself again: systemd is to try once more.
                    text = f"the database {path} cannot be read or written: {error}"
                    raise SpoolError(text) from error
                raise ConfigError(_refusal(path, name, error)) from error
            database = cls(writer, reader, on_fatal, make_room)
            try:
                yield database
            finally:
                await database._finish()

    async def write(self, work: Work[T]) -> T:
        """Run ``work`` in one transaction and return what it returns.

        Either all of it is on disk when this returns, or (on any exception) none of it. Cancelling
        the caller does not cancel the transaction. ``work`` is run a second time if there was no
        room the first time and some could be made. ``NoRoom`` if there was none for it.
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
                return await self._attempt(work)
            except NoRoom:
                made = await self._make_room()
                if not await self._rewind() and not made:
                    raise
            return await self._attempt(work)

    async def _rewind(self) -> bool:
        """Empty the WAL into the database, so that it is written from its beginning again."""
        rows: Iterable[sqlite3.Row] = ()
        with contextlib.suppress(sqlite3.Error):  # no harm: the WAL still has it all
            rows = await self._writer.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")
        return any(pages == emptied for _, pages, emptied in rows)

    async def _attempt(self, work: Work[T]) -> T:
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


def _refusal(path: Path, name: str, error: Exception) -> str:
    if not name.startswith(_DAMAGED):
        return f"the database {path} cannot be used: {error}"
    return (
        f"the database {path} is damaged ({error}): restore the storage directory from a backup. "
        "batchd makes no new database beside existing files"
    )


async def _prepare(connection: aiosqlite.Connection) -> None:
    connection.row_factory = sqlite3.Row
    await connection.execute("PRAGMA busy_timeout = 5000")
    await _refuse_foreign(connection)
    await _expect(connection, "PRAGMA journal_mode = WAL", "wal")
    await connection.execute("PRAGMA synchronous = FULL")
    await _expect(connection, "PRAGMA synchronous", _SYNCHRONOUS_FULL)
    await connection.execute("PRAGMA trusted_schema = OFF")
    await connection.execute("PRAGMA cell_size_check = ON")
    await connection.execute("PRAGMA journal_size_limit = 4194304")
    for (fault,) in await connection.execute_fetchall("PRAGMA quick_check(1)"):
        if fault != "ok":
            damage = sqlite3.DatabaseError(str(fault))
            damage.sqlite_errorname = "SQLITE_CORRUPT"
            raise damage


async def _refuse_foreign(connection: aiosqlite.Connection) -> None:
    """Nothing is made in a database that is another program's, and nothing changed about it."""
    rows = list(await connection.execute_fetchall("PRAGMA application_id"))
    is_ours = rows[0][0] == APPLICATION_ID
    if not is_ours and list(await connection.execute_fetchall("SELECT 1 FROM sqlite_schema")):
        raise ConfigError(
            "batchd.db is the database of another program: restore the storage directory from a "
            "backup, or choose another storage.directory"
        )


async def _expect(connection: aiosqlite.Connection, statement: str, expected: object) -> None:
    """Run a pragma and look at its answer: SQLite can refuse one without an error."""
    rows = list(await connection.execute_fetchall(statement))
    found: object = rows[0][0] if rows else None
    if found != expected:
        raise sqlite3.DatabaseError(f"{statement} answered {found!r} instead of {expected!r}")


def _refuse_network(folder: Path) -> None:
    """A WAL is shared memory: it takes one machine's own filesystem. Blocks."""
    kind = filesystem(folder)
    if kind in NETWORK:
        raise ConfigError(
            f"the database cannot be in {folder}: that is on the network ({kind}), where SQLite's "
            "WAL does not work; put storage.directory on a disk of this machine"
        )
