"""The database as it lies there: read beside a running daemon or after its end, never changed.

Nothing is created, checkpointed or migrated. SQLite's read-only mode alone does not promise that:
on a database that was closed it makes a WAL and its index, which then belong to whoever looked. So
the way in depends on what lies beside the file, and is taken anew when that changes:

    WAL and index  a daemon runs, or was killed     read-only; SQLite reads the WAL
    WAL only       a copy without its index         read-only; the index is made in memory
    neither        closed                           read-only, as a file that does not change

Everything here blocks; one thread at a time. Rows are read a page at a time, for an open cursor
would hold the WAL.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Generator, Iterator
from enum import Enum
from pathlib import Path
from typing import TypeVar

import msgspec

from batchd.errors import BatchdError, ConfigError
from batchd.findings import DamageKind, Finding
from batchd.model import BatchRecord, FileRecord
from batchd.store import batches, files
from batchd.store.copies import uri
from batchd.store.database import Params, Row
from batchd.store.migrations import APPLICATION_ID, check_version, migrations

T = TypeVar("T", FileRecord, BatchRecord)

PAGE = 256
_BUSY_SECONDS = 5.0
_MOST_FAULTS = 20
# It is there and may be read, but what is read makes no sense.
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR", "SQLITE_ERROR")

LIVE_FILES = f"SELECT * FROM file WHERE seq > :after AND {files.LIVE} ORDER BY seq LIMIT :limit"  # noqa: S608 - a constant
FILE = "SELECT * FROM file WHERE id = :id"
BATCHES = "SELECT * FROM batch WHERE seq > :after ORDER BY seq LIMIT :limit"
UNFINISHED = """
SELECT * FROM batch WHERE seq > :after
  AND status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
ORDER BY seq LIMIT :limit
"""


class DatabaseDamaged(BatchdError):
    """The database makes no sense; ``kind`` and the text say how."""

    def __init__(self, kind: DamageKind, reason: str = "") -> None:
        super().__init__(reason)
        self.kind = kind

    @property
    def finding(self) -> Finding:
        return Finding(kind=self.kind, path="batchd.db", reason=str(self))


class BadRow(msgspec.Struct, frozen=True):
    """A row that is no record."""

    id: str
    reason: str


class Way(Enum):
    SHARED = "mode=ro"
    ALONE = "mode=ro&vfs=unix-none"
    CLOSED = "mode=ro&immutable=1"


class ReadOnly:
    """The rows of one database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._way: Way | None = None
        self._connection: sqlite3.Connection | None = None

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> "Generator[ReadOnly]":
        """The database at ``path``, if it is batchd's.

        ``DatabaseDamaged`` if it is not there or makes no sense, ``ConfigError`` if it may not be
        read or has a schema that this program does not know.
        """
        database = cls(path)
        try:
            database._check()
            yield database
        finally:
            database._close()

    def faults(self) -> list[str]:
        """What SQLite itself finds wrong, some twenty at most."""
        faults = [
            str(text)
            for row in self._rows(f"PRAGMA integrity_check({_MOST_FAULTS})", {})
            for text in row.values()
            if text != "ok"
        ]
        broken = self._rows("PRAGMA foreign_key_check", {})[:_MOST_FAULTS]
        return [
            *faults,
            *(f"a row of {row['table']} names one that is not there" for row in broken),
        ]

    def live_files(self, now: int) -> Iterator[list[FileRecord | BadRow]]:
        """Every file that is neither deleted nor expired, a page at a time."""
        return self._pages(LIVE_FILES, {"now": now}, files.record_of)

    def batches(self) -> Iterator[list[BatchRecord | BadRow]]:
        return self._pages(BATCHES, {}, batches.record_of)

    def unfinished(self) -> Iterator[list[BatchRecord | BadRow]]:
        """Every batch that is not terminal."""
        return self._pages(UNFINISHED, {}, batches.record_of)

    def file(self, file_id: str) -> FileRecord | None:
        """A file's row, a tombstone's too; None if there is none that makes sense."""
        return _first(self._records(FILE, {"id": file_id}, files.record_of))

    def is_live(self, file_id: str, now: int) -> bool:
        return bool(self._rows(files.IS_LIVE, {"id": file_id, "now": now}))

    def has_row(self, file_id: str) -> bool:
        """Whether these bytes are named by a row, even by one that has expired and is not swept."""
        return bool(self._rows(files.HAS_LIVE_ROW, {"id": file_id}))

    def owns_file(self, file_id: str) -> bool:
        """Whether an unfinished batch writes to this file."""
        return bool(self._rows(batches.OWNS_FILE, {"file_id": file_id}))

    def batch(self, batch_id: str) -> BatchRecord | None:
        """A batch's row; None if there is none that makes sense."""
        return _first(self._records(batches.FIND, {"id": batch_id}, batches.record_of))

    def _check(self) -> None:
        if not self._path.exists():
            raise DatabaseDamaged(DamageKind.DATABASE_MISSING)
        application = self._number("PRAGMA application_id")
        version = self._number("PRAGMA user_version")
        if not application and not self._rows("SELECT 1 FROM sqlite_schema", {}):
            raise DatabaseDamaged(DamageKind.DATABASE_MISSING)
        if application != APPLICATION_ID:
            raise DatabaseDamaged(DamageKind.DATABASE_FOREIGN)
        newest = migrations()[-1][0]
        check_version(version, newest)
        if version < newest:
            raise ConfigError(
                f"the database has schema version {version}, older than this batchd's {newest}: "
                "run the batchd that wrote it, or start this one, which brings it up to date"
            )

    def _number(self, pragma: str) -> int:
        return msgspec.convert(next(iter(self._rows(pragma, {})[0].values())), int)

    def _pages(
        self, statement: str, params: Params, convert: Callable[[Row], T]
    ) -> Iterator[list[T | BadRow]]:
        after = 0
        while rows := self._rows(statement, {**params, "after": after, "limit": PAGE}):
            after = msgspec.convert(rows[-1]["seq"], int)
            yield [_converted(row, convert) for row in rows]

    def _records(
        self, statement: str, params: Params, convert: Callable[[Row], T]
    ) -> list[T | BadRow]:
        return [_converted(row, convert) for row in self._rows(statement, params)]

    def _rows(self, statement: str, params: Params) -> list[Row]:
        while True:
            try:
                found = self._connected().execute(statement, dict(params)).fetchall()
                return [dict(row) for row in found]
            except sqlite3.Error as error:
                if self._way is not _way_to(self._path):
                    continue  # a daemon was started or has ended in between
                raise self._translated(error) from error

    def _connected(self) -> sqlite3.Connection:
        way = _way_to(self._path)
        if self._connection is None or way is not self._way:
            self._close()
            self._way = way
            self._connection = connect(self._path, way)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _translated(self, error: sqlite3.Error) -> BatchdError:
        if getattr(error, "sqlite_errorname", "").startswith(_DAMAGED):
            return DatabaseDamaged(DamageKind.DATABASE_DAMAGED, str(error))
        return ConfigError(f"the database {self._path} cannot be read: {error}")


def _way_to(path: Path) -> Way:
    wal, index = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    try:
        size = wal.stat().st_size
    except FileNotFoundError:
        return Way.CLOSED
    if index.exists():
        return Way.SHARED
    return Way.ALONE if size else Way.CLOSED


def connect(path: Path, way: Way) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri(path, way.value),
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        uri=True,
    )
    connection.row_factory = sqlite3.Row
    # A damaged text is for the reader of its row to refuse, not for the whole page.
    connection.text_factory = _text
    if way is Way.ALONE:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA query_only = 1")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _converted(row: Row, convert: Callable[[Row], T]) -> T | BadRow:
    try:
        return convert(row)
    except msgspec.MsgspecError as error:
        return BadRow(str(row["id"]), str(error))


def _first(found: list[T | BadRow]) -> T | None:
    return next((record for record in found if not isinstance(record, BadRow)), None)
