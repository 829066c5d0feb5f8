"""The virtual model server of the benchmarks does what its words promise: pure parts."""

import pytest

from benchmarks.flow.draws import best_makespan, draw
from benchmarks.flow.gpu_settings import GpuSettings
from benchmarks.flow.rate_limits import Bucket, Sliding
from benchmarks.flow.slots import Slots, Work


def work(at: float, service: float = 1.0, prefix: int | None = None) -> Work:
    return Work(arrived=at, service=service, prefix=prefix)


def test_more_than_the_slots_wait_silently_and_in_order() -> None:
    slots = Slots(2)
    first, second, third, fourth = (work(0.0) for _ in range(4))
    assert slots.arrive(first) == [first]
    assert slots.arrive(second) == [second]
    assert slots.arrive(third) == slots.arrive(fourth) == []
    assert slots.waiting == 2
    assert slots.leave(second, 1.0) == [third]
    assert third.due == 2.0
    assert slots.leave(fourth, 1.5) == []
    assert slots.leave(first, 1.7) == []
    assert (slots.waiting, slots.serving) == (0, 1)


def test_a_late_look_costs_no_capacity() -> None:
    slots = Slots(1)
    first, second = work(0.0), work(0.0)
    slots.arrive(first)
    slots.arrive(second)
    slots.leave(first, first.due)
    assert second.due == 2.0


def test_slots_that_go_are_served_to_their_end() -> None:
    slots = Slots(2)
    first, second, third = (work(0.0) for _ in range(3))
    for one in (first, second, third):
        slots.arrive(one)
    assert slots.resize(1, 0.5) == []
    assert slots.leave(first, 1.0) == []
    assert slots.leave(second, 1.0) == [third]
    assert slots.resize(3, 1.5) == []


@pytest.mark.parametrize(("kind", "second_hits"), [("slot", False), ("shared", True)])
def test_a_prefix_that_is_cached_costs_nothing(kind: str, second_hits: bool) -> None:
    slots = Slots(2, cache=kind, prefill=5.0)  # type: ignore[arg-type] # one of the words
    first, second = work(0.0, prefix=7), work(0.0, prefix=7)
    slots.arrive(first)
    slots.arrive(second)
    assert (first.hit, second.hit) == (False, second_hits)
    assert first.due == 6.0


def test_a_sliding_window_sees_no_more_than_its_limit() -> None:
    limit = Sliding(2, 60)
    for at in (0.0, 10.0):
        assert limit.wait(1, at) == 0
        limit.charge(1, at)
    assert limit.wait(1, 20.0) == 40.0
    assert limit.remaining(20.0) == 0
    assert limit.reset(20.0) == 50.0
    assert limit.wait(1, 60.1) == 0


def test_a_bucket_drips_full() -> None:
    bucket = Bucket(60, 60)
    bucket.charge(60, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait(1, 1.0) == pytest.approx(0.0)
    assert bucket.remaining(10.0) == pytest.approx(10.0)


def test_services_are_the_same_in_each_run_and_have_the_mean_that_is_asked_for() -> None:
    settings = GpuSettings(mean=0.5, sigma=1.0, seed=3)
    drawn = [draw(settings, str(number)).service for number in range(5000)]
    assert drawn[:10] == [draw(settings, str(number)).service for number in range(10)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, rel=0.05)


def test_the_best_makespan_is_that_of_a_list_schedule() -> None:
    assert best_makespan(2, [3.0, 1.0, 1.0, 1.0]) == 3.0
    assert best_makespan(1, [1.0, 2.0]) == 3.0
