"""What a backup reads: which bytes the database names, and which of them still grow.

Only columns of the first schema are looked at, so that the database of an older batchd can be
backed up before an upgrade.
"""

import contextlib
import sqlite3
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import msgspec

from batchd.errors import ConfigError
from batchd.store.copies import read_only
from batchd.store.migrations import APPLICATION_ID, check_version, migrations

LIVE_FILES = "SELECT id FROM file WHERE deleted_at IS NULL ORDER BY seq"
UNFINISHED = """
SELECT id, in_progress_at, output_file_id, output_end, error_file_id, error_end FROM batch
WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') ORDER BY seq
"""


class Unfinished(msgspec.Struct, frozen=True):
    """A batch that is not terminal.

    Once it ``was_validated`` it has an input hold and an index. ``ledgers`` are the ids of its
    two result files, each with the size that is known to be good.
    """

    id: str
    was_validated: bool
    ledgers: Mapping[str, int]


class Snapshot:
    """One database, looked at."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextlib.contextmanager
    def of(cls, path: Path) -> "Generator[Snapshot]":
        """``ConfigError`` if ``path`` is no database of batchd's, or a newer batchd's."""
        try:
            with read_only(path) as connection:
                _check(connection, path)
                yield cls(connection)
        except sqlite3.Error as error:
            raise ConfigError(f"the database {path} cannot be read: {error}") from error

    def is_whole(self) -> bool:
        """Whether SQLite finds no fault in the file."""
        try:
            found = self._connection.execute("PRAGMA quick_check").fetchone()
        except sqlite3.DatabaseError:
            return False
        return found == ("ok",)

    def live_files(self) -> Iterator[str]:
        """The ids of all files that have neither been deleted nor removed as expired."""
        for row in self._connection.execute(LIVE_FILES):
            yield str(row[0])

    def unfinished(self) -> list[Unfinished]:
        """Every batch that is not terminal, oldest first."""
        return [
            Unfinished(
                str(row[0]),
                was_validated=row[1] is not None,
                ledgers={str(row[2]): int(row[3]), str(row[4]): int(row[5])},
            )
            for row in self._connection.execute(UNFINISHED)
        ]


def _check(connection: sqlite3.Connection, path: Path) -> None:
    def pragma(name: str) -> object:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    version = pragma("user_version")
    if pragma("application_id") != APPLICATION_ID or not isinstance(version, int) or not version:
        raise ConfigError(f"{path} is not a database of batchd")
    check_version(version, migrations()[-1][0])
