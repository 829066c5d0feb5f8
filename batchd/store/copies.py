"""The database looked at, and copied, beside a daemon that writes to it or after its end.

The connection cannot write and never checkpoints: only the daemon's one writer does. A copy is one
read transaction: all that was committed before it, and nothing after. A database that nobody has
open (no WAL lies beside it) is read as a file that does not change: so nothing is made beside it,
and it may lie on a medium that cannot be written.
"""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path

from batchd.disk import make_like
from batchd.errors import ConfigError


def uri(path: Path, options: str) -> str:
    """A database file as SQLite is told of it with options, whatever characters its name has."""
    return f"{path.absolute().as_uri()}?{options}"


@contextlib.contextmanager
def read_only(path: Path) -> Generator[sqlite3.Connection]:
    """A connection for looking."""
    options = "mode=ro&immutable=1" if _closed(path) else "mode=ro"
    connecting = sqlite3.connect(uri(path, options), uri=True, isolation_level=None)
    with contextlib.closing(connecting) as connection:
        for setting in (
            "busy_timeout = 5000",
            "query_only = ON",
            "wal_autocheckpoint = 0",
            "trusted_schema = OFF",
            "cell_size_check = ON",
        ):
            connection.execute(f"PRAGMA {setting}")
        yield connection


def copy(path: Path, target: Path) -> None:
    """Copy the database at ``path`` to a new file like it; on disk but for its name.

    ``ConfigError`` if it makes no sense, ``OSError`` if it cannot be written.
    """
    closed = _closed(path)
    try:
        _copy(path, target)
        if closed and _closed(path) != closed:
            # A daemon was started on it meanwhile. Now it is known to be open.
            target.unlink()
            _copy(path, target)
    except sqlite3.Error as error:
        if is_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise ConfigError(f"the database {path} cannot be copied: {error}") from error
    with target.open("rb") as file:
        make_like(file.fileno(), path.stat())
        os.fsync(file.fileno())


def is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"


def _copy(path: Path, target: Path) -> None:
    with (
        read_only(path) as source,
        contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copying,
    ):
        # A copy that was broken off is thrown away, so it needs no journal; it is synced later.
        copying.execute("PRAGMA journal_mode = OFF")
        copying.execute("PRAGMA synchronous = OFF")
        source.backup(copying)


def _closed(path: Path) -> tuple[int, int, int] | None:
    """What tells a database that nobody has open from itself later on; None for one that is."""
    if path.with_name(f"{path.name}-wal").exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
