"""The loop of the simulation: time jumps, nothing waits for ever, and a crash is at once."""

import asyncio
import time

import pytest

from tests.simulation.disk import Crash
from tests.simulation.loop import Deadlock, Endless, VirtualLoop, hop

pytestmark = pytest.mark.allow_blocking(reason="its loop is virtual, and waits for nobody")


def test_an_hour_of_virtual_time_takes_none_of_ours() -> None:
    loop, began = VirtualLoop(), time.monotonic()

    async def wait() -> float:
        await asyncio.sleep(3600)
        return loop.elapsed

    assert loop.run_until_complete(wait()) == pytest.approx(3600)
    assert time.monotonic() - began < 60


def test_timers_run_in_the_order_of_their_times_and_then_of_their_making() -> None:
    loop = VirtualLoop()
    told: list[str] = []

    async def wait() -> None:
        loop.call_later(0.2, told.append, "c")
        loop.call_later(0.1, told.append, "a")
        loop.call_later(0.1, told.append, "b")
        loop.call_later(0.1, told.append, "never").cancel()
        async with asyncio.timeout(1):
            await asyncio.sleep(0.5)

    loop.run_until_complete(wait())
    assert told == ["a", "b", "c"]


def test_what_would_wait_for_ever_is_told_by_name() -> None:
    loop = VirtualLoop()

    async def wait() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.Event().wait(), name="waiter")

    with pytest.raises(Deadlock, match="main, waiter"):
        loop.run_until_complete(wait())
    loop.bury()


def test_what_never_stops_is_stopped() -> None:
    loop = VirtualLoop(most_passes=100)

    async def go_on() -> None:
        while True:
            await hop()

    with pytest.raises(Endless):
        loop.run_until_complete(go_on())
    loop.bury()


def test_calls_from_threads_arrive_in_their_order_however_long_each_takes() -> None:
    loop = VirtualLoop()
    delays = iter([0.3, 0.1, 0.2])
    loop.delay = lambda: next(delays)
    told: list[int] = []

    async def call() -> None:
        for number in range(3):
            loop.call_soon_threadsafe(told.append, number)
        await hop(1)

    loop.run_until_complete(call())
    assert told == [0, 1, 2]


def test_after_a_crash_nothing_of_the_process_goes_on() -> None:
    loop = VirtualLoop()
    loop.delay = lambda: 0.1
    told: list[str] = []

    async def live() -> None:
        loop.call_soon_threadsafe(told.append, "from a thread")
        try:
            while True:
                await hop()
        finally:
            told.append("cleaned up")
            raise Crash  # as a dead disk answers

    async def live_again() -> None:
        await hop(1)

    loop.crash_at = 5
    with pytest.raises(Crash):
        loop.run_until_complete(live())
    assert loop.passes == 5
    loop.bury()
    loop.run_until_complete(live_again())
    assert told == ["cleaned up"]


def test_what_is_done_in_a_thread_is_done_after_a_while_and_told() -> None:
    async def main(loop: VirtualLoop) -> tuple[int, float]:
        found = await asyncio.to_thread(int, "7")
        with pytest.raises(ValueError, match="seven"):
            await asyncio.to_thread(int, "seven")
        return found, loop.elapsed

    loop = VirtualLoop()
    loop.delay = lambda: 0.5
    assert loop.run_until_complete(main(loop)) == (7, 1.0)


def test_what_a_dead_process_left_to_a_thread_is_not_done() -> None:
    done: list[str] = []

    async def main() -> None:
        work = asyncio.create_task(asyncio.to_thread(done.append, "work"))
        await hop(0.1)
        assert not work.done()

    loop = VirtualLoop()
    loop.delay = lambda: 0.5
    loop.run_until_complete(main())
    loop.bury()
    loop.run_until_complete(_wait(1.0))
    assert done == []


async def _wait(seconds: float) -> None:
    await hop(seconds)
