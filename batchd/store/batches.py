"""Table ``batch``. Structured columns are JSON text; a status moves only from a known old one."""

from collections.abc import Mapping

import aiosqlite
import msgspec

from batchd.model import BatchRecord, Control, Counts, LineError, Progress, Usage
from batchd.states import BatchStatus
from batchd.store.database import Database, Row

INSERT = """
INSERT INTO batch (id, owner, status, endpoint, model, input_file_id, completion_window, metadata,
    output_expires_after, created_at, expires_at, counts, usage, output_file_id, error_file_id,
    priority, parent_id, source, idempotency_key, request_hash)
VALUES (:id, :owner, :status, :endpoint, :model, :input_file_id, :completion_window, :metadata,
    :output_expires_after, :created_at, :expires_at, :counts, :usage, :output_file_id,
    :error_file_id, :priority, :parent_id, :source, :idempotency_key, :request_hash)
"""
GET = "SELECT * FROM batch WHERE id = :id AND owner = :owner"
FIND = "SELECT * FROM batch WHERE id = :id"
LIST = """
SELECT * FROM batch WHERE owner = :owner AND (:after IS NULL OR seq < :after)
ORDER BY seq DESC LIMIT :limit
"""
SEQ_OF = "SELECT seq FROM batch WHERE id = :id AND owner = :owner"
UNFINISHED = """
SELECT * FROM batch
WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') ORDER BY seq
"""
CONTROLS = """
SELECT id, status, priority, paused_at IS NOT NULL AS is_paused FROM batch
WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') ORDER BY seq
"""
OVERDUE = """
SELECT * FROM batch WHERE status IN ('validating', 'in_progress') AND expires_at <= :now
"""
NEXT_WINDOW_END = """
SELECT MIN(expires_at) AS at FROM batch WHERE status IN ('validating', 'in_progress')
"""
OWNS_FILE = """
SELECT 1 AS found FROM batch
WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
  AND (output_file_id = :file_id OR error_file_id = :file_id)
"""
# The old status is part of the condition, so that two writers cannot both win.
UPDATE = """
UPDATE batch SET status = :status, model = :model, in_progress_at = :in_progress_at,
    finalizing_at = :finalizing_at, completed_at = :completed_at, failed_at = :failed_at,
    expired_at = :expired_at, cancelling_at = :cancelling_at, cancelled_at = :cancelled_at,
    errors = :errors, counts = :counts, usage = :usage, output_file_id = :output_file_id,
    error_file_id = :error_file_id, output_end = :output_end, error_end = :error_end,
    notes = :notes
WHERE id = :id AND status = :old_status
"""
CHECKPOINT = """
UPDATE batch SET counts = :counts, usage = :usage, output_end = :output_end, error_end = :error_end
WHERE id = :id AND status IN ('in_progress', 'finalizing', 'cancelling')
"""
GRANTED = "SELECT * FROM batch WHERE owner = :owner AND idempotency_key = :key"
GRANTED_LATELY = """
SELECT * FROM batch WHERE owner = :owner AND request_hash = :request_hash AND created_at >= :since
ORDER BY seq DESC LIMIT 1
"""
PAUSE = "UPDATE batch SET paused_at = :now WHERE id = :id AND paused_at IS NULL"
RESUME = "UPDATE batch SET paused_at = NULL WHERE id = :id"
SET_PRIORITY = "UPDATE batch SET priority = :priority WHERE id = :id"
# What was said once is not said again.
ADD_NOTE = """
UPDATE batch SET notes = json_insert(notes, '$[#]', :note)
WHERE id = :id AND json_valid(notes)
  AND NOT EXISTS (SELECT 1 FROM json_each(batch.notes) WHERE value = :note)
"""

_JSON: Mapping[str, object] = {
    "metadata": dict[str, str] | None,
    "errors": list[LineError] | None,
    "counts": Counts,
    "usage": Usage,
    "notes": list[str],
}


async def insert(tx: aiosqlite.Connection, record: BatchRecord) -> None:
    await tx.execute(INSERT, _params(record))


async def update(tx: aiosqlite.Connection, old_status: BatchStatus, record: BatchRecord) -> bool:
    """Write ``record`` over its row, and say whether the row was still ``old_status``."""
    cursor = await tx.execute(UPDATE, {**_params(record), "old_status": old_status})
    return cursor.rowcount == 1


async def checkpoint(tx: aiosqlite.Connection, batch_id: str, progress: Progress) -> None:
    """Remember how far an unfinished batch's ledger is known to be good."""
    await tx.execute(
        CHECKPOINT,
        {
            "id": batch_id,
            "counts": _json(progress.counts),
            "usage": _json(progress.usage),
            "output_end": progress.output_end,
            "error_end": progress.error_end,
        },
    )


async def add_note(tx: aiosqlite.Connection, batch_id: str, note: str) -> None:
    """Say something about a batch, once. A row whose notes are damaged is left as it is."""
    await tx.execute(ADD_NOTE, {"id": batch_id, "note": note})


async def current(tx: aiosqlite.Connection, batch_id: str) -> BatchRecord | None:
    """The row as this transaction sees it, whoever owns it."""
    rows = [dict(row) for row in await tx.execute_fetchall(FIND, {"id": batch_id})]
    return record_of(rows[0]) if rows else None


async def known(tx: aiosqlite.Connection, batch_id: str) -> BatchRecord:
    """As ``current``, of a batch that there is: rows stay."""
    record = await current(tx, batch_id)
    assert record is not None  # noqa: S101 - the caller has seen it
    return record


async def get(db: Database, owner: str, batch_id: str) -> BatchRecord | None:
    row = await db.row(GET, {"id": batch_id, "owner": owner})
    return record_of(row) if row else None


async def find(db: Database, batch_id: str) -> BatchRecord | None:
    """The row, whoever owns it: for the engine."""
    row = await db.row(FIND, {"id": batch_id})
    return record_of(row) if row else None


async def page(db: Database, owner: str, *, after: int | None, limit: int) -> list[BatchRecord]:
    """Up to ``limit`` batches, newest first, behind the sequence number ``after``."""
    rows = await db.rows(LIST, {"owner": owner, "after": after, "limit": limit})
    return [record_of(row) for row in rows]


async def seq_of(db: Database, owner: str, batch_id: str) -> int | None:
    row = await db.row(SEQ_OF, {"id": batch_id, "owner": owner})
    return msgspec.convert(row["seq"], int) if row else None


async def unfinished(db: Database) -> list[BatchRecord]:
    """Every batch that is not terminal, oldest first."""
    return [record_of(row) for row in await db.rows(UNFINISHED, {})]


async def controls(db: Database) -> dict[str, Control]:
    """How every batch that is not terminal is to go on, oldest first."""
    return {
        str(row.pop("id")): msgspec.convert(row, Control, strict=False)
        for row in await db.rows(CONTROLS, {})
    }


async def granted(
    tx: aiosqlite.Connection, owner: str, *, key: str | None, request_hash: str, since: int | None
) -> BatchRecord | None:
    """The batch that a wish has become: the one with its key, else an equal one since then."""
    if key is not None:
        statement, params = GRANTED, {"owner": owner, "key": key}
    elif since is not None:
        statement = GRANTED_LATELY
        params = {"owner": owner, "request_hash": request_hash, "since": since}
    else:
        return None
    rows = [dict(row) for row in await tx.execute_fetchall(statement, params)]
    return record_of(rows[0]) if rows else None


async def pause(tx: aiosqlite.Connection, batch_id: str, now: int) -> None:
    """Have nothing more of it sent; one that is paused stays so since then."""
    await tx.execute(PAUSE, {"id": batch_id, "now": now})


async def resume(tx: aiosqlite.Connection, batch_id: str) -> None:
    await tx.execute(RESUME, {"id": batch_id})


async def set_priority(tx: aiosqlite.Connection, batch_id: str, priority: int) -> None:
    await tx.execute(SET_PRIORITY, {"id": batch_id, "priority": priority})


async def overdue(db: Database, now: int) -> list[BatchRecord]:
    return [record_of(row) for row in await db.rows(OVERDUE, {"now": now})]


async def next_window_end(db: Database) -> int | None:
    row = await db.row(NEXT_WINDOW_END, {})
    return msgspec.convert(row["at"], int | None) if row else None


def _params(record: BatchRecord) -> dict[str, object]:
    params = msgspec.structs.asdict(record)
    return {name: _json(value) if name in _JSON else value for name, value in params.items()}


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def record_of(row: Row) -> BatchRecord:
    """``msgspec.MsgspecError`` if the row is no record."""
    for name, kind in _JSON.items():
        text = row[name]
        if text is not None:
            row[name] = msgspec.json.decode(str(text), type=kind)
    return msgspec.convert(row, BatchRecord)
