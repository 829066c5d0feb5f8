"""Batches and owners take turns by weight; one that waits costs nothing."""

import math
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from batchd.backends.lane import Lane
from batchd.backends.load import Load
from batchd.backends.pool import Pool
from batchd.engine.queue import MAX_WAITING, LineQueue
from batchd.engine.rounds import QUANTUM
from batchd.engine.runs import Run
from batchd.engine.scheduler import Scheduler, weight
from batchd.gathering import Group
from batchd.retry import LineState
from tests.support.fakes import FakeCaller, config_of, pool_of
from tests.unit.engine.test_runs import make_run, queue_of

if TYPE_CHECKING:
    from batchd.backends.lane import Slot


class Table:
    """A scheduler on a pool, with slots that stay taken until ``land``."""

    def __init__(self, pool: Pool, **bounds: int) -> None:
        self.pool = pool
        self.wall = 0.0
        self.scheduler = Scheduler(pool, wall_clock=lambda: self.wall, **bounds)
        self.flying: list[tuple[Run, Slot]] = []

    def add(self, *runs: Run) -> None:
        for run in runs:
            self.scheduler.add(run)

    def next(self, now: float = 0.0) -> tuple[Run, int] | None:
        found = self.scheduler.next(now)
        if found is None:
            return None
        run, _, index, slot = found
        self.flying.append((run, slot))
        return run, index

    def land(self) -> None:
        """All that fly come back."""
        for run, slot in self.flying:
            slot.free()
            slot.settle()
            self.scheduler.landed(run)
        self.flying.clear()

    def dispatched(self, now: float = 0.0, most: int = 1 << 30) -> list[str]:
        """Which lines go, one after the other."""
        found: list[str] = []
        while len(found) < most and (pick := self.next(now)) is not None:
            found.append(f"{pick[0].id}{pick[1]}")
            self.land()
        return found


MakeTable = Callable[..., Table]


@pytest.fixture
async def table() -> AsyncIterator[Table]:
    pool = pool_of({"backend": FakeCaller()}, monotonic=lambda: 0.0)
    await pool.replace([config_of(max_in_flight=64)])
    yield Table(pool)
    await pool.aclose()


def test_batches_take_turns(table: Table) -> None:
    table.add(make_run(4, batch_id="a"), make_run(2, batch_id="b"), make_run(1, batch_id="c"))
    assert table.dispatched() == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert table.scheduler.next_at(0.0) == math.inf


def test_a_batch_added_twice_has_one_turn(table: Table) -> None:
    run = make_run(2, batch_id="a")
    table.add(run, run, make_run(2, batch_id="b"))
    assert table.dispatched() == ["a0", "b0", "a1", "b1"]


def test_a_removed_batch_is_passed_over_and_may_come_back(table: Table) -> None:
    first, second = make_run(3, batch_id="a"), make_run(3, batch_id="b")
    table.add(first, second)
    table.scheduler.remove(first)
    assert table.dispatched() == ["b0", "b1", "b2"]
    table.scheduler.line_waits(queue_of(first))
    table.scheduler.wake(queue_of(first))
    assert table.dispatched() == []
    table.add(first)
    assert table.scheduler.next_at(0.0) == 0.0
    assert table.dispatched() == ["a0", "a1", "a2"]


def test_a_batch_sleeps_until_a_line_of_it_is_due(table: Table) -> None:
    run = make_run(2, batch_id="a")
    table.add(run)
    assert table.dispatched() == ["a0", "a1"]
    for index, due in ((0, 8.0), (1, 5.0)):
        run.note(index, LineState())
        queue_of(run).wait_until(index, due)
        table.scheduler.line_waits(queue_of(run))
    assert table.scheduler.next_at(0.0) == 5.0
    assert table.next(4.9) is None
    assert table.dispatched(5.0) == ["a1"]
    assert table.scheduler.next_at(5.0) == 8.0
    assert table.dispatched(9.0) == ["a0"]
    assert table.next(math.inf) is None


def test_a_line_that_is_put_back_wakes_its_batch(table: Table) -> None:
    run = make_run(1, batch_id="a")
    table.add(run)
    assert table.dispatched() == ["a0"]
    queue_of(run).put_back(0)
    table.scheduler.wake(queue_of(run))
    table.scheduler.wake(queue_of(run))
    assert table.dispatched() == ["a0"]


def test_a_small_batch_does_not_wait_for_a_large_one(table: Table) -> None:
    table.add(make_run(100_000, batch_id="large "))
    table.dispatched(most=50)
    table.add(make_run(10, batch_id="small "))
    turns = table.dispatched(most=10 + 2 * QUANTUM)
    assert sum(turn.startswith("small") for turn in turns) == 10


@pytest.mark.parametrize(
    ("priority", "left", "expected"),
    [
        (0, 1.0, 1.0),
        (0, 0.5, 2.0),
        (0, 0.0, 8.0),
        (0, -3.0, 8.0),
        (0, 7.0, 1.0),
        (2, 1.0, 2.0),
        (-2, 1.0, 0.5),
        (10, 0.25, 128.0),
    ],
)
def test_weight_is_of_priority_and_of_the_window_that_is_left(
    priority: int, left: float, expected: float
) -> None:
    assert weight(priority, left) == expected


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ({"priority": 2}, {"priority": 0}, 2.0),
        ({"priority": -4}, {"priority": 0}, 0.25),
        ({"created_at": -43_200, "expires_at": 43_200}, {}, 2.0),
    ],
)
def test_shares_follow_weights(
    table: Table, first: dict[str, Any], second: dict[str, Any], ratio: float
) -> None:
    runs = [
        make_run(50_000, batch_id="a ", **first),
        make_run(50_000, batch_id="b ", **second),
    ]
    table.add(*runs)
    counts = Counter(turn[0] for turn in table.dispatched(most=4000))
    assert counts["a"] / counts["b"] == pytest.approx(ratio, rel=0.1)


def test_weights_are_looked_at_anew_as_windows_run_out(table: Table) -> None:
    table.add(
        make_run(50_000, batch_id="a ", expires_at=86_400),
        make_run(50_000, batch_id="b ", expires_at=10 * 86_400),
    )
    early = Counter(turn[0] for turn in table.dispatched(most=2000))
    table.wall = 86_000.0
    late = Counter(turn[0] for turn in table.dispatched(most=4000))
    assert early["a"] / early["b"] == pytest.approx(1, rel=0.1)
    assert late["a"] / late["b"] == pytest.approx(8 * 0.9, rel=0.2)


def test_owners_share_alike_however_many_batches_each_has(table: Table) -> None:
    table.add(*(make_run(500, batch_id="x ", owner="x") for _ in range(20)))
    table.add(make_run(50_000, batch_id="y ", owner="y"))
    counts = Counter(turn[0] for turn in table.dispatched(most=2000))
    assert abs(counts["x"] - counts["y"]) <= 2 * QUANTUM


async def test_lines_in_flight_are_capped_in_all_and_for_each_owner(table: Table) -> None:
    bounded = Table(table.pool, max_running=5, max_running_per_owner=3)
    bounded.add(
        make_run(50, batch_id="x ", owner="x"),
        make_run(50, batch_id="y ", owner="y"),
    )
    while bounded.next() is not None:
        pass
    assert sorted(run.owner for run, _ in bounded.flying) in (list("xxxyy"), list("xxyyy"))
    bounded.land()
    alone = Table(table.pool, max_running_per_owner=3)
    alone.add(make_run(50, owner="x"))
    while alone.next() is not None:
        pass
    assert len(alone.flying) == 3
    assert alone.scheduler.next(0.0) is None
    alone.land()
    assert alone.next() is not None


async def test_an_owner_at_its_cap_keeps_nobody_else_from_running(table: Table) -> None:
    capped = Table(table.pool, max_running_per_owner=2)
    capped.add(make_run(500, batch_id="x ", owner="x"), make_run(500, batch_id="y ", owner="y"))
    for _ in range(2):
        while capped.next() is not None:
            pass
        for run, slot in [one for one in capped.flying if one[0].owner == "y"]:
            capped.flying.remove((run, slot))
            slot.free()
            slot.settle()
            capped.scheduler.landed(run)
    sent = 0
    while sent < 200 and (found := capped.next()) is not None:
        sent += 1
        run, slot = capped.flying.pop()
        assert found[0] is run
        assert run.owner == "y"
        slot.free()
        slot.settle()
        capped.scheduler.landed(run)
    assert sent == 200
    capped.land()


async def test_owners_share_alike_however_many_models_each_has() -> None:
    pool = pool_of({"backend": FakeCaller()}, monotonic=lambda: 0.0)
    await pool.replace([config_of(max_in_flight=4)])
    table = Table(pool)
    table.add(
        make_run(
            4000, batch_id="x ", owner="x", models=[f"model {number}" for number in range(40)]
        ),
        make_run(4000, batch_id="y ", owner="y"),
    )
    counts = Counter(turn[0] for turn in table.dispatched(most=1000))
    assert abs(counts["x"] - counts["y"]) <= 2 * QUANTUM


async def test_a_turn_is_not_lost_while_a_model_has_no_free_slot() -> None:
    """Owner x waits for one model's slot again and again, y has another model's besides."""
    pool = pool_of({"a": FakeCaller(), "b": FakeCaller()}, monotonic=lambda: 0.0)
    await pool.replace(
        [
            config_of("a", models=("one",), max_in_flight=1),
            config_of("b", models=("two",), max_in_flight=1),
        ]
    )
    table = Table(pool)
    table.add(
        make_run(1000, batch_id="x ", owner="x", models=["one"]),
        make_run(2000, batch_id="y ", owner="y", models=["one", "two"]),
    )
    sent = Counter[tuple[str, str]]()
    for _ in range(400):
        while (found := table.next()) is not None:
            sent[found[0].owner, table.flying[-1][1].lane.model] += 1
        table.land()
    assert sent["x", "one"] > 0.45 * sent.total()
    assert sent["y", "two"] > 0.3 * sent.total()
    await pool.aclose()


def jain(shares: Iterable[int]) -> float:
    """How alike shares are, by Jain's index: 1 if they are equal."""
    found = list(shares)
    return sum(found) ** 2 / (len(found) * sum(share**2 for share in found))


@pytest.fixture
async def two_models() -> AsyncIterator[Table]:
    """Model "one" has a single slot, model "two" many."""
    pool = pool_of({"a": FakeCaller(), "b": FakeCaller()}, monotonic=lambda: 0.0)
    await pool.replace(
        [
            config_of("a", models=("one",), max_in_flight=1),
            config_of("b", models=("two",), max_in_flight=64),
        ]
    )
    yield Table(pool)
    await pool.aclose()


def send_two(table: Table, lines: int) -> Counter[str]:
    """Of whom so many lines go, one after the other, while model "one" is busy for ever."""
    sent: Counter[str] = Counter()
    for _ in range(lines):
        assert table.next() is not None
        run, slot = table.flying.pop()
        assert slot.lane.model == "two"
        sent[run.id] += 1
        slot.free()
        slot.settle()
        table.scheduler.landed(run)
    return sent


@pytest.mark.parametrize("blocked", [1, 3])
def test_an_owner_that_can_never_send_lets_nobody_starve_the_others(
    two_models: Table, blocked: int
) -> None:
    for number in range(blocked):
        two_models.add(make_run(1000, batch_id=f"x{number}", owner=f"x{number}", models=["one"]))
    assert two_models.next() is not None
    for name in "bcd":
        two_models.add(make_run(9000, batch_id=name, owner=name, models=["two"]))
    sent = send_two(two_models, 2000)
    assert jain(sent[name] for name in "bcd") > 0.999
    two_models.land()


def test_weights_within_an_owner_hold_while_another_owner_can_never_send(
    two_models: Table,
) -> None:
    two_models.add(make_run(1000, batch_id="x", owner="x", models=["one"]))
    assert two_models.next() is not None
    two_models.add(
        make_run(9000, batch_id="b heavy", owner="b", models=["two"], priority=2),
        make_run(9000, batch_id="b light", owner="b", models=["two"]),
        make_run(9000, batch_id="c", owner="c", models=["two"]),
    )
    sent = send_two(two_models, 3000)
    assert sent["b heavy"] / sent["b light"] == pytest.approx(2, rel=0.05)
    assert sent["c"] / sent.total() == pytest.approx(0.5, rel=0.05)
    two_models.land()


async def test_a_model_without_a_free_backend_holds_no_other_up() -> None:
    pool = pool_of({"a": FakeCaller(), "b": FakeCaller()}, monotonic=lambda: 0.0)
    await pool.replace(
        [
            config_of("a", models=("one",), max_in_flight=1),
            config_of("b", models=("two",), max_in_flight=3),
        ]
    )
    table = Table(pool)
    table.add(make_run(20, models=["one", "two"]))
    while table.next() is not None:
        pass
    assert sorted(slot.lane.name for _, slot in table.flying) == ["a", "b", "b", "b"]
    table.land()
    await pool.aclose()


async def test_models_are_forgotten_when_no_line_is_left(table: Table) -> None:
    run = make_run(40, models=[f"model {number}" for number in range(20)])
    table.add(run)
    assert len(table.dispatched()) == 40
    assert table.next() is None
    assert not table.scheduler._by_name  # pyright: ignore[reportPrivateUsage] # memory has no other face


@pytest.mark.parametrize("batches", [10, 1000])
def test_a_turn_costs_the_same_however_many_batches_there_are(table: Table, batches: int) -> None:
    runs = [make_run(8, batch_id=f"{number} ") for number in range(batches)]
    table.add(*runs)
    looks = 0

    def counted(*given: object, take: Callable[..., int | None]) -> int | None:
        nonlocal looks
        looks += 1
        return take(*given)

    for run in runs:
        queue, take = queue_of(run), queue_of(run).take
        queue.take = lambda *given, take=take: counted(*given, take=take)  # type: ignore[method-assign]
    turns = table.dispatched()
    assert len(turns) == 8 * batches
    assert looks == 9 * batches


# -- lines that failed, and another backend


class Pair(Table):
    """Model m on backends "a" and "b"; what is taken of "b" stays taken."""

    def __init__(self, pool: Pool, run: Run) -> None:
        super().__init__(pool)
        self.run = run
        self.add(run)

    def lane(self, name: str) -> Lane:
        return next(one for one in self.pool.backends if one.name == name).lane("m")

    def fill(self, name: str) -> None:
        """Have no free slot there."""
        while self.lane(name).ready_at(0.0) <= 0.0:
            self.lane(name).take(0.0)

    def to(self, now: float = 0.0) -> tuple[int, str] | None:
        """Which line goes next, and to whom."""
        found = self.next(now)
        return None if found is None else (found[1], self.flying[-1][1].lane.name)

    def fail(self, index: int, name: str = "a", *, at: float = 0.0) -> None:
        """A line in flight has failed there."""
        ((run, slot),) = [one for one in self.flying if one[1].lane.name == name][:1]
        self.flying.remove((run, slot))
        slot.free()
        slot.settle()
        self.scheduler.landed(run)
        self.wait(index, name)
        self.scheduler.came_to(self.lane(name), at, is_fault=True)

    def wait(self, index: int, name: str = "a") -> None:
        """A line failed there and is due again."""
        self.run.note(index, LineState(faults=1, backend=name))
        queue_of(self.run).wait_until(index, 0.0)
        self.scheduler.line_waits(queue_of(self.run))


@pytest.fixture
async def make_pair() -> AsyncIterator[Callable[..., Awaitable[Pair]]]:
    pool = pool_of({"a": FakeCaller(), "b": FakeCaller()}, monotonic=lambda: 0.0)

    async def make(total: int = 1, **settings: Any) -> Pair:
        b = {"models": ("m",), "max_in_flight": 1, **settings}
        await pool.replace([config_of("a", models=("m",)), config_of("b", **b)])
        return Pair(pool, make_run(total))

    yield make
    await pool.aclose()


MakePair = Callable[..., Awaitable[Pair]]


async def test_a_line_that_failed_goes_to_another_that_is_idle(make_pair: MakePair) -> None:
    pair = await make_pair()
    assert pair.to() == (0, "a")
    pair.fail(0)
    assert pair.to() == (0, "b")


async def test_a_line_that_failed_goes_back_while_the_other_makes_way_for_guests(
    make_pair: MakePair,
) -> None:
    pair = await make_pair(polite=True, polite_floor=0, polite_hold=3600)
    politeness = pair.lane("b").backend.politeness
    assert politeness is not None
    politeness.seen(0.0, Load(running=2, waiting=1), 0)
    assert pair.to() == (0, "a")
    pair.fail(0)
    assert pair.to() == (0, "a")


async def test_lines_that_failed_go_back_to_one_that_does_well_if_the_other_is_full(
    make_pair: MakePair,
) -> None:
    pair = await make_pair(MAX_WAITING + 10)
    pair.fill("b")
    queue = queue_of(pair.run)
    for _ in range(MAX_WAITING):
        index = queue.take(0.0, "a", 4, lambda: True)
        assert index is not None
        pair.wait(index)
    assert [pair.to(), pair.to(), pair.to()] == [(0, "a"), (MAX_WAITING, "a"), (1, "a")]


async def test_while_nothing_but_faults_comes_lines_wait_for_the_other_and_one_tries_now_and_then(
    make_pair: MakePair,
) -> None:
    pair = await make_pair(3)
    pair.fill("b")
    assert [pair.to(), pair.to(), pair.to()] == [(0, "a"), (1, "a"), (2, "a")]
    for index in range(3):
        pair.fail(index, at=10.0)
    assert pair.to(10.0) is None
    assert pair.to(30.0) == (0, "a")
    assert pair.to(30.0) is None
    pair.scheduler.came_to(pair.lane("a"), 31.0, is_fault=False)
    assert [pair.to(31.0), pair.to(31.0)] == [(1, "a"), (2, "a")]


async def test_a_batch_whose_line_waits_for_another_backend_is_read_on(
    make_pair: MakePair,
) -> None:
    pair = await make_pair(2)
    pair.fill("b")
    run = pair.run
    pair.scheduler.remove(run)
    groups = [Group("m", 1 + at, at, 1, is_rest=False) for at in range(2)]
    states = {0: LineState(faults=1, backend="a")}
    queue = LineQueue("m", groups, lambda at, n: array("I", range(at, at + n)), run.ledger, states)
    run.queues = [queue]
    pair.add(run)
    assert pair.to() is None
    queue.fill()
    pair.scheduler.wake(queue)
    assert pair.to() == (0, "a")
    queue.wait_until(0, 0.0)
    pair.scheduler.came_to(pair.lane("a"), 0.0, is_fault=True)
    pair.scheduler.line_waits(queue)
    assert pair.to() is None
    assert list(pair.scheduler.hungry) == [queue]
    queue.fill()
    pair.scheduler.wake(queue)
    assert pair.to() == (1, "a")


async def test_a_line_that_failed_goes_to_no_other_that_is_thought_gone(
    make_pair: MakePair,
) -> None:
    """Not even as the line that tries whether it is: that may hang there for minutes."""
    pair = await make_pair()
    assert pair.to() == (0, "a")
    pulse = pair.lane("b").backend.pulse
    for _ in range(10):
        pulse.answered(0.0, 0.1, is_fault=True)
    assert pulse.wants_look(0.0, in_flight=1)
    for at in range(8):
        pulse.looked(float(at), is_alive=False)
    assert pulse.wants_line
    pair.fail(0)
    assert pair.to() == (0, "a")
