"""Patience with a request's body: it ends."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from batchd.errors import RequestTimeout


@contextlib.asynccontextmanager
async def in_time(seconds: float) -> AsyncGenerator[None]:
    """``asyncio.timeout`` that says what was late."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise RequestTimeout(
            f"No byte of the request's body came for {seconds:g} seconds."
        ) from None
