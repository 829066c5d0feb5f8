"""One backend: when it is waited for and why, whether it lives, what it has. In virtual time."""

import asyncio
import math
from typing import Any

import pytest

from batchd.backends.backend import Backend
from batchd.backends.concurrency import Fixed
from batchd.backends.lane import Slot
from batchd.backends.load import Load
from batchd.backends.models import ListedModel
from batchd.backends.pool import Pool
from batchd.config import ModelLimits
from batchd.model import Outcome, Reply, RequestLine
from batchd.retry import LineState, Park, Policy, decide
from tests.support.fakes import (
    BUSY,
    OK,
    REFUSED,
    TIMED_OUT,
    UNREACHABLE,
    Clock,
    FakeCaller,
    config_of,
    pool_of,
)

LINE = RequestLine(0, "a", "m", b"{}")
POLICY = Policy(refused_pause=300, quota_pause=3600)


class One:
    """A backend in a pool of its own; ``rings`` counts what the pool was told."""

    def __init__(self, clock: Clock, server: FakeCaller, pool: Pool) -> None:
        self.clock = clock
        self.server = server
        self.pool = pool
        self.rings = 0
        pool.listen(self._ring)

    def _ring(self) -> None:
        self.rings += 1

    @property
    def backend(self) -> Backend:
        return self.pool.backends[0]

    def may_go(self, model: str = "m") -> bool:
        return self.backend.lane(model).ready_at(self.clock.at) <= self.clock.at

    def take(self, model: str = "m") -> Slot:
        assert self.may_go(model)
        return self.backend.lane(model).take(self.clock.at)

    def tell(self, slot: Slot, outcome: Outcome) -> None:
        slot.free()
        slot.came_to(outcome, decide(outcome, LineState(), slot.standing, POLICY, jitter=0))
        slot.settle()

    def go(self, outcome: Outcome) -> None:
        """Send a line that comes to this."""
        self.tell(self.take(), outcome)

    async def send(self, slot: Slot) -> Outcome:
        """A whole attempt."""
        outcome = await slot.send("/v1/chat/completions", LINE)
        self.tell(slot, outcome)
        return outcome

    async def hang(self) -> asyncio.Task[Outcome]:
        """A request that the server keeps."""
        task = asyncio.create_task(self.send(self.take()))
        await asyncio.sleep(0)
        return task


async def opened(script: dict[str, list[Outcome]] | None = None, **settings: Any) -> One:
    clock, server = Clock(1000), FakeCaller(script, open_gate=False)
    pool = pool_of({"gpu": server}, monotonic=clock)
    await pool.replace([config_of("gpu", **settings)])
    return One(clock, server, pool)


@pytest.fixture
async def it() -> One:
    return await opened()


def park(reason: str, delay: float = 60) -> Park:
    return Park(delay, reason, LineState())


def refusal(status: int, code: str | None = None, hint: float | None = None) -> Reply:
    return Reply(status_code=status, request_id="r", body=b"{}", error_code=code, hint=hint)


# -- why it is waited for


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("unreachable", "cannot be reached"),
        ("rate_limited", "asks to wait (429)"),
        ("insufficient_quota", "quota is used up"),
        ("refused_401", "refuses its API key"),
        ("refused_403", "refuses access (403)"),
    ],
)
async def test_a_park_is_said_once_in_words(
    it: One, reason: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    earlier = [it.take() for _ in range(2)]
    backend = it.backend
    assert backend.note is None
    for _ in range(3):
        backend.park(park(reason))
    note = backend.note
    it.tell(earlier[0], OK)
    assert backend.note == note
    it.clock.at += 60
    it.go(OK)
    it.tell(earlier[1], OK)
    assert backend.note is None
    assert note is not None
    assert said in note
    assert note.startswith("waiting since 2027-01-15 08:00:00 UTC: backend 'gpu' at http://gpu/v1 ")
    told = [record.message for record in caplog.records if record.name.startswith("batchd")]
    assert told == ["backend_parked", "backend_back"]


@pytest.mark.parametrize(
    ("outcome", "seconds"),
    [
        (UNREACHABLE, 0.5),
        (refusal(429, hint=17), 17),
        (refusal(401), 300),
        (refusal(403), 300),
        (refusal(429, "insufficient_quota", hint=1), 3600),
    ],
)
async def test_what_parks_it_holds_its_lines_for_that_time(
    it: One, outcome: Outcome, seconds: float
) -> None:
    it.go(outcome)
    assert it.backend.lane("m").ready_at(it.clock.at) == it.clock.at + seconds
    assert not it.backend.is_well(it.clock.at)
    it.clock.at += seconds
    assert it.may_go()
    assert it.backend.is_well(it.clock.at)


async def test_after_a_park_one_goes_first_and_the_others_once_it_was_answered(it: One) -> None:
    it.go(UNREACHABLE)
    it.clock.at += 1
    probe = it.take()
    assert not it.may_go()
    assert it.backend.lane("other").ready_at(it.clock.at) == math.inf
    it.tell(probe, REFUSED)  # an answer all the same
    assert [it.may_go() and it.take() is not None for _ in range(3)] == [True] * 3


async def test_the_first_one_parks_it_again_if_it_comes_to_that(it: One) -> None:
    it.go(UNREACHABLE)
    it.clock.at += 1
    it.go(UNREACHABLE)
    assert it.backend.lane("m").ready_at(it.clock.at) == it.clock.at + 1
    it.clock.at += 1
    it.take()
    assert not it.may_go()


async def test_a_fault_of_the_first_one_lets_the_next_be_the_first(it: One) -> None:
    it.go(UNREACHABLE)
    it.clock.at += 1
    it.go(TIMED_OUT)
    it.take()
    assert not it.may_go()


@pytest.mark.parametrize("how", ["put back", "cancelled"])
async def test_a_first_one_that_never_comes_back_makes_room_for_another(it: One, how: str) -> None:
    it.go(UNREACHABLE)
    it.clock.at += 1
    if how == "put back":
        it.take().put_back()
    else:
        task = await it.hang()
        assert not it.may_go()
        task.cancel()
        await asyncio.wait([task])
    probe = it.take()
    assert not it.may_go()
    it.tell(probe, OK)
    assert it.may_go()


async def test_a_first_one_of_an_earlier_park_is_not_waited_for(it: One) -> None:
    earlier = it.take()
    it.go(UNREACHABLE)
    it.clock.at += 1
    slow = it.take()
    it.tell(earlier, OK)
    it.go(refusal(429, hint=5))
    it.clock.at += 5
    probe = it.take()
    assert not it.may_go()
    slow.free()  # makes no room for a second one
    assert not it.may_go()
    it.tell(probe, OK)
    assert it.may_go()


async def test_an_answer_from_before_a_refusal_does_not_hide_it(it: One) -> None:
    earlier = it.take()
    it.go(refusal(401))
    it.tell(earlier, OK)
    it.server.has_new_key = True
    await it.backend.look()
    assert it.may_go()


async def test_an_outage_does_not_hide_a_refused_key(it: One) -> None:
    earlier = it.take()
    it.go(refusal(401))
    it.tell(earlier, UNREACHABLE)
    assert it.backend.note is not None
    assert "refuses its API key" in it.backend.note
    it.server.has_new_key = True
    await it.backend.look()
    assert it.may_go()


@pytest.mark.parametrize("status", [401, 403])
async def test_with_a_refused_key_another_one_is_looked_for(it: One, status: int) -> None:
    it.go(refusal(status))
    await it.backend.look()
    assert not it.may_go()
    it.server.has_new_key = True
    before = it.rings
    await it.backend.look()
    assert it.rings == before + 1
    probe = it.take()
    assert not it.may_go()
    it.tell(probe, OK)
    assert it.backend.note is None


async def test_a_used_up_quota_waits_until_somebody_says_that_it_is_not(it: One) -> None:
    it.go(refusal(429, "insufficient_quota"))
    it.clock.at += 3599
    await it.backend.look()
    assert not it.may_go()
    before = it.rings
    it.backend.resume()
    assert it.rings == before + 1
    probe = it.take()
    assert not it.may_go()
    it.tell(probe, refusal(429, "insufficient_quota"))
    assert it.backend.lane("m").ready_at(it.clock.at) == it.clock.at + 3600


async def test_a_resume_of_one_that_is_well_changes_nothing(it: One) -> None:
    it.backend.resume()
    assert [it.take() is not None for _ in range(4)] == [True] * 4
    assert it.backend.note is None


# -- whether it lives


async def test_a_silent_server_that_answers_a_look_goes_on(it: One) -> None:
    it.go(OK)
    hanging = await it.hang()
    it.clock.at += 3.1
    await it.backend.look()
    assert it.may_go()
    it.server.gate.set()
    assert await hanging is OK


async def test_a_silent_server_that_answers_no_look_is_gone_and_what_hangs_on_it_is_broken_off(
    it: One,
) -> None:
    it.go(OK)
    hanging = [await it.hang(), await it.hang()]
    it.server.alive = False
    it.clock.at += 3.1
    await it.backend.look()
    assert not it.may_go()
    assert not it.backend.is_well(it.clock.at)
    assert it.backend.note is None
    it.clock.at += 1
    await it.backend.look()
    assert it.backend.pulse.is_gone
    assert it.backend.note is not None
    assert "does not answer; it is asked again every few seconds" in it.backend.note
    assert await asyncio.gather(*hanging) == [UNREACHABLE, UNREACHABLE]
    assert "does not answer" in it.backend.note
    assert it.backend.in_flight == 0


async def test_a_server_that_returns_gets_one_request_first(it: One) -> None:
    it.go(OK)
    hanging = await it.hang()
    it.server.alive = False
    it.clock.at += 4
    await it.backend.look()
    it.clock.at += 1
    await it.backend.look()
    assert await hanging == UNREACHABLE
    it.clock.at += 8
    await it.backend.look()
    assert not it.may_go()
    it.server.alive = True
    it.clock.at += 8
    before = it.rings
    await it.backend.look()
    assert it.rings == before + 1
    assert it.backend.note is not None
    probe = it.take()
    assert not it.may_go()
    it.tell(probe, OK)
    assert it.may_go()
    assert it.backend.note is None


async def test_being_gone_is_said_even_where_it_is_parked_for_longer(it: One) -> None:
    it.go(OK)
    hanging = await it.hang()
    it.go(refusal(429, hint=200))
    it.server.alive = False
    it.clock.at += 4
    await it.backend.look()
    it.clock.at += 1
    await it.backend.look()
    assert await hanging == UNREACHABLE
    assert it.backend.note is not None
    assert "does not answer" in it.backend.note
    it.server.alive = True
    it.clock.at += 8
    await it.backend.look()
    assert it.backend.lane("m").ready_at(it.clock.at) == 1200  # the hint is obeyed all the same


async def test_ten_faults_in_a_row_ask_for_a_look(it: One) -> None:
    it.server.alive = False
    for _ in range(9):
        it.go(BUSY)
    await it.backend.look()
    assert it.may_go()
    it.go(TIMED_OUT)
    await it.backend.look()
    assert not it.may_go()
    it.server.alive = True
    it.clock.at += 1
    await it.backend.look()
    assert it.may_go()


async def test_an_answer_while_it_is_looked_at_counts_for_more(it: One) -> None:
    it.go(OK)
    slow = it.take()
    await it.hang()
    it.clock.at += 10

    async def look_in_vain() -> bool:
        it.tell(slow, OK)
        return False

    it.server.is_alive = look_in_vain
    await it.backend.look()
    assert it.may_go()


async def test_a_gone_server_that_still_answers_a_line_is_well(it: One) -> None:
    it.go(OK)
    slow = it.take()
    await it.hang()
    it.server.alive = False
    it.clock.at += 10
    await it.backend.look()
    it.tell(slow, OK)
    assert it.may_go()


@pytest.mark.parametrize("in_flight", [False, True])
async def test_one_whose_lines_all_went_elsewhere_is_found_to_be_back(
    it: One, in_flight: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    it.go(OK)
    if in_flight:
        it.take()  # then that one will tell
    it.go(UNREACHABLE)
    it.server.alive = False
    await it.backend.look()
    assert it.backend.note is not None
    it.server.alive = True
    before = it.rings
    await it.backend.look()
    assert (it.backend.note is None) is not in_flight
    assert it.rings == before + (not in_flight)
    assert ("backend_back" in caplog.messages) is not in_flight
    it.clock.at += 1
    probe = it.take()
    assert not it.may_go()
    it.tell(probe, UNREACHABLE)
    assert it.backend.note is not None


async def test_a_wait_that_was_asked_for_is_over_when_its_time_is(it: One) -> None:
    it.go(refusal(429, hint=10))
    it.clock.at += 9.9
    await it.backend.look()
    assert it.backend.note is not None
    it.clock.at += 0.1
    await it.backend.look()
    assert it.backend.note is None
    it.take()
    assert not it.may_go()


@pytest.mark.parametrize("outcome", [refusal(401), refusal(429, "insufficient_quota")])
async def test_what_people_have_to_see_to_stays_said(it: One, outcome: Outcome) -> None:
    it.go(outcome)
    it.clock.at += 10_000
    await it.backend.look()
    assert it.backend.note is not None


async def gone(it: One) -> None:
    """It hung, and has answered no look since."""
    it.go(OK)
    hanging = await it.hang()
    it.server.alive = False
    it.clock.at += 3.1
    for wait in (1, 1):
        await it.backend.look()
        it.clock.at += wait
    assert await hanging == UNREACHABLE
    assert it.backend.pulse.is_gone


async def looks_in_vain(it: One, count: int) -> None:
    for _ in range(count):
        await it.backend.look()
        it.clock.at += 8


async def test_a_resume_tries_a_server_that_answers_lines_and_no_looks(it: One) -> None:
    await gone(it)
    before = it.rings
    it.backend.resume()
    assert it.rings == before + 1
    assert not it.backend.pulse.is_gone
    probe = it.take()
    assert not it.may_go()
    it.tell(probe, OK)
    assert it.may_go()
    assert it.backend.note is None


async def test_after_several_looks_in_vain_one_line_goes_and_can_prove_that_it_lives(
    it: One,
) -> None:
    await gone(it)
    await looks_in_vain(it, 1)
    assert not it.may_go()
    before = it.rings
    await looks_in_vain(it, 1)
    assert it.rings == before + 1
    it.server.gate.set()
    trial = it.take()
    assert not it.may_go()
    assert trial.may_still_go(it.clock.at)
    assert await it.send(trial) is OK
    assert not it.backend.pulse.is_suspect
    assert it.backend.note is None
    assert it.may_go()


@pytest.mark.parametrize("outcome", [BUSY, TIMED_OUT, UNREACHABLE, refusal(502)])
async def test_a_line_that_finds_it_gone_pays_nothing_for_it(outcome: Outcome) -> None:
    it = await opened({"a": [outcome]})
    await gone(it)
    await looks_in_vain(it, 2)
    it.server.gate.set()
    trial = it.take()
    assert await it.send(trial) == UNREACHABLE
    assert it.backend.pulse.is_gone
    assert it.backend.note is not None
    assert not it.may_go()
    await it.backend.look()
    assert it.may_go()  # the next one


@pytest.mark.parametrize("outcome", [refusal(429, hint=5), refusal(401), refusal(400)])
async def test_a_refusal_of_a_line_proves_that_it_lives(it: One, outcome: Outcome) -> None:
    await gone(it)
    await looks_in_vain(it, 2)
    it.go(outcome)
    assert not it.backend.pulse.is_suspect
    it.clock.at += 300
    assert it.may_go()


async def test_a_line_that_hangs_on_a_gone_server_is_broken_off_in_the_end(it: One) -> None:
    await gone(it)
    await looks_in_vain(it, 2)
    hanging = await it.hang()
    await looks_in_vain(it, 1)  # a good answer may take as long
    assert not hanging.done()
    await looks_in_vain(it, 2)
    assert await hanging == UNREACHABLE
    assert it.may_go()


async def test_a_line_that_hangs_is_broken_off_when_its_server_is_back(it: One) -> None:
    await gone(it)
    await looks_in_vain(it, 2)
    hanging = await it.hang()
    it.server.alive = True
    await it.backend.look()
    probe = it.take()
    assert not it.may_go()
    assert await hanging == UNREACHABLE
    it.tell(probe, OK)
    assert it.may_go()
    assert it.backend.note is None


async def test_a_line_put_back_leaves_it_to_the_next_look(it: One) -> None:
    await gone(it)
    await looks_in_vain(it, 2)
    it.take().put_back()
    assert not it.may_go()
    await it.backend.look()
    assert it.may_go()


# -- what it has


async def test_models_are_asked_for_every_half_minute(it: One) -> None:
    async def listed() -> list[str] | None:
        found = await it.backend.listing.models()
        return None if found is None else [model.id for model in found]

    it.server.listed = [ListedModel("a")]
    assert await listed() == ["a"]
    it.server.listed = [ListedModel("a"), ListedModel("b")]
    assert await listed() == ["a"]
    it.clock.at += 30
    assert await listed() == ["a", "b"]
    it.clock.at += 30
    it.server.listed = None
    assert await listed() is None
    it.server.listed = [ListedModel("c")]
    assert await listed() is None
    assert it.backend.serves("b")  # the last that is known
    it.clock.at += 5
    assert await listed() == ["c"]
    assert not it.backend.serves("b")


@pytest.mark.parametrize("listed", [None, []])
async def test_a_server_that_lists_nothing_knows_nothing(
    it: One, listed: list[ListedModel] | None
) -> None:
    it.server.listed = listed
    assert await it.backend.listing.known_models() is None
    assert it.backend.serves("m") is None


async def test_known_models_are_those_listed_and_the_globs() -> None:
    it = await opened(models=("*", "gpt-*"))
    it.server.listed = [ListedModel("llama3:latest")]
    known = await it.backend.listing.known_models()
    assert known is not None
    names = ("llama3:latest", "llama3", "gpt-4", "other")
    assert [name in known for name in names] == [True, True, True, False]
    assert [it.backend.serves(name) for name in names] == [True, True, True, False]


async def test_with_globs_alone_the_server_is_not_asked() -> None:
    it = await opened(models=("gpt-*",))
    it.server.listed = None
    known = await it.backend.listing.known_models()
    assert known is not None
    assert "gpt-4" in known
    assert (it.backend.serves("gpt-4"), it.backend.serves("m")) == (True, False)


# -- its lanes


async def test_lanes_of_models_that_clients_name_are_let_go(it: One) -> None:
    busy = it.take("busy")
    unsettled = it.take("unsettled")
    unsettled.free()
    for number in range(2000):
        it.backend.lane(f"model-{number}")
    assert len(it.backend.lanes.by_model) <= 256
    assert it.backend.lanes.by_model["busy"] is busy.lane
    assert it.backend.lanes.by_model["unsettled"] is unsettled.lane


async def test_where_others_are_on_the_server_it_makes_way() -> None:
    it = await opened(polite=True, polite_floor=1, polite_hold=10)
    it.take()
    politeness = it.backend.politeness
    assert politeness is not None
    politeness.seen(it.clock.at, Load(running=1, waiting=3), 1)
    assert not it.may_go()
    it.clock.at += 10
    assert it.may_go()


async def test_a_changed_configuration_does_not_forget_the_others_on_its_server() -> None:
    polite: dict[str, Any] = {"polite": True, "polite_floor": 1, "polite_hold": 10}
    it = await opened(**polite)
    it.take()
    politeness = it.backend.politeness
    assert politeness is not None
    politeness.seen(it.clock.at, Load(running=1, waiting=3), 1)
    await it.pool.replace([config_of("gpu", **polite, weight=2)])
    assert not it.may_go()
    await it.pool.replace([config_of("gpu", **polite | {"polite_floor": 2})])
    assert it.may_go()
    elsewhere = polite | {"load_url": "http://127.0.0.1:9/metrics"}
    await it.pool.replace([config_of("gpu", **elsewhere)])
    assert it.backend.politeness is not politeness  # the old places told nothing of it
    await it.pool.replace([config_of("gpu")])
    assert it.backend.politeness is None


class Heard(Fixed):
    """A limit that writes down how many wait on the server, as it was told."""

    def __init__(self) -> None:
        super().__init__(8)
        self.waiting: list[int] = []

    def queued(self, now: float, waiting: int) -> None:
        del now
        self.waiting.append(waiting)


METRICS = "text/plain", b"llamacpp:requests_processing 1\nllamacpp:requests_deferred 3\n"
SLOTS = "application/json", b'[{"is_processing":true}]'


@pytest.mark.parametrize(
    ("page", "heard"), [(METRICS, [3]), (SLOTS, []), (("text/plain", METRICS[1][:31]), [])]
)
async def test_the_limit_hears_of_a_queue_only_where_the_server_tells_of_it(
    page: tuple[str, bytes], heard: list[int]
) -> None:
    it = await opened(load_url="http://gpu/load", max_in_flight="auto")
    it.take().lane.capacity.concurrency = limit = Heard()
    told = asyncio.Event()

    async def fetch(url: str) -> tuple[str, bytes]:
        assert url == "http://gpu/load"
        return page

    it.server.fetch = fetch
    it.pool.listen(told.set)
    async with asyncio.TaskGroup() as tasks:
        it.backend.watch_load(tasks)
        await told.wait()
        it.backend.leave_load()
    assert it.backend.load is not None
    assert limit.waiting == heard


async def test_a_changed_limit_counts_what_is_in_flight() -> None:
    """From a number to another, to a measured one and back: no slot is forgotten or given twice."""
    it = await opened(max_in_flight=4)
    slots = [it.take("m"), it.take("m"), it.take("n")]
    slots[2].free()
    backend = it.backend
    for limit in (3, "auto", 3, 8, "auto"):
        await it.pool.replace([config_of("gpu", max_in_flight=limit)])
        assert it.backend is backend
        counts = [
            (lane.in_flight, lane.capacity.in_flight, lane.capacity.unsettled)
            for lane in backend.lanes.by_model.values()
        ]
        assert counts == ([(2, 2, 2), (0, 0, 1)] if limit == "auto" else [(2, 2, 3), (0, 2, 3)])
    await it.pool.replace([config_of("gpu", max_in_flight=2)])
    assert not it.may_go()
    for slot in slots:
        slot.free()
        slot.settle()
    capacity = backend.lane("m").capacity
    assert (backend.in_flight, capacity.in_flight, capacity.unsettled) == (0, 0, 0)


async def test_changed_rates_take_effect_and_unchanged_ones_remember() -> None:
    limits = (ModelLimits(models=("m",), requests_per_minute=2),)
    it = await opened(requests_per_minute=6, limits=limits)
    it.take("m").free()
    waits = it.backend.lane("m").ready_at(it.clock.at)
    assert waits > it.clock.at + 20
    await it.pool.replace([config_of("gpu", requests_per_minute=6, limits=limits)])
    assert it.backend.lane("m").ready_at(it.clock.at) == waits
    assert not it.may_go("n")
    await it.pool.replace([config_of("gpu")])
    assert it.may_go("m")


async def test_a_changed_configuration_tries_a_refused_key_at_once(it: One) -> None:
    it.go(refusal(401))
    await it.pool.replace([config_of("gpu")])
    it.take()
    assert not it.may_go()


async def test_a_changed_configuration_does_not_shorten_a_wait_that_was_asked_for(it: One) -> None:
    it.go(refusal(429, hint=100))
    await it.pool.replace([config_of("gpu", weight=3)])
    assert it.backend.lane("m").ready_at(it.clock.at) == it.clock.at + 100
    assert it.backend.weight == 3
