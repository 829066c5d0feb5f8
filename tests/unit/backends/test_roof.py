"""What refusals do to a measured limit: bursts that pass, and servers that really take less.

A server of 64 slots behind a proxy that refuses at once, while it refuses. All in virtual time.
"""

import heapq
import itertools
import random
from dataclasses import dataclass, field
from statistics import median

import pytest

from batchd.backends.concurrency import Auto
from batchd.backends.roof import Roof

SLOTS = 64
AT_ONCE = 0.001  # seconds after which a refusal is there
MINUTE = 60.0


@dataclass
class Outage:
    """From ``since`` to ``until`` more than ``room`` are refused; what is inside goes on."""

    since: float
    until: float
    room: int = 0
    drops: bool = False  # what is inside is refused too


@dataclass
class World:
    """``refused``: when each was; ``limits``: at each outcome."""

    auto: Auto
    outages: list[Outage]
    mean: float = 1.0
    refused: list[float] = field(default_factory=list[float])
    limits: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def __post_init__(self) -> None:
        self._chance = random.Random(1)  # noqa: S311 - a simulation
        self._order = itertools.count()
        self._events: list[tuple[float, int, float, bool]] = []
        self._free_at = [0.0] * SLOTS
        self._in_flight = 0
        self._inside = 0

    def run(self, until: float) -> None:
        now = 0.0
        self._fill(now)
        while now < until:
            now, _, sent_at, is_inside = heapq.heappop(self._events)
            self._in_flight -= 1
            self._inside -= is_inside
            if not is_inside or any(o.drops and sent_at < o.since <= now for o in self.outages):
                self.refused.append(now)
                self.auto.overloaded(now, self._in_flight)
            else:
                self.auto.answered(now, now - sent_at, self._in_flight)
            self.limits.append((now, self.auto.limit))
            self._fill(now)

    def _fill(self, now: float) -> None:
        while self._in_flight < self.auto.limit:
            self._in_flight += 1
            self.auto.sent(now, self._in_flight)
            is_inside = all(
                self._inside < outage.room
                for outage in self.outages
                if outage.since <= now < outage.until
            )
            self._inside += is_inside
            at = self._served_at(now) if is_inside else now + AT_ONCE
            heapq.heappush(self._events, (at, next(self._order), now, is_inside))

    def _served_at(self, now: float) -> float:
        """When the first slot that gets free is done with it."""
        begins = max(now, heapq.heappop(self._free_at))
        ends = begins + self.mean * self._chance.lognormvariate(-0.125, 0.5)
        heapq.heappush(self._free_at, ends)
        for outage in self.outages:
            if outage.drops and now < outage.since < ends:
                return outage.since + AT_ONCE
        return ends

    def limit_at(self, at: float) -> int:
        return [limit for when, limit in self.limits if when <= at][-1]

    def refused_between(self, since: float, until: float) -> int:
        return sum(since <= at < until for at in self.refused)


@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize("mean", [0.1, 1.0, 5.0])
def test_after_a_moment_of_refusals_the_limit_is_soon_near_what_it_was(
    mean: float, drops: bool
) -> None:
    world = World(Auto(), [Outage(200, 200.3, drops=drops)], mean)
    world.run(261)
    before = world.limit_at(199.9)
    assert before >= SLOTS
    assert world.limit_at(220 if mean <= 1 else 260) > before / 2
    assert world.refused_between(201, 261) == 0


def test_moments_of_refusals_again_and_again_do_not_add_up() -> None:
    outages = [Outage(200 + 120 * n, 200.3 + 120 * n, drops=True) for n in range(8)]
    world = World(Auto(), outages)
    world.run(1160)
    assert world.limit_at(1039) > SLOTS
    assert min(limit for at, limit in world.limits if at < 1039.9) == 1
    assert world.limit_at(1100) > SLOTS / 2


@pytest.mark.parametrize("room", [1, 8, 20])
@pytest.mark.parametrize("mean", [0.1, 1.0, 5.0])
def test_a_server_that_takes_less_from_then_on_is_kept_near_that_without_a_storm(
    mean: float, room: int
) -> None:
    world = World(Auto(), [Outage(200, 900, room=room)], mean)
    world.run(600)
    late = [limit for at, limit in world.limits if at > 200 + 20 * mean]
    assert 0.75 * room <= median(late) <= room
    assert sum(late) / len(late) <= 1.1 * room
    assert world.refused_between(200, 260) < 500
    assert world.refused_between(260, 600) < 100


def test_a_server_that_is_away_and_takes_less_when_it_is_back_is_kept_near_that() -> None:
    world = World(Auto(), [Outage(200, 203, drops=True), Outage(203, 900, room=10)])
    world.run(600)
    assert 8 <= world.limit_at(599) <= 11
    assert world.refused_between(203.1, 600) < 200


class Told:
    """A roof over a limit of 80, and how it goes on from there."""

    def __init__(self) -> None:
        self.roof = Roof(4096)
        self.limit = 80
        self.now = 0.0

    def refuse(self, steps: int) -> None:
        """Nothing but refusals, until the limit has come down so often."""
        self.now += 1
        while steps:
            lowered = self.roof.overload(self.now, self.limit, self.limit - 1, refused=True)
            if lowered is not None:
                self.limit, steps = lowered, steps - 1

    def answer(self) -> bool:
        self.now += 1
        return self.roof.answered(self.limit, self.now)

    def windows_until_lifted(self) -> int:
        height = self.roof.height
        for count in range(1, 1000):
            self.roof.quiet()
            if self.roof.height > height:
                return count
        raise AssertionError("it is never lifted")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.mark.parametrize("steps", [1, 2, 10, 30])
def test_one_trouble_is_feared_for_as_long_whatever_its_steps(told: Told, steps: int) -> None:
    told.refuse(steps)
    assert told.windows_until_lifted() == 4


def test_a_trouble_that_comes_again_is_feared_for_twice_as_long_each_time(told: Told) -> None:
    found: list[int] = []
    for _ in range(9):
        told.refuse(1)
        told.answer()
        found.append(told.windows_until_lifted())
    assert found == [4, 8, 16, 32, 64, 128, 256, 256, 256]


def test_a_trouble_that_does_not_come_again_is_forgotten(told: Told) -> None:
    for _ in range(4):
        told.refuse(1)
        told.answer()
        told.windows_until_lifted()
    for _ in range(200):
        told.roof.quiet()
    told.refuse(1)
    assert told.windows_until_lifted() == 4


def test_that_twice_as_many_brought_no_more_is_not_forgotten(told: Told) -> None:
    for expected in (4, 8):
        told.roof.lower(40)
        assert told.windows_until_lifted() == expected
        for _ in range(200):
            told.roof.quiet()


def test_an_outage_says_nothing_of_how_many_are_too_many(told: Told) -> None:
    told.refuse(10)
    assert (told.limit, told.roof.height) == (9, 10)
    assert not told.roof.answered(told.limit, 0.5)  # it was sent before
    assert told.answer()
    assert told.roof.height == 79
    assert not told.answer()


def test_a_few_steps_are_no_outage_but_too_many_in_flight(told: Told) -> None:
    told.refuse(3)
    assert not told.answer()
    assert (told.limit, told.roof.height) == (41, 50)
