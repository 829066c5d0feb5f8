"""The log of the last minute, and the level that runs off."""

import math

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


LIMIT = 120.0


class Resets:
    """A server with a limit for so many seconds, and who sends to it what it lets through.

    ``refills``: evenly, not all at once; ``skew``: its clock is off by so much.
    """

    def __init__(
        self, period: float, limit: float = LIMIT, *, refills: bool = False, skew: float = 0.0
    ) -> None:
        self.meter = Meter(0, 0.1)
        self.now = 10_000.0
        self.limit = limit
        self.period, self.refills, self.skew = period, refills, skew
        self.level = 0.0
        self.sent: list[float] = []

    def window(self) -> Window:
        if self.refills:
            return Window(
                self.limit,
                self.limit - math.ceil(self.level),
                self.level * self.period / self.limit,
            )
        left = self.period - self.now % self.period
        return Window(self.limit, max(self.limit - self.level, 0.0), left + self.skew)

    def tell(self, window: Window) -> None:
        self.meter.told(window, self.now, answered=0.0, grain=1.0)

    def per_minute(self) -> float:
        return self.meter.named_limit()

    def run(self, seconds: float) -> None:
        """Send as fast as is allowed; each answer comes after a tenth of a second."""
        end = self.now + seconds
        while (at := max(self.now, self.meter.ready_at(self.now, 1.0, 1.0))) < end:
            before, self.now = self.sent[-1] if self.sent else at, at
            if self.refills:
                self.level = max(self.level - (at - before) * self.limit / self.period, 0.0)
            elif before // self.period != at // self.period:
                self.level = 0.0
            self.level += 1.0
            self.meter.take(at, 1.0)
            self.sent.append(at)
            self.tell(self.window())
            self.now += 0.1
        self.now = end

    def sent_in_last(self, seconds: float) -> int:
        return sum(at > self.now - seconds for at in self.sent)


@pytest.mark.parametrize("refills", [True, False])
def test_one_odd_reset_does_not_make_a_limit_an_hours(refills: bool) -> None:
    it = Resets(60, refills=refills)
    it.run(30)
    for odd in (75.0, 3000.0, 80_000.0):
        it.tell(Window(LIMIT, 100.0, odd))
        it.tell(it.window())
        assert it.per_minute() == LIMIT
    it.run(120)
    assert it.sent_in_last(60) > 0.8 * LIMIT


def test_several_answers_in_a_row_that_agree_make_it_an_hours() -> None:
    it = Resets(3600)
    for _ in range(2):
        it.tell(it.window())
    assert it.per_minute() == LIMIT
    it.tell(it.window())
    assert it.per_minute() == LIMIT / 60


@pytest.mark.parametrize("refills", [True, False])
def test_a_limit_taken_for_an_hours_by_mistake_is_soon_a_minutes_again(refills: bool) -> None:
    it = Resets(60, refills=refills)
    it.run(30)
    for _ in range(5):
        it.tell(Window(LIMIT, 100.0, 75.0))
    assert it.per_minute() == LIMIT / 60
    it.run(400)
    assert it.per_minute() == LIMIT
    assert it.sent_in_last(60) > 0.8 * LIMIT


@pytest.mark.parametrize("skew", [30.0, 120.0])
def test_a_clock_that_is_off_makes_it_an_hours_for_a_while_at_most(skew: float) -> None:
    it = Resets(60, skew=skew)
    it.run(2 * 3600)
    it.run(3600)
    assert it.sent_in_last(3600) > 0.8 * 60 * LIMIT


@pytest.mark.parametrize("refills", [True, False])
@pytest.mark.parametrize(("period", "limit"), [(3600, 6000), (86_400, 14_400)])
def test_a_limit_of_an_hour_or_a_day_stays_one(period: float, limit: float, refills: bool) -> None:
    it = Resets(period, limit, refills=refills)
    it.run(2 * period)
    assert 0.7 * limit <= it.sent_in_last(period) <= 1.05 * limit
    assert it.per_minute() == limit / period * 60


def test_a_changed_limit_changes_what_is_still_owed() -> None:
    meter = Meter(0, 0.1)
    meter.told(Window(2, 1, 1), 0.0, answered=0.0, grain=1.0)
    meter.take(0.0, 1.0)
    meter.take(0.0, 1.0)
    assert meter.ready_at(0.0, 1.0, 0.0) > 30
    meter.told(Window(6000, 5999, 1), 0.0, answered=0.0, grain=1.0)
    assert meter.ready_at(0.0, 1.0, 0.0) < 0.1
