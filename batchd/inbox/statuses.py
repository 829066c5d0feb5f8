"""Keeps ``NAME.status.json`` of every dropped file up to date while its batch goes on.

Once a second the rows of these batches are looked at, some at a time, and what is known of their
lines beyond. Only what has changed is written, and no more than so many at once: if all of very
many change all the time, they take turns. Nothing hangs on it: after a crash or a power cut all of
it is written again.
"""

import asyncio
import logging
import math
from collections.abc import Sequence

import msgspec

from batchd.batches import Batches
from batchd.inbox.directories import Directories
from batchd.model import BatchRecord, Progress
from batchd.store import inbox as table
from batchd.store.batches import record_of
from batchd.store.database import Database, Row
from batchd.wire.objects import BatchObject, encode

log = logging.getLogger(__name__)

_EVERY = 1.0
_ROWS = 64
_WRITES = 100


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What was told of a batch, and when."""

    row: Row
    record: BatchRecord
    progress: Progress | None
    at: float


class _News(msgspec.Struct, frozen=True, kw_only=True):
    """What is still to be told. ``since``: it has waited for its turn since then."""

    stem: str
    told: _Told
    since: float


class Statuses:
    """The statuses in one outbox. Instants are of a clock that never jumps."""

    def __init__(self, database: Database, batches: Batches) -> None:
        self._database = database
        self._batches = batches
        self._told: dict[str, _Told] = {}
        self._due_at = 0.0
        self._reason: str | None = None

    async def refresh(self, directories: Directories) -> float:
        """Tell what has changed, unless that was done within the last second; seconds until there
        may be more to tell, or infinity."""
        now = asyncio.get_running_loop().time()
        if now < self._due_at:
            return self._due_at - now
        self._due_at = now + _EVERY
        before, self._told, after = self._told, {}, 0
        news: list[_News] = []
        while some := await table.running(self._database, after=after, limit=_ROWS):
            news += self._changes(some, before, now)
            after = some[-1].seq
        news.sort(key=lambda item: item.since)
        if news:
            chosen = news[:_WRITES]
            self._told |= await asyncio.to_thread(self._write, directories, chosen)
        return _EVERY if after else math.inf

    def _changes(
        self, some: Sequence[table.Running], before: dict[str, _Told], now: float
    ) -> list[_News]:
        """What is not as it was told; what was told is kept."""
        news: list[_News] = []
        for running in some:
            batch_id = str(running.row["id"])
            old = before.get(batch_id)
            if old is not None:
                self._told[batch_id] = old
            is_same = old is not None and old.row == running.row
            record = old.record if old is not None and is_same else record_of(dict(running.row))
            progress = self._batches.progress(record)
            if old is not None and is_same and old.progress == progress:
                continue
            told = _Told(row=running.row, record=record, progress=progress, at=now)
            # A row changes when a batch takes a step: that is told before any count.
            since = old.at if old is not None and is_same else -math.inf
            news.append(_News(stem=running.stem, told=told, since=since))
        return news

    def _write(self, directories: Directories, news: Sequence[_News]) -> dict[str, _Told]:
        """What could be told; the rest is tried again."""
        written: dict[str, _Told] = {}
        reason = None
        for item in news:
            record = item.told.record
            try:
                directories.outbox.tell(item.stem, record.id, status(record, item.told.progress))
                written[record.id] = item.told
            except OSError as error:
                reason = error.strerror or type(error).__name__
                self._complain(record.id, reason)
        self._reason = reason
        return written

    def _complain(self, batch_id: str, reason: str) -> None:
        if reason != self._reason:
            self._reason = reason
            log.warning("inbox_status_waits", extra={"batch": batch_id, "reason": reason})


def status(record: BatchRecord, progress: Progress | None = None) -> bytes:
    """``NAME.status.json``."""
    return encode(BatchObject.of(record, progress)) + b"\n"
