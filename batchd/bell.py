"""The bell: a hint that there may be work. The look at the rows is the guarantee."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol


class Bell:
    """A doorbell: rung any number of times, answered once."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, *, at_most: float) -> bool:
        """Return when rung, or after ``at_most`` seconds; whether it was rung. Forgets the ring."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most):
                await self._rung.wait()
        was_rung = self._rung.is_set()
        self._rung.clear()
        return was_rung


class Ringable(Protocol):
    """A bell, or several."""

    def ring(self) -> None: ...


class Bells:
    """Several bells on one cord."""

    def __init__(self, bells: Sequence[Ringable]) -> None:
        self._bells = bells

    def ring(self) -> None:
        for bell in self._bells:
            bell.ring()
