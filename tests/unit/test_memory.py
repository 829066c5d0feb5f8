"""What answers take is bounded, and none waits for ever."""

import asyncio

from batchd.memory import Memory


async def read(memory: Memory, pieces: list[int], most: list[int]) -> None:
    with memory.reading() as take:
        for piece in pieces:
            await take(piece)
            most.append(memory.held)
            await asyncio.sleep(0)


async def test_answers_that_fit_are_read_side_by_side() -> None:
    memory, most = Memory(100), list[int]()
    await asyncio.gather(*(read(memory, [10, 10], most) for _ in range(5)))
    assert max(most) == 100
    assert memory.held == 0


async def test_of_answers_without_room_one_at_a_time_is_read() -> None:
    memory, most = Memory(100), list[int]()
    async with asyncio.timeout(5):
        await asyncio.gather(*(read(memory, [30] * 10, most) for _ in range(20)))
    assert 100 < max(most) <= 100 + 300
    assert memory.held == 0


async def test_what_is_held_otherwise_leaves_so_much_less_for_answers() -> None:
    memory, most = Memory(100), list[int]()
    memory.take(90)
    first, second = (asyncio.create_task(read(memory, [20], most)) for _ in range(2))
    await asyncio.sleep(0)
    assert memory.held == 110  # one goes on without room
    await first
    await second
    assert max(most) == 110
    memory.give(90)
    assert memory.held == 0


async def test_an_answer_that_waits_goes_on_as_soon_as_there_is_room() -> None:
    memory, most = Memory(100), list[int]()
    memory.take(95)
    with memory.reading() as take:
        await take(20)  # and has not ended
        waiting = asyncio.create_task(read(memory, [5], most))
        await asyncio.sleep(0)
        assert not most
        memory.give(95)
        await waiting
    assert most == [25]


async def test_one_that_is_broken_off_as_it_waits_or_reads_leaves_nothing_behind() -> None:
    memory, most = Memory(10), list[int]()
    gate = asyncio.Event()

    async def hang() -> None:
        with memory.reading() as take:
            await take(20)
            await gate.wait()

    reads = asyncio.create_task(hang())
    await asyncio.sleep(0)
    waits, granted = (asyncio.create_task(read(memory, [5], most)) for _ in range(2))
    await asyncio.sleep(0)
    waits.cancel()
    await asyncio.wait([waits])
    reads.cancel()
    await asyncio.wait([reads])  # which lets the other go on, and that is broken off, too
    granted.cancel()
    await asyncio.wait([granted])
    assert memory.held == 0
    async with asyncio.timeout(5):
        await read(memory, [50], most)
    assert memory.held == 0
