"""What may be found damaged in a storage directory, and how it is said. Pure.

A finding names its place (a path under the storage directory, a line, an offset) and never what
stands there: prompts and answers are private.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from batchd import ids
from batchd.model import FileRecord, Purpose


class DamageKind(StrEnum):
    """What is wrong. Logged and counted as is."""

    DATABASE_MISSING = "database_missing"
    DATABASE_FOREIGN = "database_foreign"
    DATABASE_DAMAGED = "database_damaged"
    ROW_DAMAGED = "row_damaged"
    FILE_MISSING = "file_missing"
    FILE_SIZE = "file_size"
    FILE_CHANGED = "file_changed"
    RESULT_LINES = "result_lines"
    RESULT_COUNTS = "result_counts"
    INPUT_MISSING = "input_missing"
    INPUT_SIZE = "input_size"
    INPUT_CHANGED = "input_changed"
    INDEX_MISSING = "index_missing"
    INDEX_SIZE = "index_size"
    INDEX_DAMAGED = "index_damaged"
    LEDGER_MISSING = "ledger_missing"
    LEDGER_SHORT = "ledger_short"
    LEDGER_DAMAGED = "ledger_damaged"
    UNREADABLE = "unreadable"
    KEPT_ASIDE = "kept_aside"
    SYNC_FAILED = "sync_failed"


class NoteKind(StrEnum):
    """What is worth knowing and no damage."""

    TORN_TAIL = "torn_tail"
    ORPHAN = "orphan"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is damaged. ``line`` counts from 1, ``offset`` and ``bytes`` are bytes.

    ``path`` is relative to the storage directory. ``count`` says how many lines or entries of it
    are bad; ``line`` and ``offset`` are those of the first.
    """

    kind: DamageKind
    path: str
    file: str | None = None
    batch: str | None = None
    line: int | None = None
    offset: int | None = None
    count: int | None = None
    expected: int | None = None
    found: int | None = None
    reason: str | None = None

    @property
    def what(self) -> str:
        """What is wrong, without its place."""
        facts = msgspec.structs.asdict(self)
        return _WORDS[self.kind][0].format_map(facts)

    @property
    def advice(self) -> str:
        """What batchd will do about it, or what an operator can do."""
        return _WORDS[self.kind][1]

    def as_json(self) -> dict[str, object]:
        """Every fact, known or not, and the words."""
        facts = {**msgspec.structs.asdict(self), "kind": self.kind.value}
        return {**facts, "what": self.what, "advice": self.advice}

    @property
    def sentence(self) -> str:
        """All of it on one line."""
        batch = "" if self.batch is None or self.batch in self.path else f" (of {self.batch})"
        return f"{self.path}{batch} {self.what}: {self.advice}"


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something that lies there and is no damage."""

    kind: NoteKind
    path: str
    bytes: int | None = None


_RESTORE = "restore the storage directory from a backup"
_RESTORE_FILE = "restore the file from a backup, or delete it (batchd files delete)"
_SUBMIT_AGAIN = (
    "lines that cannot be read any more end as server_error; cancel the batch and submit its input "
    "again if that is too many"
)
_RUN_AGAIN = "at its next start batchd keeps every line that verifies and runs the others again"

# Of each kind: what is wrong, and what follows.
_WORDS: Mapping[DamageKind, tuple[str, str]] = {
    DamageKind.DATABASE_MISSING: (
        "is missing or empty, though there are files",
        f"batchd does not start without it; {_RESTORE}",
    ),
    DamageKind.DATABASE_FOREIGN: (
        "is not a database of batchd",
        f"batchd does not start on it; {_RESTORE}",
    ),
    DamageKind.DATABASE_DAMAGED: ("is damaged ({reason})", f"stop batchd and {_RESTORE}"),
    DamageKind.ROW_DAMAGED: ("has a row that makes no sense ({reason})", _RESTORE),
    DamageKind.FILE_MISSING: ("is missing; it had {expected} bytes", _RESTORE_FILE),
    DamageKind.FILE_SIZE: ("has {found} bytes instead of {expected}", _RESTORE_FILE),
    DamageKind.FILE_CHANGED: ("is not what was uploaded: its SHA-256 differs", _RESTORE_FILE),
    DamageKind.RESULT_LINES: (
        "has bad lines: {count}, the first of them line {line} at byte {offset}",
        "every other line verifies; restore the file from a backup, or submit its input again",
    ),
    DamageKind.RESULT_COUNTS: (
        "has {found} good lines instead of {expected}",
        "restore the file from a backup, or submit its input again",
    ),
    DamageKind.INPUT_MISSING: ("is missing", _SUBMIT_AGAIN),
    DamageKind.INPUT_SIZE: ("has {found} bytes instead of {expected}", _SUBMIT_AGAIN),
    DamageKind.INPUT_CHANGED: ("is not what was uploaded", _SUBMIT_AGAIN),
    DamageKind.INDEX_MISSING: ("is missing", _SUBMIT_AGAIN),
    DamageKind.INDEX_SIZE: ("has {found} bytes instead of {expected}", _SUBMIT_AGAIN),
    DamageKind.INDEX_DAMAGED: (
        "does not fit its input: {count} bad entries, the first is that of request {line}",
        _SUBMIT_AGAIN,
    ),
    DamageKind.LEDGER_MISSING: ("is missing; {expected} bytes of it were known", _RUN_AGAIN),
    DamageKind.LEDGER_SHORT: (
        "has only {found} of the {expected} bytes that were known",
        _RUN_AGAIN,
    ),
    DamageKind.LEDGER_DAMAGED: (
        "has bad lines: {count}, the first of them line {line} at byte {offset}",
        _RUN_AGAIN,
    ),
    DamageKind.UNREADABLE: ("cannot be read ({reason})", "look at the disk and the kernel's log"),
    DamageKind.KEPT_ASIDE: (
        "is a damaged result file that a start has kept",
        "what verified was copied from it; remove it when you have looked at it",
    ),
    DamageKind.SYNC_FAILED: (
        "says that the disk has failed to write",
        "the next start copies what verifies instead of trusting it; look at the disk",
    ),
}


def wrong_size(record: FileRecord, found: int | None) -> Finding | None:
    """What is wrong if a live file has ``found`` bytes (None: there is no such name)."""
    if found == record.bytes:
        return None
    return Finding(
        kind=DamageKind.FILE_MISSING if found is None else DamageKind.FILE_SIZE,
        path=f"files/{record.id}",
        file=record.id,
        batch=batch_of(record),
        expected=record.bytes,
        found=found,
    )


def batch_of(record: FileRecord) -> str | None:
    """The batch that made a result file, by the name that ``closing`` gave it."""
    if record.purpose is not Purpose.BATCH_OUTPUT:
        return None
    batch_id = record.filename.rpartition("_")[0]
    return batch_id if ids.is_batch_id(batch_id) else None
