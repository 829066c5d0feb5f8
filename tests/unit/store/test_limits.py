"""Limits that were found: one for each backend, address and model; the newest thousand."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from batchd.store import limits as table
from tests.support.parts import Parts, opened

LANE = ("gpu", "http://a/v1", "m")


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path) as parts:
        yield parts


async def put(parts: Parts, found: Mapping[table.LaneName, int], now: int) -> None:
    await parts.database.write(lambda tx: table.put(tx, found, now))


async def test_at_first_nothing_was_found(parts: Parts) -> None:
    assert await table.all_found(parts.database) == {}


async def test_the_last_of_each_counts(parts: Parts) -> None:
    elsewhere = ("gpu", "http://b/v1", "m")
    await put(parts, {LANE: 16, elsewhere: 3}, 1)
    await put(parts, {LANE: 23}, 2)
    assert await table.all_found(parts.database) == {LANE: 23, elsewhere: 3}


async def test_of_very_many_the_newest_stay(parts: Parts) -> None:
    await put(parts, {LANE: 7}, 1)
    await put(parts, {("gpu", "http://a/v1", f"old-{n}"): n for n in range(600)}, 2)
    await put(parts, {LANE: 8}, 3)
    await put(parts, {("gpu", "http://a/v1", f"new-{n}"): n for n in range(600)}, 4)
    found = await table.all_found(parts.database)
    assert len(found) == 1000
    assert found[LANE] == 8
    assert sum(model.startswith("new-") for _, _, model in found) == 600
