"""Batches take turns line by line; one that waits costs nothing."""

import math
from itertools import pairwise

import pytest

from batchd.engine.runs import Run
from batchd.engine.scheduler import Scheduler
from batchd.retry import LineState
from tests.unit.engine.test_runs import make_run


def scheduler_of(*runs: Run) -> Scheduler:
    scheduler = Scheduler()
    for run in runs:
        scheduler.add(run)
    return scheduler


def dispatched(scheduler: Scheduler, now: float = 0.0) -> list[str]:
    found: list[str] = []
    while (pick := scheduler.next(now)) is not None:
        found.append(f"{pick[0].id}{pick[1]}")
    return found


def test_batches_take_turns() -> None:
    scheduler = scheduler_of(make_run(4, batch_id="a"), make_run(2, batch_id="b"))
    scheduler.add(make_run(1, batch_id="c"))
    assert dispatched(scheduler) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert scheduler.next_at() == math.inf


def test_a_batch_added_twice_has_one_turn() -> None:
    run = make_run(2, batch_id="a")
    scheduler = scheduler_of(run, run, make_run(2, batch_id="b"))
    assert dispatched(scheduler) == ["a0", "b0", "a1", "b1"]


def test_a_removed_batch_is_passed_over_and_may_come_back() -> None:
    first, second = make_run(3, batch_id="a"), make_run(3, batch_id="b")
    scheduler = scheduler_of(first, second)
    scheduler.remove(first)
    assert dispatched(scheduler) == ["b0", "b1", "b2"]
    scheduler.line_waits(first)
    scheduler.line_is_back(first)
    assert dispatched(scheduler) == []
    scheduler.add(first)
    assert scheduler.next_at() == -math.inf
    assert dispatched(scheduler) == ["a0", "a1", "a2"]


def test_a_batch_sleeps_until_a_line_of_it_is_due() -> None:
    run = make_run(2, batch_id="a")
    scheduler = scheduler_of(run)
    assert dispatched(scheduler) == ["a0", "a1"]
    for index, due in ((0, 8.0), (1, 5.0)):
        run.wait_until(index, due, LineState())
        scheduler.line_waits(run)
    assert scheduler.next_at() == 5.0
    assert scheduler.next(4.9) is None
    assert dispatched(scheduler, 5.0) == ["a1"]
    assert scheduler.next_at() == 8.0
    assert dispatched(scheduler, 9.0) == ["a0"]
    assert scheduler.next(math.inf) is None


def test_a_batch_removed_in_its_sleep_does_not_wake() -> None:
    run = make_run(1, batch_id="a")
    scheduler = scheduler_of(run)
    assert dispatched(scheduler) == ["a0"]
    run.wait_until(0, 5.0, LineState())
    scheduler.line_waits(run)
    scheduler.remove(run)
    assert scheduler.next(6.0) is None


def test_a_line_that_is_put_back_wakes_its_batch() -> None:
    run = make_run(1, batch_id="a")
    scheduler = scheduler_of(run)
    assert dispatched(scheduler) == ["a0"]
    run.put_back(0)
    scheduler.line_is_back(run)
    scheduler.line_is_back(run)
    assert dispatched(scheduler) == ["a0"]


def test_a_small_batch_does_not_wait_for_a_large_one() -> None:
    scheduler = scheduler_of(make_run(100_000, batch_id="large"))
    for _ in range(50):
        scheduler.next(0)
    scheduler.add(make_run(3, batch_id="small"))
    assert [scheduler.next(0)[0].id for _ in range(6)].count("small") == 3  # type: ignore[index] # it has lines


@pytest.mark.parametrize("batches", [10, 1000])
def test_a_turn_costs_the_same_however_many_batches_there_are(batches: int) -> None:
    looks = 0

    class Counted(Run):
        def take(self, now: float) -> int | None:
            nonlocal looks
            looks += 1
            return super().take(now)

    runs = [make_run(8, batch_id=f"{number}") for number in range(batches)]
    for run in runs:
        run.__class__ = Counted
    scheduler = scheduler_of(*runs)
    turns = dispatched(scheduler)
    assert len(turns) == 8 * batches
    assert looks == 9 * batches  # one for each line, and one to see that no more is there
    assert all(one != other for one, other in pairwise(turns))
