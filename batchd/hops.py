"""Blocking iterators, read from the loop: each step is a hop to a thread."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


async def hopping(steps: Iterator[T]) -> AsyncGenerator[T]:
    """What ``steps`` yields. Cancelled, it first lets the thread end the step that it is in."""
    while True:
        step = asyncio.ensure_future(asyncio.to_thread(_next, steps))
        try:
            found = await asyncio.shield(step)
        finally:
            if not step.done():
                await asyncio.wait([step])
        if not found:
            return
        yield found[0]


def _next(steps: Iterator[T]) -> list[T]:
    return list(islice(steps, 1))
