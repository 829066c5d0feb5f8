"""SQLite under the simulation: batchd's statements on a database in memory, in virtual time.

``Store`` is one database for all histories of a process. ``Connection`` stands in for aiosqlite's:
the same calls, answered by the loop instead of a thread, after a while in which others run. What
was committed stays after any crash (batchd's own tests hold WAL and ``synchronous=FULL`` to that);
an open transaction is lost; a crash around a commit leaves either.

Under WAL a reader sees nothing of an open transaction. Here it waits for the end of it instead, and
gets its rows late: so it too may act on rows that are no longer true.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Generator, Iterable, Mapping
from typing import NamedTuple, Protocol

from batchd.store.migrations import migrations
from tests.simulation.loop import hop

Params = Mapping[str, object]
Statement = tuple[str, Params]

# Where others get a turn in a transaction, besides its commit; more turns would show them nothing.
_HOPS = frozenset({"BEGIN IMMEDIATE", "ROLLBACK"})
_NOT_YET = 0.0005  # seconds between two looks at an open transaction


class Store:
    """The database, with batchd's schema."""

    def __init__(self) -> None:
        self.raw = sqlite3.connect(":memory:", isolation_level=None)
        for _, script in migrations():
            self.raw.executescript(script)
        self.raw.row_factory = sqlite3.Row

    def empty(self) -> None:
        """As if just migrated, for the next history."""
        self.lose_transaction()
        self.raw.execute("BEGIN")
        for table in ("file", "batch", "inbox_claim", "sqlite_sequence"):
            self.raw.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
        self.raw.execute("COMMIT")

    def lose_transaction(self) -> None:
        """What a crash does."""
        if self.raw.in_transaction:
            self.raw.execute("ROLLBACK")

    def close(self) -> None:
        self.raw.close()


@contextlib.contextmanager
def opened_store() -> Generator[Store]:
    store = Store()
    try:
        yield store
    finally:
        store.close()


class CommitError(NamedTuple):
    """A commit that fails. ``is_ghost``: it is there all the same."""

    name: str
    is_ghost: bool = False


class Watcher(Protocol):
    """Who decides how long statements take and what goes wrong with them."""

    @property
    def is_dead(self) -> bool: ...
    def latency(self) -> float: ...
    def commit_error(self) -> CommitError | None: ...
    def committing(self) -> None: ...
    def committed(self, statements: list[Statement]) -> None: ...


class Connection:
    """What ``Database`` sees as an aiosqlite connection: the one that writes."""

    def __init__(self, raw: sqlite3.Connection, watcher: Watcher) -> None:
        self._raw = raw
        self._watcher = watcher
        self._statements: list[Statement] = []

    @property
    def in_transaction(self) -> bool:
        return self._raw.in_transaction and not self._watcher.is_dead

    async def execute(self, statement: str, params: Params | None = None) -> sqlite3.Cursor:
        if statement in _HOPS:
            await self._wait()
            self._statements = []
        elif statement == "COMMIT":
            await self._wait()
            self._commit()
            await self._wait()
            return self._raw.cursor()
        else:
            self._statements.append((statement, params or {}))
        return self._raw.execute(statement, params or {})

    async def execute_fetchall(
        self, statement: str, params: Params | None = None
    ) -> Iterable[sqlite3.Row]:
        if statement.startswith("PRAGMA wal_checkpoint"):
            return []  # there is no WAL: nothing can be made of it
        return self._raw.execute(statement, params or {}).fetchall()

    def _commit(self) -> None:
        self._watcher.committing()
        error = self._watcher.commit_error()
        if error is None or error.is_ghost:
            self._raw.execute("COMMIT")
            self._watcher.committed(self._statements)
        elif error.name == "SQLITE_FULL":
            self._raw.execute("ROLLBACK")  # as SQLite does by itself
        self._statements = []
        if error is not None:
            raise _error(error.name)

    async def _wait(self) -> None:
        """Let others run: each statement is a hop to a thread and back."""
        await hop(self._watcher.latency())
        if self._watcher.is_dead:
            raise asyncio.CancelledError


class Reader(Connection):
    """The connection that reads."""

    async def execute_fetchall(
        self, statement: str, params: Params | None = None
    ) -> Iterable[sqlite3.Row]:
        while self.in_transaction:
            await hop(_NOT_YET)
        rows = self._raw.execute(statement, params or {}).fetchall()
        await self._wait()
        return rows


def _error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(f"simulated {name}")
    error.sqlite_errorname = name
    return error
