"""Blocking steps are taken in threads, each once and in order."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest

from batchd.hops import hopping


async def test_every_step_comes_once_in_order_and_off_the_loop() -> None:
    threads: list[int] = []

    def steps() -> Iterator[int]:
        for number in range(100):
            threads.append(threading.get_ident())
            yield number

    assert [step async for step in hopping(steps())] == list(range(100))
    assert threading.get_ident() not in threads


async def test_what_a_step_raises_is_raised() -> None:
    def steps() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    async with contextlib.aclosing(hopping(steps())) as found:
        assert await anext(found) == 1
        with pytest.raises(OSError, match="gone"):
            await anext(found)


async def test_cancelled_it_lets_the_step_end_first() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def steps() -> Iterator[int]:
        begun.set()
        assert go_on.wait(5)
        ended.set()
        yield 1

    async def read() -> None:
        async for _ in hopping(steps()):
            pass

    reading = asyncio.create_task(read())
    assert await asyncio.to_thread(begun.wait, 5)
    reading.cancel()
    await asyncio.sleep(0)
    assert not reading.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert ended.is_set()
