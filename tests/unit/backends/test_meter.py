"""The log of the last minute, and the level that runs off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.backends.meter import Log, Meter
from batchd.model import Window


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 100)), min_size=1, max_size=60))
def test_the_log_holds_the_last_minute_and_little_more(steps: list[tuple[float, int]]) -> None:
    log, now, added = Log(), 0.0, list[tuple[float, int]]()
    for wait, amount in steps:
        now += wait
        log.add(now, amount)
        added.append((now, amount))
    total = log.total(now)
    assert total >= sum(amount for at, amount in added if at > now - 60)
    assert total <= sum(amount for at, amount in added if at > now - 60.2)


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 100)), min_size=1, max_size=60),
    st.integers(-10, 3000),
)
def test_when_the_log_frees_it_has_freed(steps: list[tuple[float, int]], most: int) -> None:
    log, now = Log(), 0.0
    for wait, amount in steps:
        now += wait
        log.add(now, amount)
    at = log.frees_at(now, most)
    assert now <= at <= now + 60.2
    assert log.total(at) <= max(most, 0)


def test_a_correction_counts_as_of_its_time_and_never_after_a_minute() -> None:
    log = Log()
    log.add(0.0, 5)
    log.add(30.0, 5)
    log.correct(0.0, 7)
    assert log.total(30.0) == 17
    assert log.total(61.0) == 5
    log.correct(0.0, 7)
    assert log.total(61.0) == 5


def test_a_meter_without_a_limit_holds_nothing_back_but_remembers() -> None:
    meter = Meter(0, 0.1)
    for _ in range(100):
        assert meter.ready_at(5.0, 1.0, 0.0) == 5.0
        meter.take(5.0, 1.0)
    meter.told(Window(100, 0, 10), 5.0, answered=0.0, grain=1.0)
    assert meter.ready_at(5.0, 1.0, 0.0) == pytest.approx(65.15)


def test_a_changed_limit_changes_what_is_still_owed() -> None:
    meter = Meter(0, 0.1)
    meter.told(Window(2, 1, 1), 0.0, answered=0.0, grain=1.0)
    meter.take(0.0, 1.0)
    meter.take(0.0, 1.0)
    assert meter.ready_at(0.0, 1.0, 0.0) > 30
    meter.told(Window(6000, 5999, 1), 0.0, answered=0.0, grain=1.0)
    assert meter.ready_at(0.0, 1.0, 0.0) < 0.1
