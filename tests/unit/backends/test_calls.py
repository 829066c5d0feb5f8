"""Requests that are broken off, and those that are cancelled."""

import asyncio

import pytest

from batchd.backends.calls import Calls
from batchd.model import Outcome
from tests.support.fakes import OK


async def hanging() -> Outcome:
    return await asyncio.get_running_loop().create_future()


async def stubborn(begun: asyncio.Event) -> Outcome:
    begun.set()
    try:
        return await hanging()
    except asyncio.CancelledError:
        return OK


async def started(*tasks: asyncio.Task[Outcome | None]) -> None:
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_an_answer_is_passed_on() -> None:
    async def answering() -> Outcome:
        return OK

    calls = Calls()
    assert await calls.wait_for(answering()) is OK
    assert len(calls) == 0


async def test_an_abort_ends_every_wait_and_cancels_nothing() -> None:
    calls = Calls()
    tasks = [asyncio.create_task(calls.wait_for(hanging())) for _ in range(3)]
    await started(*tasks)
    assert calls.tasks == set(tasks)
    calls.abort()
    calls.abort()  # before any of them has taken a step
    assert await asyncio.gather(*tasks) == [None] * 3
    assert [task.cancelling() for task in tasks] == [0] * 3
    assert len(calls) == 0


async def test_an_abort_is_over_once_it_has_ended_a_wait() -> None:
    calls = Calls()

    async def twice() -> Outcome | None:
        assert await calls.wait_for(hanging()) is None
        return await calls.wait_for(hanging())

    task = asyncio.create_task(twice())
    await started(task)
    calls.abort()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("also_aborted", ["before", "after", "never"])
async def test_a_cancellation_stays_one(also_aborted: str) -> None:
    calls = Calls()
    task = asyncio.create_task(calls.wait_for(hanging()))
    await started(task)
    if also_aborted == "before":
        calls.abort()
    task.cancel()
    if also_aborted == "after":
        calls.abort()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(calls) == 0


async def test_an_answer_that_comes_all_the_same_counts_and_leaves_nothing() -> None:
    calls, begun = Calls(), asyncio.Event()
    task = asyncio.create_task(calls.wait_for(stubborn(begun)))
    await begun.wait()
    calls.abort()
    assert await task is OK
    assert len(calls) == 0
    later = asyncio.create_task(calls.wait_for(hanging()))
    await started(later)
    calls.abort()
    assert await later is None
