"""A bell: rung any number of times, answered once; unrung, it is only a delay."""

import asyncio

from batchd.bell import Bell, Bells


async def test_a_ring_before_the_wait_is_not_lost() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    async with asyncio.timeout(1):
        assert await bell.wait(at_most=60)


async def test_a_ring_is_answered_once() -> None:
    bell = Bell()
    bell.ring()
    assert await bell.wait(at_most=60)
    begun = asyncio.get_running_loop().time()
    assert not await bell.wait(at_most=0.01)
    assert asyncio.get_running_loop().time() - begun >= 0.009


async def test_without_a_ring_it_returns_all_the_same_and_says_so() -> None:
    async with asyncio.timeout(1):
        assert not await Bell().wait(at_most=0.001)


async def test_a_ring_while_it_is_waited_for_ends_the_wait() -> None:
    bell = Bell()
    wait = asyncio.create_task(bell.wait(at_most=60))
    await asyncio.sleep(0)
    bell.ring()
    async with asyncio.timeout(1):
        assert await wait


async def test_a_wait_that_was_cancelled_takes_no_ring_away() -> None:
    bell = Bell()
    wait = asyncio.create_task(bell.wait(at_most=60))
    await asyncio.sleep(0)
    wait.cancel()
    bell.ring()
    await asyncio.wait([wait])
    assert wait.cancelled()
    assert await bell.wait(at_most=60)


async def test_several_bells_ring_together_and_may_hang_on_others() -> None:
    bells = [Bell(), Bell()]
    Bells([bells[0], Bells(bells[1:])]).ring()
    async with asyncio.timeout(1):
        assert [await bell.wait(at_most=60) for bell in bells] == [True, True]
