"""A client that runs again what came to nothing, as often as its plan says.

Each retry has a key, and is asked for again in every life: the answer is the same batch for ever.
"""

import errno

from batchd.errors import Conflict, NoRoom
from batchd.wire.wishes import RetryWish
from tests.simulation.core import Core
from tests.simulation.loop import hop
from tests.simulation.seen import Batch
from tests.simulation.world import World

_AGAIN = 0.3  # seconds, when there was no room or the disk failed


class Retrier:
    """``retry`` begins with the first batch in every life."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._known: dict[int, str] = {}

    async def retry(self, core: Core, batch_id: str) -> None:
        seen = self._world.seen
        batch = seen.by_id[batch_id]
        while batch.plan.use.retries:
            await seen.reached(batch.number, "ended").wait()
            if batch.status == "failed":
                await self._is_refused(core, batch)
                return
            child = await self._retried(core, batch)
            if child is None:
                return
            batch = child

    async def _retried(self, core: Core, batch: Batch) -> Batch | None:
        """The new batch; None if there is nothing to run again, or it cannot be read any more."""
        seen = self._world.seen
        number = seen.retry_of(batch.number)
        try:
            batch_id = await self._asked(core, batch, number)
        except Conflict as refusal:
            if number not in seen.by_number:
                self._world.chains.refused(batch, str(refusal))
                seen.wants_no_more(number)
            return seen.by_number.get(number)
        seen.tally["retries asked for again"] += number in self._known
        if batch_id != self._known.setdefault(number, batch_id):
            self._world.wrong(f"batch {number} is {batch_id}, and was {self._known[number]}")
        child = seen.by_id[batch_id]
        child.create_was_acknowledged = True
        return child

    async def _asked(self, core: Core, batch: Batch, number: int) -> str:
        wish = RetryWish(metadata={"number": str(number)}, idempotency_key=f"retry {number}")
        while True:
            try:
                return (await core.again.retry(batch.plan.owner, batch.id, wish)).id
            except NoRoom:
                await hop(_AGAIN)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                await hop(_AGAIN)

    async def _is_refused(self, core: Core, batch: Batch) -> None:
        try:
            await core.again.retry(batch.plan.owner, batch.id, RetryWish())
        except Conflict:
            return
        self._world.wrong(f"batch {batch.number} failed and is retried")
