"""Brings results back: when the batch of a dropped file has ended, its files go to the outbox.

Results are copies: whoever takes them away, takes nothing from batchd. The last status comes last.
A crash at any point redoes the delivery from the start; what is there already is recognized and
stays. ``delivered_at`` is the commit.
"""

import asyncio
import logging
from collections.abc import Callable

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

_OUTPUT, _ERRORS = RESULTS


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
        self._complaints: dict[str, str] = {}

    async def deliver_all(self, directories: Directories) -> bool:
        """Deliver what has ended; False if something could not be delivered now."""
        all_well = True
        for claim in await table.deliverable(self._database):
            try:
                await self._deliver(directories, claim)
                self._complaints.pop(claim.batch_id, None)
            except (OSError, NoRoom, FileCorrupt) as error:
                all_well = False
                self._complain(claim, str(error))
        return all_well

    async def _deliver(self, directories: Directories, claim: InboxClaim) -> None:
        batch = await self._batches.find(claim.batch_id)
        if batch is None:
            return
        if batch.status is BatchStatus.FAILED:
            report = refusals.failure_report(claim, batch.errors or [])
            stem = claim.name.removesuffix(SUFFIX)
            await asyncio.to_thread(directories.report, stem, report)
        results = await self._results(batch)
        given = await asyncio.to_thread(directories.deliver, claim, results, status(batch))
        now = int(self._now())
        await self._database.write(lambda tx: table.delivered(tx, claim.batch_id, now))
        facts = {"file": claim.name, "batch": batch.id, "status": batch.status.value}
        log.info("inbox_delivered", extra={**facts, "results": given})
        self._ring()

    async def _results(self, batch: BatchRecord) -> dict[str, Content]:
        results: dict[str, Content] = {}
        for suffix, file_id in ((_OUTPUT, batch.output_file_id), (_ERRORS, batch.error_file_id)):
            if file_id is None:
                continue
            try:
                _, results[suffix] = await self._files.find_bytes(batch.owner, file_id)
            except NotFound:
                # Deleted or expired before it could be delivered; the status names it still.
                continue
        return results

    def _complain(self, claim: InboxClaim, reason: str) -> None:
        if self._complaints.get(claim.batch_id) != reason:
            self._complaints[claim.batch_id] = reason
            facts = {"file": claim.name, "batch": claim.batch_id, "reason": reason}
            log.warning("inbox_delivery_waits", extra=facts)
