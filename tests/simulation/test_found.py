"""What the simulation has found, each as small as it can be told."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchd.engine.orders import Orders
from batchd.engine.recovery import Recovery
from batchd.engine.runs import Runs
from batchd.model import BatchRecord
from batchd.states import BatchStatus, Event
from tests.support.fakes import TroubledDisk
from tests.support.parts import Parts, opened, requests


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path, TroubledDisk()) as opened_parts:
        yield opened_parts


async def test_a_window_that_ends_while_its_batch_is_validated_takes_no_files_from_it(
    parts: Parts,
) -> None:
    """The sweeper saw it in ``validating`` and closes its window when it already runs."""
    record = await parts.running(requests("ab"))
    assert await parts.batches.never_started(record.id, Event.WINDOW_CLOSED) is None
    assert await parts.row(record.id) == record
    closed = await parts.batches.advance(record.id, Event.WINDOW_CLOSED)
    assert closed is not None
    assert (closed.status, closed.output_file_id) == (BatchStatus.FINALIZING, record.output_file_id)


async def test_a_sync_that_fails_while_a_ledger_is_read_back_is_remembered_by_the_next_start(
    parts: Parts,
) -> None:
    disk = parts.spool.disk
    assert isinstance(disk, TroubledDisk)
    record = await parts.running(requests("ab"))
    await disk.run(_append, parts, record)
    disk.fails["sync"] = OSError(errno.EIO, os.strerror(errno.EIO))
    recovery = Recovery(
        parts.spool,
        parts.batches,
        Runs(parts.batches.live, lambda _: None),
        parts.writer,
        parts.metrics,
        parts.damage,
        Orders(parts.spool, "input").open,
    )
    with pytest.raises(OSError, match="error"):
        await recovery.recover_all()
    assert await disk.run(parts.spool.is_distrusted)


def _append(parts: Parts, record: BatchRecord) -> None:
    assert record.output_file_id is not None
    parts.spool.file(record.output_file_id).write_bytes(b"half a li")
