"""Table ``file``. Statements take the owner from the first day; deleted rows are tombstones."""

from collections.abc import Sequence

import aiosqlite
import msgspec

from batchd.model import FileRecord
from batchd.store.database import Database, Row

LIVE = "deleted_at IS NULL AND (expires_at IS NULL OR expires_at > :now)"

INSERT = """
INSERT INTO file (id, owner, filename, purpose, bytes, sha256, created_at, expires_at)
VALUES (:id, :owner, :filename, :purpose, :bytes, :sha256, :created_at, :expires_at)
"""
GET = f"SELECT * FROM file WHERE id = :id AND owner = :owner AND {LIVE}"  # noqa: S608 - a constant
# Newest first; seq breaks ties and never goes back.
LIST_DESC = f"""
SELECT * FROM file
WHERE owner = :owner AND (:purpose IS NULL OR purpose = :purpose)
  AND (:after IS NULL OR seq < :after) AND {LIVE}
ORDER BY seq DESC LIMIT :limit
"""  # noqa: S608 - a constant
LIST_ASC = f"""
SELECT * FROM file
WHERE owner = :owner AND (:purpose IS NULL OR purpose = :purpose)
  AND (:after IS NULL OR seq > :after) AND {LIVE}
ORDER BY seq ASC LIMIT :limit
"""  # noqa: S608 - a constant
# Tombstones count: a cursor outlives its object.
SEQ_OF = "SELECT seq FROM file WHERE id = :id AND owner = :owner"
DELETE = f"UPDATE file SET deleted_at = :now WHERE id = :id AND owner = :owner AND {LIVE}"  # noqa: S608 - a constant
# The results of a dropped file stay until they are in the outbox, or have long expired.
EXPIRED = """
SELECT id FROM file
WHERE deleted_at IS NULL AND expires_at IS NOT NULL AND expires_at <= :now
  AND (expires_at <= :long_ago OR id NOT IN (
    SELECT result.value FROM inbox_claim JOIN batch ON batch.id = inbox_claim.batch_id,
        json_each(json_array(batch.output_file_id, batch.error_file_id)) AS result
    WHERE inbox_claim.delivered_at IS NULL AND result.value IS NOT NULL))
LIMIT :limit
"""
BURY = "UPDATE file SET deleted_at = :now WHERE id = :id AND deleted_at IS NULL"
HAS_LIVE_ROW = "SELECT 1 AS found FROM file WHERE id = :id AND deleted_at IS NULL"
# In one statement, because a batch may end in between: its ledger then has a row.
OWNED = """
SELECT value AS id FROM json_each(:ids)
WHERE EXISTS (SELECT 1 FROM file WHERE file.id = value AND deleted_at IS NULL)
  OR value IN (
    SELECT output_file_id FROM batch
    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
      AND output_file_id IS NOT NULL
    UNION ALL SELECT error_file_id FROM batch
    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
      AND error_file_id IS NOT NULL)
"""
IS_LIVE = f"SELECT 1 FROM file WHERE id = :id AND {LIVE}"  # noqa: S608 - a constant


async def insert(tx: aiosqlite.Connection, record: FileRecord) -> None:
    await tx.execute(INSERT, msgspec.structs.asdict(record))


async def delete(tx: aiosqlite.Connection, owner: str, file_id: str, now: int) -> bool:
    """Turn a live row into a tombstone, and say whether there was one."""
    cursor = await tx.execute(DELETE, {"id": file_id, "owner": owner, "now": now})
    return cursor.rowcount == 1


async def bury(tx: aiosqlite.Connection, file_id: str, now: int) -> bool:
    """As ``delete``, for a file that has expired: whoever owns it, live or not."""
    cursor = await tx.execute(BURY, {"id": file_id, "now": now})
    return cursor.rowcount == 1


async def is_live(tx: aiosqlite.Connection, file_id: str, now: int) -> bool:
    rows = await tx.execute_fetchall(IS_LIVE, {"id": file_id, "now": now})
    return bool(list(rows))


async def get(db: Database, owner: str, file_id: str, now: int) -> FileRecord | None:
    row = await db.row(GET, {"id": file_id, "owner": owner, "now": now})
    return record_of(row) if row else None


async def page(  # noqa: PLR0913 - the parameters of a list
    db: Database,
    owner: str,
    *,
    purpose: str | None,
    after: int | None,
    limit: int,
    ascending: bool,
    now: int,
) -> list[FileRecord]:
    """Up to ``limit`` live files behind the sequence number ``after``."""
    rows = await db.rows(
        LIST_ASC if ascending else LIST_DESC,
        {"owner": owner, "purpose": purpose, "after": after, "limit": limit, "now": now},
    )
    return [record_of(row) for row in rows]


async def seq_of(db: Database, owner: str, file_id: str) -> int | None:
    """Where a file stands or stood in lists; None if there never was one."""
    row = await db.row(SEQ_OF, {"id": file_id, "owner": owner})
    return msgspec.convert(row["seq"], int) if row else None


async def expired(db: Database, now: int, limit: int, *, patience: int = 0) -> list[str]:
    """What is to be removed; results that wait for an outbox so many seconds later."""
    rows = await db.rows(EXPIRED, {"now": now, "long_ago": now - patience, "limit": limit})
    return [str(row["id"]) for row in rows]


async def owned(db: Database, file_ids: Sequence[str]) -> set[str]:
    """Those of these ids that a live row or the ledger of an unfinished batch has."""
    rows = await db.rows(OWNED, {"ids": msgspec.json.encode(file_ids).decode()})
    return {str(row["id"]) for row in rows}


def record_of(row: Row) -> FileRecord:
    """``msgspec.ValidationError`` if the row is no record."""
    return msgspec.convert(row, FileRecord)
