"""The clock on the wall goes back, or a start finds it far ahead."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchd.bell import Bell
from batchd.states import BatchStatus, Event
from batchd.sweeper import Sweeper
from tests.support.parts import WINDOW, Parts, opened, requests
from tests.support.waiting import until

STEADY = 0.2


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path) as parts:
        yield parts


def fresh_sweeper(parts: Parts) -> Sweeper:
    """As after a start."""
    return Sweeper(
        parts.batches,
        parts.files,
        parts.spool,
        Bell(),
        sweep_every=STEADY,
        orphan_age=1000,
        now=parts.clock,
    )


async def test_the_instants_of_a_batch_never_go_back(parts: Parts) -> None:
    record = await parts.running(requests("a"))
    parts.clock.at -= 86400
    closing = await parts.batches.advance(record.id, Event.LINES_DONE)
    assert closing is not None
    assert closing.finalizing_at == record.in_progress_at
    cancelling = await parts.batches.advance(record.id, Event.CANCEL)
    assert cancelling is not None
    assert cancelling.cancelling_at == record.in_progress_at
    parts.clock.at += 2 * 86400
    ended = await parts.batches.advance(record.id, Event.PUBLISHED)
    assert ended is not None
    assert ended.cancelled_at == int(parts.clock.at)


async def test_a_start_that_finds_a_window_ended_waits_whether_the_clock_stays(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    record = await parts.running(requests("a"))
    parts.clock.at += WINDOW
    sweeper = fresh_sweeper(parts)
    assert 0 < await sweeper.look() <= STEADY + 1e-6  # instants are floats
    assert (await parts.row(record.id)).status is BatchStatus.IN_PROGRESS
    steady = asyncio.get_running_loop().time() + STEADY
    await until(lambda: asyncio.get_running_loop().time() > steady)
    await sweeper.look()
    assert (await parts.row(record.id)).status is BatchStatus.FINALIZING
    assert "overdue_at_start" in [entry.message for entry in caplog.records]


async def test_a_start_that_finds_no_window_ended_believes_the_clock(parts: Parts) -> None:
    record = await parts.running(requests("a"))
    parts.clock.at += WINDOW - 1
    sweeper = fresh_sweeper(parts)
    assert await sweeper.look() == 1
    parts.clock.at += 1
    await sweeper.look()
    assert (await parts.row(record.id)).status is BatchStatus.FINALIZING
