"""Brings results back: when the batch of a dropped file has ended, its files go to the outbox.

Results are copies: whoever takes them away, takes nothing from batchd. They are made when that
leaves the reserve free on the disk of the outbox. The last status comes last. A crash at any point
redoes the delivery from the start; what is there already is recognized and stays. ``delivered_at``
is the commit.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

import msgspec

from batchd.batches import Batches
from batchd.errors import FileCorrupt, NoRoom, NotFound
from batchd.files import Files
from batchd.inbox import refusals
from batchd.inbox.directories import SUFFIX, Directories
from batchd.inbox.folder import Content
from batchd.inbox.outbox import RESULTS
from batchd.inbox.statuses import status
from batchd.model import BatchRecord, InboxClaim
from batchd.states import BatchStatus
from batchd.store import inbox as table
from batchd.store.database import Database

log = logging.getLogger(__name__)

_RETRY, _LONGEST_RETRY = 5.0, 60.0  # seconds until the same is tried again, longer each time
_DELETED = "{} is not in the outbox: the file was deleted before it could be delivered"

_OUTPUT, _ERRORS = RESULTS


class _Later(msgspec.Struct, frozen=True):
    """A delivery that failed: why, when it is tried again, and after how many seconds."""

    reason: str
    at: float
    delay: float


class Delivery:
    """Delivers what has ended; ``ring`` is called for each."""

    def __init__(
        self,
        database: Database,
        files: Files,
        batches: Batches,
        *,
        now: Callable[[], float],
        ring: Callable[[], None],
    ) -> None:
        self._database = database
        self._files = files
        self._batches = batches
        self._now = now
        self._ring = ring
        self._later: dict[str, _Later] = {}

    async def deliver_all(self, directories: Directories) -> float:
        """Deliver what has ended; seconds until what could not be delivered is tried again."""
        for claim in await table.deliverable(self._database):
            before = self._later.get(claim.batch_id)
            if before is not None and before.at > _monotonic():
                continue
            try:
                await self._deliver(directories, claim)
                self._later.pop(claim.batch_id, None)
            except (OSError, NoRoom, FileCorrupt) as error:
                self._put_off(claim, str(error))
        now = _monotonic()
        return min((later.at - now for later in self._later.values()), default=math.inf)

    async def _deliver(self, directories: Directories, claim: InboxClaim) -> None:
        batch = await self._batches.find(claim.batch_id)
        if batch is None:
            return
        if batch.status is BatchStatus.FAILED:
            report = refusals.failure_report(claim, batch.errors or [])
            stem = claim.name.removesuffix(SUFFIX)
            await asyncio.to_thread(directories.report, stem, report)
        results, deleted = await self._results(batch)
        if deleted:
            batch = await self._with_notes(claim, batch, deleted)
        given = await asyncio.to_thread(
            directories.deliver, claim, results, status(batch), self._files.room.check_at
        )
        now = int(self._now())
        await self._database.write(lambda tx: table.delivered(tx, claim.batch_id, now))
        facts = {"file": claim.name, "batch": batch.id, "status": batch.status.value}
        for suffix in deleted:
            log.warning("inbox_result_deleted", extra={**facts, "result": f"{given}.{suffix}"})
        log.info("inbox_delivered", extra={**facts, "results": given})
        self._ring()

    async def _results(self, batch: BatchRecord) -> tuple[dict[str, Content], list[str]]:
        """What there is to deliver, and what is no longer there, by suffix."""
        results: dict[str, Content] = {}
        deleted: list[str] = []
        for suffix, file_id in ((_OUTPUT, batch.output_file_id), (_ERRORS, batch.error_file_id)):
            if file_id is None:
                continue
            try:
                _, results[suffix] = await self._files.find_kept_bytes(batch.owner, file_id)
            except NotFound:
                deleted.append(suffix)  # the status names it still
        return results, deleted

    async def _with_notes(
        self, claim: InboxClaim, batch: BatchRecord, deleted: Sequence[str]
    ) -> BatchRecord:
        for suffix in deleted:
            await self._batches.add_note(batch.id, _DELETED.format(f"{claim.stem}.{suffix}"))
        return await self._batches.find(batch.id) or batch

    def _put_off(self, claim: InboxClaim, reason: str) -> None:
        before = self._later.get(claim.batch_id)
        delay = min(2 * before.delay, _LONGEST_RETRY) if before is not None else _RETRY
        self._later[claim.batch_id] = _Later(reason, _monotonic() + delay, delay)
        if before is None or before.reason != reason:
            facts = {"file": claim.name, "batch": claim.batch_id, "reason": reason}
            log.warning("inbox_delivery_waits", extra=facts)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
