"""What answers take is bounded, and none waits for ever."""

import asyncio

from batchd.memory import Memory

SIZE, PIECE = 1_000_000, 100_000


async def read(memory: Memory, pieces: int, most: list[int]) -> None:
    with memory.reading() as reading:
        for _ in range(pieces):
            await reading.take(PIECE)
            most.append(memory.held)
            await asyncio.sleep(0)


async def test_answers_that_fit_are_read_side_by_side() -> None:
    memory, most = Memory(SIZE), list[int]()
    await asyncio.gather(*(read(memory, 2, most) for _ in range(5)))
    assert max(most) == SIZE
    assert memory.held == 0


async def test_of_answers_without_room_one_at_a_time_is_read() -> None:
    memory, most = Memory(SIZE), list[int]()
    async with asyncio.timeout(5):
        await asyncio.gather(*(read(memory, 10, most) for _ in range(20)))
    assert SIZE < max(most) <= SIZE + 10 * PIECE
    assert memory.held == 0


async def test_while_results_wait_for_the_disk_none_is_read_without_room() -> None:
    """Each that was read would be one more that waits."""
    memory, most, kept = Memory(SIZE), list[int](), list[int]()

    async def read_and_keep() -> None:
        await read(memory, 10, most)
        memory.take_result(10 * PIECE)
        kept.append(10 * PIECE)

    answers = [asyncio.create_task(read_and_keep()) for _ in range(20)]
    for _ in range(1000):
        await asyncio.sleep(0)
    assert len(kept) <= 2
    assert memory.held <= SIZE + 2 * 10 * PIECE
    async with asyncio.timeout(5):
        while not all(answer.done() for answer in answers) or kept:
            while kept:
                memory.give_result(kept.pop())
            await asyncio.sleep(0)
    assert memory.held == 0


async def test_a_little_is_read_of_each_whether_there_is_room_or_not() -> None:
    memory = Memory(SIZE)
    memory.take_result(2 * SIZE)
    with memory.reading() as first, memory.reading() as second:
        assert first.take_at_once(10_000)
        assert second.take_at_once(10_000)
        assert not first.take_at_once(10_000)


async def test_what_is_held_otherwise_leaves_so_much_less_for_answers() -> None:
    memory = Memory(SIZE)
    memory.take(SIZE - PIECE)
    with memory.reading() as first, memory.reading() as second, memory.reading() as third:
        assert first.take_at_once(PIECE)
        assert second.take_at_once(PIECE)  # goes ahead
        assert not third.take_at_once(PIECE)
        assert not first.take_at_once(PIECE)
        assert second.take_at_once(PIECE)
    memory.give(SIZE - PIECE)
    assert memory.held == 0


async def test_an_answer_that_waits_goes_on_as_soon_as_there_is_room() -> None:
    memory, most = Memory(SIZE), list[int]()
    memory.take(SIZE)
    with memory.reading() as ahead:
        await ahead.take(PIECE)
        waiting = asyncio.create_task(read(memory, 1, most))
        await asyncio.sleep(0)
        assert not most
        memory.give(SIZE)
        await waiting
    assert most == [2 * PIECE]


async def test_any_number_that_are_broken_off_at_once_leave_nothing_behind() -> None:
    """Each end lets others go on, of which some have just been broken off, too."""
    for order in (1, -1):
        memory, most = Memory(PIECE), list[int]()
        memory.take(PIECE)
        reads = [asyncio.create_task(read(memory, 3, most)) for _ in range(6)]
        await asyncio.sleep(0)
        for task in reads[::order][:5]:
            task.cancel()
        memory.give(PIECE // 2)  # before they know
        ended = await asyncio.gather(*reads, return_exceptions=True)
        assert sum(isinstance(one, asyncio.CancelledError) for one in ended) == 5
        memory.give(PIECE - PIECE // 2)
        assert memory.held == 0
        await read(memory, 50, most)
        assert memory.held == 0
