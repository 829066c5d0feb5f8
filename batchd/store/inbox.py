"""Tables ``inbox_claim`` and ``inbox_sidecar``: which dropped file became which batch, until its
results are delivered.

A claim is open until the original has left the inbox; while it is open, no second one of the same
identity can be made. A stem belongs to one undelivered claim. The row of a sidecar comes with its
claim and goes when that is closed.
"""

from typing import NamedTuple

import aiosqlite
import msgspec

from batchd.model import InboxClaim
from batchd.store.database import Database, Row

INSERT = """
INSERT INTO inbox_claim (device, inode, mtime_ns, size, uid, name, stem, batch_id)
VALUES (:device, :inode, :mtime_ns, :size, :uid, :name, :stem, :batch_id)
"""
INSERT_SIDECAR = """
INSERT INTO inbox_sidecar (batch_id, device, inode, mtime_ns, size)
VALUES (:batch_id, :device, :inode, :mtime_ns, :size)
"""
# By +seq, or SQLite walks through all claims there ever were instead of the index of open ones.
OPEN = "SELECT * FROM inbox_claim WHERE left_at IS NULL ORDER BY +seq"
SIDECARS = "SELECT * FROM inbox_sidecar"
STEMS = "SELECT stem FROM inbox_claim WHERE delivered_at IS NULL"
SHARES = """
SELECT uid, count(*) AS files, sum(size) AS bytes FROM inbox_claim
WHERE delivered_at IS NULL GROUP BY uid
"""
DELIVERABLE = """
SELECT inbox_claim.* FROM inbox_claim JOIN batch ON batch.id = inbox_claim.batch_id
WHERE inbox_claim.delivered_at IS NULL
  AND batch.status NOT IN ('validating', 'in_progress', 'finalizing', 'cancelling')
ORDER BY inbox_claim.seq
"""
RUNNING = """
SELECT inbox_claim.seq AS claim_seq, inbox_claim.stem AS claim_stem, batch.*
FROM inbox_claim JOIN batch ON batch.id = inbox_claim.batch_id
WHERE inbox_claim.delivered_at IS NULL AND inbox_claim.seq > :after
  AND batch.status IN ('validating', 'in_progress', 'finalizing', 'cancelling')
ORDER BY inbox_claim.seq LIMIT :limit
"""
LEFT = "UPDATE inbox_claim SET left_at = :now WHERE batch_id = :batch_id AND left_at IS NULL"
FORGET_SIDECAR = "DELETE FROM inbox_sidecar WHERE batch_id = :batch_id"
DELIVERED = """
UPDATE inbox_claim SET delivered_at = :now WHERE batch_id = :batch_id AND delivered_at IS NULL
"""

Identity = tuple[int, int, int, int]  # device, inode, mtime in nanoseconds, size


class Share(NamedTuple):
    """What a user has on the way: dropped, taken, and not delivered yet."""

    files: int = 0
    bytes: int = 0


class Running(NamedTuple):
    """A claim whose batch goes on. ``row`` is the batch's, as SQLite has it."""

    seq: int
    stem: str
    row: Row


async def insert(
    tx: aiosqlite.Connection, claim: InboxClaim, sidecar: Identity | None = None
) -> None:
    await tx.execute(INSERT, msgspec.structs.asdict(claim))
    if sidecar is not None:
        device, inode, mtime_ns, size = sidecar
        params = {"device": device, "inode": inode, "mtime_ns": mtime_ns, "size": size}
        await tx.execute(INSERT_SIDECAR, {**params, "batch_id": claim.batch_id})


async def left(tx: aiosqlite.Connection, batch_id: str, now: int) -> bool:
    """The original is no longer in the inbox, nor is its sidecar; whether that was news."""
    await tx.execute(FORGET_SIDECAR, {"batch_id": batch_id})
    cursor = await tx.execute(LEFT, {"batch_id": batch_id, "now": now})
    return cursor.rowcount == 1


async def delivered(tx: aiosqlite.Connection, batch_id: str, now: int) -> bool:
    """The results are in the outbox; whether that was news."""
    cursor = await tx.execute(DELIVERED, {"batch_id": batch_id, "now": now})
    return cursor.rowcount == 1


async def open_claims(db: Database) -> list[InboxClaim]:
    """The claims whose original may still be in the inbox."""
    return [msgspec.convert(row, InboxClaim) for row in await db.rows(OPEN, {})]


async def sidecars(db: Database) -> dict[str, Identity]:
    """The sidecars that were read with the originals of open claims, by batch id."""
    found: dict[str, Identity] = {}
    for row in await db.rows(SIDECARS, {}):
        values = [row[name] for name in ("device", "inode", "mtime_ns", "size")]
        found[str(row["batch_id"])] = msgspec.convert(values, Identity)
    return found


async def deliverable(db: Database) -> list[InboxClaim]:
    """The undelivered claims whose batch has ended, oldest first."""
    return [msgspec.convert(row, InboxClaim) for row in await db.rows(DELIVERABLE, {})]


async def running(db: Database, *, after: int, limit: int) -> list[Running]:
    """Up to ``limit`` claims whose batch goes on, oldest first, behind the claim ``after``."""
    return [
        Running(msgspec.convert(row.pop("claim_seq"), int), str(row.pop("claim_stem")), row)
        for row in await db.rows(RUNNING, {"after": after, "limit": limit})
    ]


async def stems(db: Database) -> set[str]:
    """The stems that results still to be delivered will have."""
    return {str(row["stem"]) for row in await db.rows(STEMS, {})}


async def shares(db: Database) -> dict[int, Share]:
    """What each user has on the way, by uid."""
    return {
        msgspec.convert(row["uid"], int): msgspec.convert((row["files"], row["bytes"]), Share)
        for row in await db.rows(SHARES, {})
    }
