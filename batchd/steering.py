"""What people change of a batch while it is on its way: paused or not, and its priority.

Both are of its row, so they outlive a restart; the engine reads them there. What is in flight
finishes. The completion window goes on.
"""

from collections.abc import Awaitable, Callable

from batchd.batches import Batches
from batchd.errors import Conflict
from batchd.model import BatchRecord
from batchd.pausing import PAUSABLE
from batchd.store import Transaction
from batchd.store import batches as table
from batchd.store.database import Database


class Steering:
    """Changes what a row says of how its batch is to go on. ``ring`` as in ``Batches``."""

    def __init__(
        self,
        database: Database,
        batches: Batches,
        *,
        now: Callable[[], float],
        ring: Callable[[], None],
    ) -> None:
        self._database = database
        self._batches = batches
        self._now = now
        self._ring = ring

    async def pause(self, owner: str, batch_id: str) -> BatchRecord:
        """Send nothing more of a batch. ``Conflict`` if all of it was sent."""
        now = int(self._now())
        return await self._change(
            owner, batch_id, "pause", lambda tx: table.pause(tx, batch_id, now)
        )

    async def resume(self, owner: str, batch_id: str) -> BatchRecord:
        """Go on with a batch that is paused; one that is not goes on as it does."""
        return await self._change(owner, batch_id, "resume", lambda tx: table.resume(tx, batch_id))

    async def set_priority(self, owner: str, batch_id: str, priority: int) -> BatchRecord:
        """Give a batch more or fewer turns from now on."""
        return await self._change(
            owner,
            batch_id,
            "change the priority of",
            lambda tx: table.set_priority(tx, batch_id, priority),
        )

    async def _change(
        self, owner: str, batch_id: str, what: str, write: Callable[[Transaction], Awaitable[None]]
    ) -> BatchRecord:
        await self._batches.get(owner, batch_id)

        async def step(tx: Transaction) -> BatchRecord:
            record = await table.known(tx, batch_id)
            if record.status not in PAUSABLE:
                raise Conflict(f"Cannot {what} a batch with status '{record.status}'.")
            await write(tx)
            return await table.known(tx, batch_id)

        changed = await self._database.write(step)
        self._ring()
        return changed
