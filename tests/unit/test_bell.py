"""A bell: rung any number of times, answered once; unrung, it is only a delay."""

import asyncio

from batchd.bell import Bell, Bells


async def test_a_ring_before_the_wait_is_not_lost() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    async with asyncio.timeout(1):
        await bell.wait(at_most=60)


async def test_a_ring_is_answered_once() -> None:
    bell = Bell()
    bell.ring()
    await bell.wait(at_most=60)
    begun = asyncio.get_running_loop().time()
    await bell.wait(at_most=0.01)
    assert asyncio.get_running_loop().time() - begun >= 0.009


async def test_without_a_ring_it_returns_all_the_same() -> None:
    async with asyncio.timeout(1):
        await Bell().wait(at_most=0.001)


async def test_several_bells_ring_together() -> None:
    bells = [Bell(), Bell()]
    Bells(bells).ring()
    async with asyncio.timeout(1):
        for bell in bells:
            await bell.wait(at_most=60)
