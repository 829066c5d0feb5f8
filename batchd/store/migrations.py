"""The versions of the schema, and the way from an older one to this program's.

A version is a numbered script. Each is applied in one transaction together with its number, so a
crash leaves one version or the next, never something in between. Before the first step a copy of
the database is put beside it as ``batchd.db.before-N``, N the number of that step: made under
another name and renamed once it is on disk. After a crash it is made anew from what is there.
"""

import asyncio
import logging
import sqlite3
from importlib import resources
from pathlib import Path

import aiosqlite

from batchd.disk import Disk, is_full
from batchd.errors import ConfigError, NoRoom
from batchd.store import copies

log = logging.getLogger(__name__)

APPLICATION_ID = 0x62617464  # "batd"


def migrations() -> list[tuple[int, str]]:
    """The numbered schema files, in order: number and script."""
    folder = resources.files("batchd.store") / "schema"
    files = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [(int(name[:4]), (folder / name).read_text(encoding="utf-8")) for name in files]


def check_version(version: int, newest: int) -> None:
    """``ConfigError`` if a newer program has written this database."""
    if version > newest:
        raise ConfigError(
            f"the database has schema version {version}, newer than this batchd's {newest}: run "
            "the newer batchd that wrote it"
        )


async def migrate(connection: aiosqlite.Connection, path: Path) -> None:
    """Bring the schema of the database at ``path`` to this program's version."""
    rows = list(await connection.execute_fetchall("PRAGMA user_version"))
    version = int(rows[0][0])
    known = await asyncio.to_thread(migrations)
    check_version(version, known[-1][0])
    steps = [(number, script) for number, script in known if number > version]
    kept: Path | None = None
    if version and steps:
        kept = path.with_name(f"{path.name}.before-{version + 1}")
        await asyncio.to_thread(_keep, path, kept)
        log.info("database_copied", extra={"version": version, "copy": str(kept)})
    for number, script in steps:
        try:
            await _apply(connection, number, script)
        except sqlite3.Error as error:
            if kept is None or copies.is_full(error):
                raise
            raise ConfigError(
                f"the database {path} could not be brought to schema version {number}: {error}. It "
                f"still has version {number - 1}, and a copy from before is in {kept}: run the "
                "batchd that wrote it"
            ) from error
        log.info("schema_migrated", extra={"version": number})


async def _apply(connection: aiosqlite.Connection, number: int, script: str) -> None:
    try:
        await connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\n"
            f"PRAGMA application_id = {APPLICATION_ID};\n"
            f"PRAGMA user_version = {number};\nCOMMIT;"
        )
    except sqlite3.Error:
        await connection.rollback()
        raise


def _keep(path: Path, kept: Path) -> None:
    """Put a durable copy beside the database. Blocks."""
    disk = Disk()
    fresh = kept.with_name(f"{kept.name}.new")
    disk.remove(fresh)
    try:
        copies.copy(path, fresh)
        disk.rename(fresh, kept)
    except OSError as error:
        disk.remove(fresh)
        if is_full(error):
            size = path.stat().st_size
            raise NoRoom(
                f"there is no room for a copy of the database before it is upgraded: free {size} "
                f"bytes where {path} is, and start batchd again; nothing was changed"
            ) from error
        raise
