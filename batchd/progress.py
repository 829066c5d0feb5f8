"""What running batches have come to, in finer grain than their rows.

Whoever runs a batch gives a source that is asked at every look; durable lines only. The last word
of a batch that has ended is kept for a while: a reader may hold a row from before the end, and
counts must never go back. Which lines are in trouble takes reading, and is asked for apart.
"""

from collections import deque
from collections.abc import Awaitable, Callable

from batchd.model import Progress, TroubledLine

# The troubled lines of a batch, the worst first: at most so many, and whether there are more.
Troubles = Callable[[str, int], Awaitable[tuple[list[TroubledLine], bool]]]

_ENDED_REMEMBERED = 256


class LiveProgress:
    """The sources of progress, by batch id."""

    def __init__(self) -> None:
        self._sources: dict[str, Callable[[], Progress]] = {}
        self._ended: deque[str] = deque()
        self._troubles: Troubles = _no_troubles

    def follow(self, batch_id: str, source: Callable[[], Progress]) -> None:
        """Ask ``source`` what this batch has come to."""
        self._sources[batch_id] = source

    def ends_with(self, batch_id: str, final: Progress) -> None:
        """From now on this is what the batch has come to."""
        self._sources[batch_id] = lambda: final

    def forget_later(self, batch_id: str) -> None:
        """The batch has ended: its row tells it all to whoever reads it from now on."""
        self._ended.append(batch_id)
        while len(self._ended) > _ENDED_REMEMBERED:
            self._sources.pop(self._ended.popleft(), None)

    def of(self, batch_id: str) -> Progress | None:
        """None for a batch that is not running."""
        source = self._sources.get(batch_id)
        return source() if source else None

    def ask_for_troubles(self, troubles: Troubles) -> None:
        """Ask ``troubles`` which lines have failed before; it may read from disk."""
        self._troubles = troubles

    async def troubles(self, batch_id: str, limit: int) -> tuple[list[TroubledLine], bool]:
        """The lines of a running batch that have failed before; none of one that does not run."""
        return await self._troubles(batch_id, limit)


async def _no_troubles(_batch_id: str, _limit: int) -> tuple[list[TroubledLine], bool]:
    """Nothing runs here."""
    return [], False
