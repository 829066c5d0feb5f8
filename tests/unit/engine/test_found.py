"""Limits that measuring has found are in the database for the next life."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchd.engine.found import FoundLimits
from batchd.errors import NoRoom
from batchd.store.limits import LaneName, all_found
from tests.support.parts import Parts, opened
from tests.support.waiting import until

M, N = ("gpu", "http://a/v1", "m"), ("gpu", "http://a/v1", "n")


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path) as parts:
        yield parts


async def test_what_is_new_is_written(parts: Parts) -> None:
    found: dict[LaneName, int] = {}
    it = FoundLimits(parts.database, lambda: found, parts.clock)
    await it.keep()
    assert await all_found(parts.database) == {}
    found |= {M: 5, N: 6}
    await it.keep()
    found[M] = 9
    del found[N]
    await it.keep()
    assert await all_found(parts.database) == {M: 9, N: 6}


async def test_what_has_not_changed_costs_no_write(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = FoundLimits(parts.database, lambda: {M: 5}, parts.clock)
    await it.keep()
    monkeypatch.delattr(parts.database.__class__, "write")
    await it.keep()


async def test_it_is_written_again_and_again_and_once_more_at_the_end(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.engine.found._EVERY", 0.005)
    found: dict[LaneName, int] = {M: 5}
    looks, stop = 0, asyncio.Event()

    def look() -> dict[LaneName, int]:
        nonlocal looks
        looks += 1
        return found

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(FoundLimits(parts.database, look, parts.clock).run(stop))
        await until(lambda: looks >= 3)
        found[N] = 6
        stop.set()
    assert await all_found(parts.database) == {M: 5, N: 6}


async def test_without_room_it_is_written_later(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = FoundLimits(parts.database, lambda: {M: 5}, parts.clock)

    async def full(*_: object) -> None:
        raise NoRoom

    stop = asyncio.Event()
    monkeypatch.setattr("batchd.engine.found._EVERY", 0.005)
    with monkeypatch.context() as patch:
        patch.setattr("batchd.store.limits.put", full)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(it.run(stop))
            stop.set()
    await it.keep()
    assert await all_found(parts.database) == {M: 5}
