"""What a dead batchd has left on disk, read by a stranger.

The database is read from a copy, so that the next start finds the original as it was left.
"""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

Row = dict[str, Any]

UNFINISHED = frozenset({"validating", "in_progress", "finalizing", "cancelling"})


class Remains:
    """One look at a storage directory that no process uses."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self.batches: dict[str, Row] = {}
        self.files: dict[str, Row] = {}  # those not deleted
        with tempfile.TemporaryDirectory() as copies:
            for path in state.glob("batchd.db*"):
                shutil.copy(path, copies)
            with closing(sqlite3.connect(Path(copies) / "batchd.db")) as database:
                database.row_factory = sqlite3.Row
                if database.execute("PRAGMA user_version").fetchone()[0]:
                    self.batches = _rows(database, "SELECT * FROM batch")
                    self.files = _rows(database, "SELECT * FROM file WHERE deleted_at IS NULL")

    @property
    def orphans(self) -> set[str]:
        """Names that no live row and no unfinished batch knows, but for what was set aside."""
        unfinished = [row for row in self.batches.values() if row["status"] in UNFINISHED]
        ledgers = {row[key] for row in unfinished for key in ("output_file_id", "error_file_id")}
        owned = {*self.files, *ledgers, *(str(row["id"]) for row in unfinished)}
        return names(self._state) - owned

    @property
    def missing(self) -> set[str]:
        """What a live row or an unfinished batch names, and is not there as it should be."""
        running = [
            str(row["id"])
            for row in self.batches.values()
            if row["status"] in UNFINISHED and row["in_progress_at"] is not None
        ]
        holds = {f"batches/{name}/{part}" for name in running for part in ("input", "index")}
        files = {name for name, row in self.files.items() if self._size(name) != row["bytes"]}
        return files | {name for name in holds if not (self._state / name).exists()}

    def recorded(self, batch_id: str | None = None) -> set[str]:
        """The custom_ids of all whole result lines, or of those of one batch."""
        found: set[str] = set()
        for row in self.batches.values() if batch_id is None else [self.batches[batch_id]]:
            for key in ("output_file_id", "error_file_id"):
                path = self._state / "files" / str(row[key])
                if path.exists():
                    found.update(_custom_ids(path.read_bytes().split(b"\n")[:-1]))
        return found

    def _size(self, file_id: str) -> int | None:
        path = self._state / "files" / file_id
        return path.stat().st_size if path.exists() else None


def names(state: Path) -> set[str]:
    """Every name of an upload, a file and a hold, but for what was set aside as damaged."""
    folders = (state / name for name in ("incoming", "files", "batches"))
    found = {path.name for folder in folders if folder.exists() for path in folder.iterdir()}
    return {name for name in found if not name.endswith(".damaged")}


def _custom_ids(lines: Iterable[bytes]) -> Iterable[str]:
    for line in lines:
        try:
            yield str(cast("Mapping[str, object]", json.loads(line))["custom_id"])
        except ValueError:
            continue


def _rows(database: sqlite3.Connection, statement: str) -> dict[str, Row]:
    rows = [dict(row) for row in database.execute(statement)]
    return {str(row["id"]): row for row in rows}
