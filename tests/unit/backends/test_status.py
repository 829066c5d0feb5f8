"""What people are told of backends is what the backends are at."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest

from batchd.backends.hints import Quota, Window
from batchd.backends.lane import Slot
from batchd.backends.load import Load
from batchd.backends.models import ListedModel
from batchd.backends.pool import Pool, opened_pool
from batchd.backends.status import status_of, statuses
from batchd.config import BackendConfig, ModelLimits
from batchd.model import Failure, FailureKind
from batchd.retry import LineState, Park, Settle
from tests.support.fakes import OK, Clock, FakeCaller, pool_of

CONFIGS = [
    BackendConfig(
        name="measured",
        base_url="http://measured/v1",
        weight=2,
        requests_per_minute=600,
        limits=(
            ModelLimits(models=("la*",), requests_per_minute=60),
            ModelLimits(models=("large",), requests_per_minute=30, tokens_per_minute=9000),
        ),
    ),
    BackendConfig(name="set", base_url="http://set/v1", max_in_flight=4, polite=True),
]
TAKEN = Settle()


@pytest.fixture
def clock() -> Clock:
    return Clock(at=100.0)


@pytest.fixture
async def pool(clock: Clock) -> AsyncIterator[Pool]:
    callers = {config.name: FakeCaller() for config in CONFIGS}
    async with opened_pool(pool_of(callers, monotonic=clock), CONFIGS) as opened:
        yield opened


def shown(pool: Pool) -> list[dict[str, Any]]:
    return json.loads(msgspec.json.encode(statuses(pool)))


def took(pool: Pool, at: int, model: str) -> Slot:
    return pool.backends[at].lane(model).take(100.0)


async def test_a_backend_that_was_sent_nothing_says_what_it_is_configured_to(pool: Pool) -> None:
    assert shown(pool)[0] == {
        "object": "backend",
        "name": "measured",
        "base_url": "http://measured/v1",
        "state": "ok",
        "note": "has not answered yet which models it has",
        "tries_again_in": None,
        "weight": 2,
        "in_flight": 0,
        "models": None,
        "requests_per_minute": {"limit": 600, "source": "configured"},
        "tokens_per_minute": None,
        "lanes": [],
    }


async def test_each_model_has_a_lane_with_rates_only_if_it_has_its_own(pool: Pool) -> None:
    took(pool, 0, "small")
    took(pool, 0, "large")
    took(pool, 0, "large")
    measured = shown(pool)[0]
    assert measured["in_flight"] == 3
    small, large = measured["lanes"]
    assert set(small) == {
        *("model", "in_flight", "limit", "auto", "settled", "reason", "throughput"),
    }
    assert (small["model"], small["in_flight"], small["auto"]) == ("small", 1, True)
    assert (large["model"], large["in_flight"]) == ("large", 2)
    assert large["requests_per_minute"] == {"limit": 30, "source": "configured"}
    assert large["tokens_per_minute"] == {"limit": 9000, "source": "configured"}


async def test_a_limit_that_is_a_number_is_the_whole_backends(pool: Pool) -> None:
    took(pool, 1, "small")
    took(pool, 1, "large")
    lanes = shown(pool)[1]["lanes"]
    assert [(lane["in_flight"], lane["limit"], lane["auto"]) for lane in lanes] == [
        (1, 4, False),
        (1, 4, False),
    ]


async def test_a_limit_that_the_server_names_is_learned(pool: Pool, clock: Clock) -> None:
    backend = pool.backends[0]
    backend.lanes.rates.told(
        Quota(requests=Window(500, 499, 1.0), tokens=Window(9e5, 9e5, 1.0)), clock()
    )
    found = status_of(backend)
    assert found.requests_per_minute is not None
    assert (found.requests_per_minute.limit, found.requests_per_minute.source) == (500, "learned")
    assert found.tokens_per_minute is not None
    assert (found.tokens_per_minute.limit, found.tokens_per_minute.source) == (9e5, "learned")


async def test_a_backend_that_is_waited_for_says_why_and_for_how_long(
    pool: Pool, clock: Clock
) -> None:
    backend = pool.backends[0]
    backend.park(Park(90.0, "insufficient_quota", LineState()))
    clock.at += 30.0
    found = status_of(backend)
    assert (found.state, found.tries_again_in) == ("waiting", 60.0)
    assert found.note is not None
    assert "the quota is used up" in found.note
    backend.resume()
    assert status_of(backend).tries_again_in is None


async def test_a_backend_that_does_not_answer_is_gone(pool: Pool, clock: Clock) -> None:
    backend = pool.backends[0]
    for _ in range(10):
        took(pool, 0, "small").came_to(Failure(FailureKind.TIMEOUT), TAKEN)
    caller = backend.caller
    assert isinstance(caller, FakeCaller)
    caller.alive = False
    await backend.look()
    assert status_of(backend).state == "ok"
    clock.at += 5.0
    await backend.look()
    assert status_of(backend).state == "gone"


async def test_a_polite_backend_says_that_it_makes_way(pool: Pool, clock: Clock) -> None:
    backend = pool.backends[1]
    backend.listing.listed = [ListedModel("m")]
    assert status_of(backend).note is None
    assert backend.politeness is not None
    backend.politeness.seen(clock(), Load(running=4, waiting=2), 0)
    found = status_of(backend)
    assert (found.state, found.models) == ("ok", ["m"])
    assert found.note == "makes way for others' requests: at most 1 in flight"


async def test_attempts_are_counted_by_what_they_came_to(pool: Pool) -> None:
    for outcome in (OK, OK, Failure(FailureKind.TIMEOUT)):
        took(pool, 0, "small").came_to(outcome, TAKEN)
    counted: Mapping[str, int] = pool.backends[0].attempts
    assert counted == {"http_200": 2, "timeout": 1}
