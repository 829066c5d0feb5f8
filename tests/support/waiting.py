"""Waiting in tests: for a condition, within a limit, never for a time."""

import asyncio
import time
from collections.abc import Callable

_PAUSE = 0.005


async def until(condition: Callable[[], bool], *, within: float = 5) -> None:
    """Return once ``condition`` holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what is waited for may be in another process
            await asyncio.sleep(_PAUSE)


def wait_until(condition: Callable[[], bool], *, within: float = 5) -> None:
    """As ``until``, for synchronous tests."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"It did not happen within {within} s.")
        time.sleep(_PAUSE)
