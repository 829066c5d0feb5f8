"""A run gives out each line once, and again only when its time has come."""

from pathlib import Path

import pytest

from batchd.engine.runs import MAX_WAITING, Run, Runs
from batchd.ledger import Bitmap, Ledger, Tally
from batchd.metrics import Metrics
from batchd.model import BatchRecord, Counts, LineFile
from batchd.progress import LiveProgress
from batchd.retry import LineState
from batchd.room import Room
from batchd.states import BatchStatus
from batchd.writer import LedgerFile, Writer
from tests.support.fakes import HastyDisk


def make_run(total: int, *, done: tuple[int, ...] = (), batch_id: str = "batch_1") -> Run:
    """A run that writes nothing."""
    bitmap = Bitmap(total)
    for index in done:
        bitmap.add(index)
    files = {which: LedgerFile(Path(which), 0) for which in LineFile}
    disk = HastyDisk()
    writer = Writer(disk, Room(disk, Path(), reserve=0), Metrics(), pytest.fail)
    ledger = Ledger(writer, files, bitmap, Tally(), Metrics())
    record = BatchRecord(
        id=batch_id,
        owner="local",
        status=BatchStatus.IN_PROGRESS,
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        completion_window="24h",
        output_expires_after=3600,
        created_at=0,
        expires_at=86400,
        output_file_id="file-2",
        error_file_id="file-3",
    )
    return Run(record, b"0123abcd", ledger)


def taken(run: Run, now: float = 0.0) -> list[int]:
    found: list[int] = []
    while (index := run.take(now)) is not None:
        found.append(index)
    return found


def test_lines_come_in_order_and_done_ones_not_at_all() -> None:
    assert taken(make_run(6, done=(0, 3, 5))) == [1, 2, 4]
    assert taken(make_run(0)) == []


def test_a_line_that_waits_comes_when_it_is_due_and_before_fresh_ones() -> None:
    run = make_run(3)
    assert run.take(0) == 0
    assert run.next_at() is None
    run.wait_until(0, 5.0, LineState(faults=1))
    assert run.next_at() == 5.0
    assert run.state(0) == LineState(faults=1)
    assert run.take(4.9) == 1
    assert run.take(5.0) == 0
    assert taken(run, 5.0) == [2]


def test_a_line_that_is_put_back_comes_first() -> None:
    run = make_run(3)
    assert run.take(0) == 0
    run.put_back(0)
    assert taken(run) == [0, 1, 2]


def test_when_too_many_wait_no_fresh_line_is_given() -> None:
    run = make_run(MAX_WAITING + 10)
    for index in range(MAX_WAITING):
        assert run.take(0) == index
        run.wait_until(index, 1.0, LineState())
    assert run.take(0) is None
    assert run.take(1.0) == 0
    assert run.take(0) == MAX_WAITING


def test_what_a_line_has_been_through_is_forgotten_when_it_settles() -> None:
    run = make_run(1)
    run.wait_until(0, 1.0, LineState(faults=2))
    run.settled(0)
    run.settled(0)
    assert run.state(0) == LineState()


def test_runs_tell_clients_how_far_they_are() -> None:
    live = LiveProgress()
    runs = Runs(live)
    run = make_run(2, done=(0,))
    runs.add(run)
    runs.backend_note = "the backend cannot be reached"
    found = live.of("batch_1")
    assert found is not None
    assert (found.counts, found.note) == (Counts(2), "the backend cannot be reached")
    run.status = BatchStatus.FINALIZING
    ending = live.of("batch_1")
    assert ending is not None
    assert ending.note is None
    assert "batch_1" in runs
    assert list(runs) == [run]
    runs.remove(run)
    assert "batch_1" not in runs
    assert runs.get("batch_1") is None
