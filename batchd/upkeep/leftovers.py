"""What lies in the storage directory beside what rows name: kept damage, and bytes of nobody."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from batchd.findings import DamageKind, Finding, Note, NoteKind
from batchd.spool import Spool
from batchd.store.readonly import ReadOnly
from batchd.upkeep.steps import Step

_DAMAGED = ".damaged"
_NAMES = 256  # between two steps


class _Name(msgspec.Struct, frozen=True):
    path: Path
    changed_at: float
    size: int


def look(spool: Spool, database: ReadOnly, *, before: float) -> Iterator[Step]:
    """Every name under the directory; one that nobody owns is told if last changed ``before``."""
    if spool.is_distrusted():
        yield Step(findings=(Finding(kind=DamageKind.SYNC_FAILED, path="sync-failed"),))
    for folder in spool.folders:
        for names in _pages(folder):
            findings: list[Finding] = []
            notes: list[Note] = []
            for name in names:
                path = f"{folder.name}/{name.path.name}"
                if name.path.name.endswith(_DAMAGED):
                    findings.append(_kept_aside(path))
                elif name.changed_at < before and not _is_owned(spool, database, name.path):
                    notes.append(Note(kind=NoteKind.ORPHAN, path=path, bytes=name.size))
            yield Step(findings=tuple(findings), notes=tuple(notes))


def _pages(folder: Path) -> Iterator[list[_Name]]:
    page: list[_Name] = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                page.append(_Name(Path(entry.path), status.st_mtime, status.st_size))
                if len(page) == _NAMES:
                    yield page
                    page = []
    except FileNotFoundError:
        return  # the folder itself; what should be in it is found by its rows
    yield page


def _kept_aside(path: str) -> Finding:
    file_id = path.partition("/")[2].removesuffix(_DAMAGED)
    return Finding(kind=DamageKind.KEPT_ASIDE, path=path, file=file_id)


def _is_owned(spool: Spool, database: ReadOnly, path: Path) -> bool:
    incoming, files, _ = spool.folders
    if path.parent == incoming:
        return False
    if path.parent == files:
        # In this order, because a batch may end in between: its ledger then has a row already.
        return database.owns_file(path.name) or database.has_row(path.name)
    record = database.batch(path.name)
    return record is not None and not record.is_terminal
