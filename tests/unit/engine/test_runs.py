"""A run knows what its lines have been through, and tells clients how far it is."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from batchd.attempts import Attempts
from batchd.engine.queue import LineQueue
from batchd.engine.runs import Run, Runs
from batchd.gathering import Group
from batchd.grouping import LineOrder
from batchd.ledger import Bitmap, Ledger, Tally
from batchd.metrics import Metrics
from batchd.model import BatchRecord, Counts, LineFile
from batchd.progress import LiveProgress
from batchd.retry import LineState
from batchd.room import Room
from batchd.states import BatchStatus
from batchd.writer import LedgerFile, Writer
from tests.support.fakes import HastyDisk


def make_run(
    total: int,
    *,
    done: tuple[int, ...] = (),
    batch_id: str = "batch_1",
    models: Sequence[str] = ("m",),
    **facts: object,
) -> Run:
    """A run of lines as in the input, an equal share for each model; it writes nothing."""
    bitmap = Bitmap(total)
    for index in done:
        bitmap.add(index)
    files = {which: LedgerFile(Path(which), 0) for which in LineFile}
    disk = HastyDisk()
    writer = Writer(disk, Room(disk, Path(), reserve=0), Metrics(), pytest.fail)
    ledger = Ledger(writer, files, bitmap, Tally(), Metrics())
    given: dict[str, object] = {
        "id": batch_id,
        "owner": "local",
        "status": BatchStatus.IN_PROGRESS,
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file-1",
        "completion_window": "24h",
        "output_expires_after": 3600,
        "created_at": 0,
        "expires_at": 86400,
        "output_file_id": "file-2",
        "error_file_id": "file-3",
    }
    record = BatchRecord(**{**given, **facts})  # type: ignore[arg-type] # as the test says
    attempts = Attempts(writer, LedgerFile(Path("attempts"), 0, lasting=False), b"0123abcd")
    share = total // len(models)
    groups = [Group(name, 0, at * share, share, is_rest=True) for at, name in enumerate(models)]
    return Run(record, b"0123abcd", ledger, LineOrder(groups, total), attempts)


def queue_of(run: Run) -> LineQueue:
    (queue,) = run.queues
    return queue


def test_each_model_has_a_queue_of_its_own() -> None:
    run = make_run(6, models=["a", "b", "c"])
    assert [queue.model for queue in run.queues] == ["a", "b", "c"]


def test_what_a_line_has_been_through_is_forgotten_when_it_settles() -> None:
    run = make_run(2)
    assert run.state(0) == LineState()
    run.note(0, LineState(faults=2))
    run.remember({1: LineState(faults=1)})
    assert run.troubled == {0: LineState(faults=2), 1: LineState(faults=1)}
    run.settled(0)
    run.settled(0)
    assert run.state(0) == LineState()
    assert run.state(1) == LineState(faults=1)


def test_a_run_without_an_order_has_lost_its_input() -> None:
    whole = make_run(2)
    record = BatchRecord(
        id="batch_2",
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
    run = Run(record, b"0123abcd", whole.ledger, None, whole.attempts_file)
    assert run.input_lost
    assert list(run.queues) == []


def test_runs_tell_clients_how_far_they_are() -> None:
    live = LiveProgress()
    notes = {"m": "the backend cannot be reached"}
    runs = Runs(live, lambda models: next((notes[model] for model in models), None))
    run = make_run(2, done=(0,))
    runs.add(run)
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
