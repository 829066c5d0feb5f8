"""How many requests a server is given at once. All in virtual time."""

import math
import random
from collections.abc import Callable
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchd.backends.concurrency import Auto, Fixed
from tests.support.queueing import Change, Report, Server, lognormal, run

LINES = 20_000
FACTORS = (0.5, 1, 1.25, 4)  # a silent queue makes all but the first nearly equal


def best_fixed(slots: int, works: list[float]) -> float:
    limits = {max(1, round(factor * slots)) for factor in FACTORS}
    return min(run(Server(slots), Fixed(limit), works).makespan for limit in limits)


def settled(report: Report) -> list[int]:
    return [look.limit for look in report.seen if look.settled]


def alike(count: int) -> list[float]:
    return [1.0] * count


def slowed(share: float) -> Callable[[int], float]:
    """The speed of a server on which each request slows all others down."""
    return lambda running: 1 / (1 + share * (running - 1))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("slots", "cold"), [(1, 1.05), (8, 1.05), (64, 1.05), (256, 1.08)])
def test_a_silently_queueing_server_is_kept_full_and_not_flooded(
    slots: int, cold: float, seed: int
) -> None:
    works = lognormal(LINES, seed)
    best, auto = best_fixed(slots, works), Auto()
    first = run(Server(slots), auto, works)
    assert first.makespan <= cold * best
    assert first.most_in_flight() <= 2 * slots + 8
    assert auto.is_settled or settled(first)
    assert auto.throughput == pytest.approx(slots, rel=0.35)
    second = run(Server(slots), Auto(kept=auto.to_keep), works)
    assert second.makespan <= 1.02 * best
    assert second.most_in_flight() <= 2 * slots + 8


@pytest.mark.parametrize("new", [32, 128])
def test_it_settles_again_when_slots_come_and_go(new: int) -> None:
    report = run(Server(64, changes=[Change(100, slots=new)]), Auto(), lognormal(LINES, 3))
    assert 64 <= report.limits(before=100)[-1] <= 136
    again = report.settled_at(110, range(new, 2 * new + 9))  # windows that saw both are over
    assert again < 150
    assert report.most_in_flight(after=again) <= 2 * new + 8


@pytest.mark.parametrize("slots", [8, 64, 256])
def test_answers_that_all_take_the_same_are_no_trap(slots: int) -> None:
    report = run(Server(slots), Auto(), alike(LINES))
    assert report.makespan <= (1.08 if slots == 256 else 1.05) * LINES / slots
    assert report.most_in_flight() <= 2 * slots + 8


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_a_server_that_batches_sixteen_and_queues_the_rest_gets_a_few_more(sigma: float) -> None:
    works = lognormal(10_000, 4, sigma=sigma)
    report = run(Server(16, speed=slowed(0.053)), Auto(), works)
    best = run(Server(16, speed=slowed(0.053)), Fixed(24), works)
    assert report.makespan <= 1.03 * best.makespan
    assert report.most_in_flight() <= 40


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_a_batching_server_is_not_choked_because_its_answers_take_longer(sigma: float) -> None:
    works = lognormal(10_000, 4, sigma=sigma)
    report = run(Server(64, speed=slowed(0.03)), Auto(), works)
    best = run(Server(64, speed=slowed(0.03)), Fixed(80), works)
    assert report.makespan <= 1.05 * best.makespan
    assert min(report.limits(after=report.makespan / 2)) >= 40


def test_where_twice_as_many_bring_no_more_the_limit_stays_bounded() -> None:
    def shared(running: int) -> float:
        return min(1.0, 4 / running)

    report = run(Server(10_000, speed=shared), Auto(), lognormal(LINES, 5))
    assert max(report.limits()) < 2000


@pytest.mark.parametrize("sigma", [0.0, 1.0])
@pytest.mark.parametrize("slowness", [0.5, 2.0])
def test_longer_or_shorter_prompts_do_not_move_it_for_long(slowness: float, sigma: float) -> None:
    works = lognormal(10_000, 6, sigma=sigma)
    report = run(Server(16, changes=[Change(200, slowness=slowness)]), Auto(), works)
    best = run(Server(16, changes=[Change(200, slowness=slowness)]), Fixed(24), works)
    assert report.makespan <= 1.04 * best.makespan
    assert min(report.limits(after=200)) >= 6
    assert report.most_in_flight(after=300) <= 40


def test_a_mix_of_short_and_long_answers_is_served_as_well() -> None:
    chance = random.Random(7)  # noqa: S311 - a simulation
    works = [(0.2 if chance.random() < 0.8 else 4.2) * w for w in lognormal(LINES, 7, sigma=0.2)]
    report = run(Server(64), Auto(), works)
    assert report.makespan <= 1.05 * run(Server(64), Fixed(80), works).makespan
    assert report.most_in_flight() <= 136


@pytest.mark.parametrize("cap", [4, 20, 100])
def test_it_settles_just_below_a_cap_that_shows_only_in_429s(cap: int) -> None:
    report = run(Server(10_000, cap=cap), Auto(), lognormal(10_000, 8))
    late = report.limits(after=report.makespan / 2)
    assert 0.75 * cap <= median(late)
    assert max(late) <= 1.15 * cap + 1
    assert report.failed < 100
    assert_one_decrease_per_window(report)


def assert_one_decrease_per_window(report: Report) -> None:
    for (before, limit), (after, _) in zip(report.decreases, report.decreases[1:], strict=False):
        assert after - before >= min(limit, 64) / 2


def test_a_volley_of_failures_is_one_decrease() -> None:
    auto = Auto(kept=64)
    for in_flight in range(1, 65):
        auto.sent(0.0, in_flight)
    limits = list[int]()
    for in_flight in range(63, -1, -1):
        auto.overloaded(1.0, in_flight)
        limits.append(auto.limit)
    assert limits[0] == 64
    assert limits[-1] == 51
    assert len(set(limits)) == 2
    assert not auto.is_settled
    assert "overloaded" in auto.reason


def test_one_429_is_enough_but_one_500_is_not() -> None:
    patient, obedient = Auto(kept=40), Auto(kept=40)
    patient.overloaded(1.0, 39)
    obedient.overloaded(1.0, 39, refused=True)
    assert (patient.limit, obedient.limit) == (40, 32)


def test_a_failure_while_slots_are_free_is_not_for_the_limit() -> None:
    auto = Auto(kept=40)
    auto.overloaded(1.0, 3, refused=True)
    assert auto.limit == 40


def test_after_a_crash_of_the_server_it_is_soon_as_before() -> None:
    report = run(Server(64, changes=[Change(100, crash=True)]), Auto(), lognormal(10_000, 9))
    limit = report.limits(before=100)[-1]
    assert min(report.limits(after=100)) >= 0.4 * limit
    assert report.makespan <= 1.05 * run(Server(64), Fixed(80), lognormal(10_000, 9)).makespan


def test_lines_that_can_only_fail_do_not_starve_the_others() -> None:
    works = lognormal(10_000, 10)
    report = run(Server(64, fails_one_in=50), Auto(), works)
    best = run(Server(64, fails_one_in=50), Fixed(80), works)
    assert report.makespan <= 1.06 * best.makespan


def test_everything_failing_comes_down_to_one_and_no_further() -> None:
    auto = Auto()
    for _ in range(200):
        auto.overloaded(1.0, auto.limit - 1, refused=True)
    assert auto.limit == 1


def test_a_slow_server_with_one_slot_is_never_flooded() -> None:
    report = run(Server(1), Auto(), lognormal(400, 11, mean=30.0))
    assert max(report.limits()) <= 20
    assert max(report.limits(after=3000)) <= 10


@pytest.mark.parametrize("slots", [1, 8, 64])
def test_a_batch_of_forty_lines_is_not_held_up(slots: int) -> None:
    works = lognormal(40, 12)
    assert run(Server(slots), Auto(), works).makespan <= 1.5 * best_fixed(slots, works)


def test_lines_that_trickle_in_teach_nothing() -> None:
    auto = Auto(kept=40)
    run(Server(64), auto, lognormal(2000, 13), supply=[(0.05 * n, 1) for n in range(2000)])
    assert auto.limit == 40
    assert auto.throughput == 0.0


def test_idle_hours_between_batches_change_nothing_for_long() -> None:
    supply = [(600.0 * n, 1000) for n in range(10)]
    report = run(Server(64), Auto(), lognormal(10_000, 14), supply=supply)
    assert min(report.limits(after=1800)) >= 48
    assert max(report.limits(after=1800)) <= 200


@pytest.mark.parametrize("mean", [0.005, 0.02])
def test_quick_answers_are_worth_more_in_flight_than_slots(mean: float) -> None:
    works = lognormal(10_000, 15, mean=mean)
    best = min(run(Server(8), Fixed(limit), works).makespan for limit in (8, 10, 12, 16))
    assert run(Server(8), Auto(), works).makespan <= 1.05 * best


def test_a_server_that_tells_its_queue_is_believed() -> None:
    told = Auto(kept=256)
    report = run(Server(32, tells=True), told, lognormal(5000, 16))
    assert 32 <= told.limit <= 60
    assert report.settled_at(0, range(32, 73)) < 40


def test_a_kept_limit_is_not_taken_for_granted() -> None:
    report = run(Server(8), Auto(kept=300), lognormal(10_000, 17))
    assert report.settled_at(0, range(8, 25)) < 500
    assert report.limits()[0] == 300


def test_what_is_kept_is_not_the_limit_of_a_trial() -> None:
    seen = set[tuple[int, int]]()

    class Watched(Auto):
        def answered(self, now: float, took: float, in_flight: int) -> None:
            super().answered(now, took, in_flight)
            if "trying" in self.reason:
                seen.add((self.limit, self.to_keep))

    run(Server(64), Watched(), lognormal(5000, 20))
    assert seen
    assert all(limit < to_keep for limit, to_keep in seen)


def test_the_ceiling_holds() -> None:
    report = run(Server(256), Auto(ceiling=50), lognormal(5000, 18))
    assert max(report.limits()) == 50
    assert Auto(kept=99, ceiling=50).limit == 50


def test_a_fixed_limit_never_moves() -> None:
    fixed = Fixed(7)
    run(Server(3, cap=5, tells=True), fixed, lognormal(200, 19))
    assert (fixed.limit, fixed.to_keep, fixed.is_settled, fixed.throughput) == (7, 7, True, 0.0)
    assert fixed.reason


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(1, 40),
    kept=st.none() | st.integers(1, 5000),
    events=st.lists(
        st.tuples(
            st.sampled_from(["sent", "answered", "overloaded", "refused", "queued"]),
            st.floats(0, 100),
            st.integers(0, 200),
        ),
        max_size=400,
    ),
)
def test_whatever_happens_the_limit_is_sound(
    start: int, kept: int | None, events: list[tuple[str, float, int]]
) -> None:
    auto, now = Auto(start=start, ceiling=100, kept=kept), 0.0
    for what, number, count in events:
        now += number
        match what:
            case "sent":
                auto.sent(now, count)
            case "answered":
                auto.answered(now, number, count)
            case "queued":
                auto.queued(now, count)
            case _:
                auto.overloaded(now, count, refused=what == "refused")
        assert 1 <= auto.limit <= 100
        assert auto.reason
        assert math.isfinite(auto.throughput)
