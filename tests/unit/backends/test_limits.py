"""When a request may go. All in virtual time."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.backends.limits import Limiter
from batchd.retry import LineState, Park, Standing


def park(delay: float, reason: str = "unreachable") -> Park:
    return Park(delay, reason, LineState())


def limiter(slots: int = 4, rpm: float = 0) -> Limiter:
    return Limiter(max_in_flight=slots, requests_per_minute=rpm)


def test_slots_are_taken_and_given_back() -> None:
    it = limiter(2)
    for _ in range(2):
        assert it.ready_at(5) == 5
        it.take(5)
    assert it.ready_at(5) == math.inf
    it.give_back()
    assert it.ready_at(6) == 6


@pytest.mark.parametrize("rpm", [1, 30, 600, 6000])
@pytest.mark.parametrize("late", [0.0, 0.004, 0.03])
def test_requests_are_spaced_and_the_rate_is_met_in_the_mean(rpm: float, late: float) -> None:
    chance, it, now, sent = random.Random(1), limiter(1, rpm), 0.0, 0  # noqa: S311 - no secret
    while now < 60 * 20:
        if it.ready_at(now) > now:
            now = it.ready_at(now) + chance.random() * late  # a timer fires late, never early
        it.take(now)
        it.give_back()
        sent += 1
    assert sent == pytest.approx(20 * rpm, rel=0.03, abs=2)


def test_an_idle_hour_does_not_allow_a_burst() -> None:
    it = limiter(100, 60)
    it.take(0)
    sent, now = 0, 3600.0
    while now < 3610:
        now = max(now, it.ready_at(now))
        it.take(now)
        sent += 1
    assert sent <= 12


@given(st.lists(st.floats(0, 5), min_size=2, max_size=80), st.integers(1, 300))
def test_no_minute_ever_sees_more_than_the_rate(waits: list[float], rpm: int) -> None:
    it, now, times = limiter(1000, rpm), 0.0, list[float]()
    for wait in waits:
        now = max(now + wait, it.ready_at(now))
        if it.ready_at(now) <= now:
            it.take(now)
            times.append(now)
    for first in times:
        assert sum(first <= at < first + 60 for at in times) <= rpm + 1


def test_a_request_that_did_not_go_does_not_count() -> None:
    it = limiter(1, 60)
    it.take(0)
    before = it.ready_at(0)
    it.give_back()
    due = it.ready_at(0)
    it.take(due)
    it.put_back()
    assert before == math.inf
    assert it.ready_at(due) == due


def test_a_park_holds_everything_back_and_the_longest_counts() -> None:
    it = limiter()
    assert it.park(park(10), 0)
    assert not it.park(park(5), 1)
    assert it.ready_at(2) == 10
    it.park(park(30), 2)
    assert it.ready_at(10) == 32


def test_after_a_park_one_request_goes_first() -> None:
    it = limiter(4)
    it.take(0)
    it.give_back()
    it.park(park(10), 0)
    assert it.ready_at(10) == 10
    it.take(10)
    assert it.ready_at(10) == math.inf
    it.answered(ok=False)
    assert it.ready_at(11) == 11


def test_a_volley_of_failures_is_one_park() -> None:
    it = limiter()
    for _ in range(5):
        it.park(park(1), 0)
    assert it.standing == Standing(0, 1)
    it.park(park(2), 1)
    assert it.standing == Standing(0, 2)
    it.answered(ok=True)
    assert it.standing == Standing(1, 0)


def test_a_new_reason_is_news() -> None:
    it = limiter()
    assert it.park(park(1), 0)
    assert it.park(park(1, "rate_limited"), 0)
    assert it.park_reason == "rate_limited"
    it.answered(ok=False)
    assert it.park_reason is None
    assert it.standing.successes == 0
