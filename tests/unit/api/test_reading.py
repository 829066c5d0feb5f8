"""How long a request's body may take."""

import asyncio

import pytest

from batchd.api.reading import LEAST_RATE, Patience, in_time
from batchd.errors import RequestTimeout

TOO_SLOW = "came too slowly: send at least 10000 bytes a second"


class Body:
    """Comes in pieces that take as long as is said."""

    def __init__(self, silence: float = 30) -> None:
        self.at = 0.0
        self._patience = Patience(silence, lambda: self.at)

    async def comes(self, size: float, seconds: float) -> None:
        async with self._patience.waiting():
            self.at += seconds
        self._patience.came(int(size))

    async def drips(self, seconds: float) -> None:
        """A byte each time."""
        for _ in range(10_000):
            await self.comes(1, seconds)


async def test_a_body_that_drips_is_given_up_after_a_minute() -> None:
    body = Body()
    with pytest.raises(RequestTimeout, match=TOO_SLOW):
        await body.drips(1)
    assert body.at == 60


async def test_a_slow_start_is_made_good_within_the_minute() -> None:
    body = Body()
    for _ in range(50):
        await body.comes(1, 1)
    await body.comes(60 * LEAST_RATE, 10)
    assert body.at == 60


async def test_a_fast_start_is_no_credit_for_what_drips_later() -> None:
    body = Body()
    await body.comes(1 << 30, 1)
    with pytest.raises(RequestTimeout, match=TOO_SLOW):
        await body.drips(29)
    assert body.at < 200


async def test_a_body_that_keeps_just_the_rate_may_take_for_ever() -> None:
    body = Body()
    for _ in range(1000):
        await body.comes(7 * LEAST_RATE, 7)


async def test_time_that_goes_by_between_the_waits_is_not_the_clients() -> None:
    body = Body()
    for _ in range(100):
        await body.comes(LEAST_RATE, 1)
        body.at += 3600


async def test_a_silence_that_is_allowed_is_not_too_slow() -> None:
    body = Body(silence=600)
    await body.comes(1, 599)
    await body.comes(600 * LEAST_RATE, 1)


async def test_a_silence_is_told_from_a_body_that_takes_too_long() -> None:
    patience = Patience(0.01, asyncio.get_running_loop().time)
    with pytest.raises(RequestTimeout, match=r"^No byte of the request's body came for 0\.01 sec"):
        async with patience.waiting():
            await asyncio.get_running_loop().create_future()
    with pytest.raises(RequestTimeout, match=r"^The request's body did not come within 0\.01 sec"):
        async with in_time(0.01):
            await asyncio.get_running_loop().create_future()
