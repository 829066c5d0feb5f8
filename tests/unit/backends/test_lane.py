"""When a request may go, its slot, and what is counted of it. In virtual time."""

import asyncio
import math
from typing import Any

import pytest

from batchd.backends.backend import Backend
from batchd.backends.lane import Lane, Slot
from batchd.backends.rates import Rates
from batchd.config import ModelLimits
from batchd.model import Outcome, Quota, Reply, RequestLine, Usage, Window
from batchd.retry import LineState, Park, Policy, decide
from tests.support.fakes import (
    BUSY,
    OK,
    THROTTLED,
    TIMED_OUT,
    UNREACHABLE,
    Clock,
    FakeCaller,
    config_of,
    pool_of,
)

ENDPOINT = "/v1/chat/completions"


def line(name: str = "a", *, size: int = 100) -> RequestLine:
    return RequestLine(0, name, "m", b"x" * size, max_tokens=10)


async def opened(clock: Clock, server: FakeCaller | None = None, **settings: Any) -> Backend:
    pool = pool_of({"gpu": server or FakeCaller()}, monotonic=clock)
    await pool.replace([config_of("gpu", **settings)])
    return pool.backends[0]


def tell(slot: Slot, outcome: Outcome) -> None:
    slot.came_to(outcome, decide(outcome, LineState(), slot.standing, Policy(), jitter=0))


@pytest.fixture
def clock() -> Clock:
    return Clock(0)


async def test_slots_are_taken_and_given_back(clock: Clock) -> None:
    lane = (await opened(clock, max_in_flight=2)).lane("m")
    slots = [lane.take(5) for _ in range(2) if lane.ready_at(5) == 5]
    assert (len(slots), lane.in_flight, lane.load) == (2, 2, 1.5)
    assert lane.ready_at(5) == math.inf
    slots[0].free()
    slots[0].free()
    assert lane.ready_at(6) == 6
    assert lane.in_flight == 1


async def test_twice_the_slots_may_be_unsettled(clock: Clock) -> None:
    backend = await opened(clock, max_in_flight=2)
    lane, slots = backend.lane("m"), list[Slot]()
    while lane.ready_at(0) == 0:
        slots.append(lane.take(0))
        slots[-1].free()
    assert len(slots) == 4
    slots[0].settle()
    slots[0].settle()
    assert lane.ready_at(0) == 0
    lane.take(0)
    assert lane.ready_at(0) == math.inf
    assert backend.in_flight == 1


async def test_a_number_is_shared_by_all_models_of_a_backend(clock: Clock) -> None:
    backend = await opened(clock, max_in_flight=2)
    backend.lane("m").take(0)
    backend.lane("n").take(0)
    assert backend.lane("m").ready_at(0) == backend.lane("o").ready_at(0) == math.inf
    assert [lane.in_flight for lane in backend.lanes.by_model.values()] == [1, 1, 0]


async def test_what_is_measured_is_for_each_model_alone(clock: Clock) -> None:
    backend = await opened(clock, max_in_flight="auto")
    lane, other = backend.lane("m"), backend.lane("n")
    while lane.ready_at(0) == 0:
        lane.take(0)
    assert other.ready_at(0) == 0
    assert other.load < lane.load


async def test_a_weight_lightens_the_load(clock: Clock) -> None:
    lane = (await opened(clock, max_in_flight=4, weight=2)).lane("m")
    lane.take(0)
    assert lane.load == 0.25
    assert lane.capacity.concurrency.limit == 4


async def test_a_line_that_did_not_go_is_not_counted(clock: Clock) -> None:
    lane = (await opened(clock, max_in_flight=1, requests_per_minute=60)).lane("m")
    slot = lane.take(0)
    slot.put_back()
    assert lane.ready_at(0) == 0
    assert lane.capacity.unsettled == 0


async def test_the_rates_of_a_model_hold_beside_those_of_the_backend(clock: Clock) -> None:
    limits = (
        ModelLimits(models=("big-*",), requests_per_minute=6),
        ModelLimits(models=("*-b", "c"), requests_per_minute=3),
    )
    backend = await opened(clock, limits=limits, requests_per_minute=60)
    ready = dict[str, float]()
    for model in ("small", "big-a", "big-b", "c"):
        clock.at += 1000
        lane = backend.lane(model)
        lane.take(clock.at).free()
        ready[model] = lane.ready_at(clock.at) - clock.at
    assert ready["small"] < 1.5
    assert 9 < ready["big-a"] < 16
    assert ready["big-b"] >= 19
    assert ready["c"] >= 19


async def test_the_slot_is_free_when_the_answer_is_there(clock: Clock) -> None:
    server = FakeCaller({"a": [OK]}, open_gate=False)
    backend = await opened(clock, server, max_in_flight=1)
    slot = backend.lane("m").take(0)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(slot.send(ENDPOINT, line()))
        await asyncio.sleep(0)
        assert backend.in_flight == 1
        server.gate.set()
    assert task.result() is OK
    assert backend.in_flight == 0
    assert backend.lane("m").capacity.unsettled == 1


async def test_a_hanging_request_can_be_broken_off(clock: Clock) -> None:
    backend = await opened(clock, FakeCaller(open_gate=False))
    slot = backend.lane("m").take(0)
    task = asyncio.create_task(slot.send(ENDPOINT, line()))
    await asyncio.sleep(0)
    backend.calls.abort()
    assert await task == UNREACHABLE
    assert backend.in_flight == 0


async def test_a_cancelled_request_stays_cancelled_and_frees_its_slot(clock: Clock) -> None:
    backend = await opened(clock, FakeCaller(open_gate=False))
    task = asyncio.create_task(backend.lane("m").take(0).send(ENDPOINT, line()))
    await asyncio.sleep(0)
    backend.calls.abort()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.in_flight == 0


class Counted(Rates):
    """Counts the requests that were charged for and have not come back in any way."""

    def __init__(self) -> None:
        super().__init__()
        self.open = 0

    def take(self, now: float) -> float:
        self.open += 1
        return super().take(now)

    def put_back(self, charged: float) -> None:
        self.open -= 1
        super().put_back(charged)

    def came_to(self, now: float, charged: float, actual: float | None) -> None:
        self.open -= 1
        super().came_to(now, charged, actual)


@pytest.mark.parametrize("outcome", [OK, BUSY, THROTTLED, TIMED_OUT, UNREACHABLE, None])
async def test_whatever_a_request_came_to_its_charge_is_closed_once(
    clock: Clock, outcome: Outcome | None
) -> None:
    lane = (await opened(clock)).lane("m")
    lane.rates = [rates] = [Counted()]
    slot = lane.take(0)
    assert rates.open == 1
    if outcome is not None:
        await slot.send(ENDPOINT, line())
        tell(slot, outcome)
    slot.free()
    slot.settle()
    slot.settle()
    assert rates.open == 0


async def test_a_line_put_back_closes_its_charge_once(clock: Clock) -> None:
    lane = (await opened(clock)).lane("m")
    lane.rates = [rates] = [Counted()]
    lane.take(0).put_back()
    assert rates.open == 0


async def test_usage_corrects_what_was_charged(clock: Clock) -> None:
    backend = await opened(clock, tokens_per_minute=6000)
    lane = backend.lane("m")
    slot = lane.take(0)
    await slot.send(ENDPOINT, line(size=4))
    cheap = lane.ready_at(0)
    answer = Reply(status_code=200, request_id="r", body=b"{}", usage=Usage(total_tokens=3000))
    tell(slot, answer)
    assert lane.ready_at(0) > cheap + 20


async def test_numbers_of_hundreds_of_digits_harm_nobody(clock: Clock) -> None:
    lane = (await opened(clock, tokens_per_minute=6000)).lane("m")
    slot = lane.take(0)
    outcome = await slot.send(ENDPOINT, RequestLine(0, "a", "m", b"{}", max_tokens=10**400))
    assert outcome is OK
    usage = Usage(total_tokens=10**400)
    tell(slot, Reply(status_code=200, request_id="r", body=b"{}", usage=usage))
    slot.settle()
    assert lane.ready_at(0) < math.inf


async def test_what_the_server_says_of_its_limits_is_obeyed_for_that_model(clock: Clock) -> None:
    backend = await opened(clock)
    slot = backend.lane("m").take(0)
    quota = Quota(requests=Window(limit=60, remaining=0, reset=7))
    tell(slot, Reply(status_code=200, request_id="r", body=b"{}", quota=quota))
    slot.free()
    assert backend.lane("m").ready_at(0) >= 7
    assert backend.lane("other").ready_at(0) == 0
    backend.configure(backend.config, backend.caller)
    assert backend.lane("m").ready_at(0) >= 7


class Told:
    """A limit that writes down what it was told."""

    limit = 8
    reason = ""
    throughput = 0.0
    is_settled = False
    to_keep = 8

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def sent(self, now: float, in_flight: int) -> None:
        self.said.append(("sent", now, in_flight))

    def answered(self, now: float, took: float, in_flight: int) -> None:
        self.said.append(("answered", now, took, in_flight))

    def overloaded(self, now: float, in_flight: int, *, refused: bool = False) -> None:
        self.said.append(("refused" if refused else "overloaded", now, in_flight))

    def queued(self, now: float, waiting: int) -> None:
        self.said.append(("queued", now, waiting))


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (OK, ("answered", 3, 3, 0)),
        (Reply(status_code=400, request_id="r", body=b"{}"), ("answered", 3, 3, 0)),
        (BUSY, ("overloaded", 3, 0)),
        (Reply(status_code=500, request_id="r", body=b"{}"), None),  # may be the line's own fault
        (TIMED_OUT, ("overloaded", 3, 0)),
        (THROTTLED, ("refused", 3, 0)),
        (UNREACHABLE, None),
        (Reply(status_code=401, request_id="r", body=b"{}"), None),
        (
            Reply(status_code=429, request_id="r", body=b"{}", error_code="insufficient_quota"),
            None,
        ),
    ],
)
async def test_who_sets_the_limit_is_told_what_says_something_of_load(
    clock: Clock, outcome: Outcome, said: tuple[object, ...] | None
) -> None:
    backend = await opened(clock, FakeCaller({"a": [outcome]}))
    lane: Lane = backend.lane("m")
    lane.capacity.concurrency = told = Told()
    slot = lane.take(0)
    tell(slot, await _after(slot, clock))
    assert told.said == [("sent", 0, 1), *([] if said is None else [said])]


async def _after(slot: Slot, clock: Clock) -> Outcome:
    outcome = await slot.send(ENDPOINT, line())
    clock.at = 3
    return outcome


@pytest.mark.parametrize(("limit", "groups"), [(1, 1), (64, 64), ("auto", 2)])
async def test_it_works_on_a_group_for_each_slot_it_knows_of(
    clock: Clock, limit: int | str, groups: int
) -> None:
    lane = (await opened(clock, max_in_flight=limit)).lane("m")
    assert lane.groups == groups


async def test_a_park_of_the_backend_holds_its_lanes(clock: Clock) -> None:
    backend = await opened(clock)
    backend.park(Park(10, "rate_limited", LineState()))
    assert backend.lane("m").ready_at(1) == backend.lane("n").ready_at(1) == 10
