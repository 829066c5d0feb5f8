"""Patience with a request's body: it ends, for one that is silent as for one that drips."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from batchd.errors import RequestTimeout

# Bytes a second that a body has to come at over a minute of waiting for it: a client that cannot
# send 80 kbit/s has lost its line. Without it one that sends a byte now and then would keep its
# place among the uploads for good, and a handful of such clients everybody else from theirs.
LEAST_RATE = 10_000
_WINDOW = 60.0


@contextlib.asynccontextmanager
async def in_time(seconds: float) -> AsyncGenerator[None]:
    """``asyncio.timeout`` for a whole body, that says what was late."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise RequestTimeout(
            f"The request's body did not come within {seconds:g} seconds."
        ) from None


class Patience:
    """With one body that comes in pieces: no long silence, and a least rate.

    The rate is that of the whole body since it was last looked at, over a minute at least, so that
    a slow start is no fault. Only time spent waiting counts: what the disk takes is not the
    client's. ``silence``: seconds that may pass without a piece.
    """

    def __init__(self, silence: float, now: Callable[[], float]) -> None:
        self._silence = silence
        self._now = now
        # A silence that is allowed must not be too slow for that alone.
        self._window = max(_WINDOW, silence)
        self._waited = 0.0
        self._came = 0

    @contextlib.asynccontextmanager
    async def waiting(self) -> AsyncGenerator[None]:
        """Around the wait for a piece."""
        began = self._now()
        try:
            async with asyncio.timeout(self._silence):
                yield
        except TimeoutError:
            raise RequestTimeout(
                f"No byte of the request's body came for {self._silence:g} seconds."
            ) from None
        self._waited += self._now() - began

    def came(self, size: int) -> None:
        """So many bytes came. ``RequestTimeout`` if they are too few for the time they took."""
        self._came += size
        if self._waited < self._window:
            return
        if self._came < LEAST_RATE * self._waited:
            raise RequestTimeout(
                f"The request's body came too slowly: send at least {LEAST_RATE} bytes a second."
            )
        self._waited, self._came = 0.0, 0
