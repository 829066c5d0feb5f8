"""Table ``file``: owners see their own, tombstones keep cursors alive."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchd.model import FileRecord, Purpose
from batchd.store import files as table
from batchd.store.database import Database

NOW = 1000


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.opened(tmp_path / "batchd.db", pytest.fail) as opened:
        yield opened


async def add(
    database: Database,
    name: str,
    *,
    owner: str = "local",
    purpose: Purpose = Purpose.BATCH,
    expires_at: int | None = None,
) -> FileRecord:
    record = FileRecord(
        id=name,
        owner=owner,
        filename=f"{name}.jsonl",
        purpose=purpose,
        bytes=7,
        sha256="0" * 64,
        created_at=NOW,
        expires_at=expires_at,
    )
    await database.write(lambda tx: table.insert(tx, record))
    found = await table.get(database, owner, name, NOW - 1000)
    assert found is not None
    return found


async def page(
    database: Database,
    *,
    purpose: str | None = None,
    after: int | None = None,
    limit: int = 10,
    ascending: bool = False,
) -> list[str]:
    found = await table.page(
        database,
        "local",
        purpose=purpose,
        after=after,
        limit=limit,
        ascending=ascending,
        now=NOW,
    )
    return [record.id for record in found]


async def test_a_row_comes_back_as_it_was(database: Database) -> None:
    added = await add(database, "a", expires_at=2000)
    assert (added.seq, added.purpose, added.expires_at) == (1, Purpose.BATCH, 2000)
    assert await table.get(database, "other", "a", NOW) is None
    assert await table.get(database, "local", "b", NOW) is None


async def test_an_expired_row_is_gone_at_that_second(database: Database) -> None:
    await add(database, "a", expires_at=NOW + 1)
    assert await table.get(database, "local", "a", NOW) is not None
    assert await table.get(database, "local", "a", NOW + 1) is None
    assert await database.write(lambda tx: table.is_live(tx, "a", NOW))
    assert not await database.write(lambda tx: table.is_live(tx, "a", NOW + 1))
    assert await table.expired(database, NOW, 10) == []
    assert await table.expired(database, NOW + 1, 10) == ["a"]
    assert await table.owned(database, ["b", "a"]) == {"a"}
    assert await database.write(lambda tx: table.bury(tx, "a", NOW + 1))
    assert not await database.write(lambda tx: table.bury(tx, "a", NOW + 1))
    assert await table.owned(database, ["a"]) == set()
    assert await table.expired(database, NOW + 1, 10) == []


async def test_a_deleted_row_is_gone_and_still_a_cursor(database: Database) -> None:
    for name in "abc":
        await add(database, name)
    assert not await database.write(lambda tx: table.delete(tx, "other", "b", NOW))
    assert await database.write(lambda tx: table.delete(tx, "local", "b", NOW))
    assert not await database.write(lambda tx: table.delete(tx, "local", "b", NOW))
    after = await table.seq_of(database, "local", "b")
    assert await page(database, after=after) == ["a"]
    assert await page(database, after=after, ascending=True) == ["c"]
    assert await table.seq_of(database, "other", "b") is None


async def test_pages_are_in_order_and_filtered(database: Database) -> None:
    for name in "abcde":
        await add(database, name, purpose=Purpose.BATCH if name < "d" else Purpose.USER_DATA)
    await add(database, "theirs", owner="other")
    await add(database, "old", expires_at=NOW)
    assert await page(database) == ["e", "d", "c", "b", "a"]
    assert await page(database, limit=2, ascending=True) == ["a", "b"]
    assert await page(database, purpose="batch", limit=2) == ["c", "b"]
    assert await page(database, after=3, limit=1) == ["b"]
