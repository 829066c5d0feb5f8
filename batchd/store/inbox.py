"""Table ``inbox_claim``: which dropped file became which batch, until its results are delivered.

A claim is open until the original has left the inbox; while it is open, no second one of the same
identity can be made. A stem belongs to one undelivered claim.
"""

import aiosqlite
import msgspec

from batchd.model import InboxClaim
from batchd.store.database import Database

INSERT = """
INSERT INTO inbox_claim (device, inode, mtime_ns, size, uid, name, stem, batch_id)
VALUES (:device, :inode, :mtime_ns, :size, :uid, :name, :stem, :batch_id)
"""
OPEN = "SELECT * FROM inbox_claim WHERE left_at IS NULL ORDER BY seq"
STEMS = "SELECT stem FROM inbox_claim WHERE delivered_at IS NULL"
DELIVERABLE = """
SELECT inbox_claim.* FROM inbox_claim JOIN batch ON batch.id = inbox_claim.batch_id
WHERE inbox_claim.delivered_at IS NULL
  AND batch.status NOT IN ('validating', 'in_progress', 'finalizing', 'cancelling')
ORDER BY inbox_claim.seq
"""
LEFT = "UPDATE inbox_claim SET left_at = :now WHERE batch_id = :batch_id AND left_at IS NULL"
DELIVERED = """
UPDATE inbox_claim SET delivered_at = :now WHERE batch_id = :batch_id AND delivered_at IS NULL
"""


async def insert(tx: aiosqlite.Connection, claim: InboxClaim) -> None:
    await tx.execute(INSERT, msgspec.structs.asdict(claim))


async def left(tx: aiosqlite.Connection, batch_id: str, now: int) -> bool:
    """The original is no longer in the inbox; whether that was news."""
    cursor = await tx.execute(LEFT, {"batch_id": batch_id, "now": now})
    return cursor.rowcount == 1


async def delivered(tx: aiosqlite.Connection, batch_id: str, now: int) -> bool:
    """The results are in the outbox; whether that was news."""
    cursor = await tx.execute(DELIVERED, {"batch_id": batch_id, "now": now})
    return cursor.rowcount == 1


async def open_claims(db: Database) -> list[InboxClaim]:
    """The claims whose original may still be in the inbox."""
    return [msgspec.convert(row, InboxClaim) for row in await db.rows(OPEN, {})]


async def deliverable(db: Database) -> list[InboxClaim]:
    """The undelivered claims whose batch has ended, oldest first."""
    return [msgspec.convert(row, InboxClaim) for row in await db.rows(DELIVERABLE, {})]


async def stems(db: Database) -> set[str]:
    """The stems that results still to be delivered will have."""
    return {str(row["stem"]) for row in await db.rows(STEMS, {})}
