"""Claims: one open claim for a dropped file, one undelivered claim for a stem."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from batchd.model import InboxClaim, LineError
from batchd.store import files
from batchd.store import inbox as table
from tests.support.parts import Parts, opened

CLAIM = InboxClaim(
    device=1,
    inode=-2,
    mtime_ns=1_700_000_000_123_456_789,
    size=4,
    uid=1000,
    name="a.jsonl",
    stem="a",
    batch_id="batch_1",
)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path) as parts:
        yield parts


async def insert(parts: Parts, **changes: object) -> InboxClaim:
    claim = msgspec.structs.replace(CLAIM, **changes)
    await parts.database.write(lambda tx: table.insert(tx, claim))
    return claim


async def test_a_claim_is_open_until_its_original_has_left(parts: Parts) -> None:
    await insert(parts)
    [claim] = await table.open_claims(parts.database)
    assert msgspec.structs.replace(claim, seq=0) == CLAIM
    assert claim.identity == (1, -2, 1_700_000_000_123_456_789, 4)
    assert await parts.database.write(lambda tx: table.left(tx, "batch_1", 7))
    assert not await parts.database.write(lambda tx: table.left(tx, "batch_1", 8))
    assert await table.open_claims(parts.database) == []


async def test_an_open_claim_is_the_only_one_of_its_identity(parts: Parts) -> None:
    await insert(parts)
    with pytest.raises(sqlite3.IntegrityError):
        await insert(parts, batch_id="batch_2", stem="a.2")
    await parts.database.write(lambda tx: table.left(tx, "batch_1", 7))
    await insert(parts, batch_id="batch_2", stem="a.2")
    assert len(await table.open_claims(parts.database)) == 1


async def test_a_stem_is_taken_until_it_is_delivered(parts: Parts) -> None:
    await insert(parts)
    assert await table.stems(parts.database) == {"a"}
    with pytest.raises(sqlite3.IntegrityError):
        await insert(parts, batch_id="batch_2", inode=3)
    assert await parts.database.write(lambda tx: table.delivered(tx, "batch_1", 7))
    assert not await parts.database.write(lambda tx: table.delivered(tx, "batch_1", 8))
    assert await table.stems(parts.database) == set()
    await insert(parts, batch_id="batch_2", inode=3)


async def test_only_ended_batches_are_deliverable_and_only_once(parts: Parts) -> None:
    batch = await parts.create((await parts.upload(b"{}\n")).id)
    await insert(parts, batch_id=batch.id)
    assert await table.deliverable(parts.database) == []
    await parts.batches.rejected(batch.id, [LineError("empty_file", "Nothing.")])
    assert [claim.batch_id for claim in await table.deliverable(parts.database)] == [batch.id]
    await parts.database.write(lambda tx: table.delivered(tx, batch.id, 7))
    assert await table.deliverable(parts.database) == []


@pytest.mark.parametrize(
    "statement",
    [table.OPEN, table.STEMS, table.SHARES, table.DELIVERABLE, table.RUNNING, files.EXPIRED],
)
async def test_what_is_done_with_is_not_walked_through_at_every_look(
    parts: Parts, statement: str
) -> None:
    """Rows stay for ever, and there is an index of those that still matter."""
    params = {"after": 0, "limit": 1, "now": 1, "long_ago": 1}
    plan = await parts.database.rows(f"EXPLAIN QUERY PLAN {statement}", params)
    steps = [str(step["detail"]) for step in plan]
    walked = [step for step in steps if step.startswith("SCAN") and "USING INDEX" not in step]
    assert [step for step in walked if "VIRTUAL TABLE" not in step] == []


async def test_open_claims_come_oldest_first(parts: Parts) -> None:
    for inode in (9, 3, 5):
        await insert(parts, inode=inode, stem=f"s{inode}", batch_id=f"batch_{inode}")
    assert [claim.inode for claim in await table.open_claims(parts.database)] == [9, 3, 5]
