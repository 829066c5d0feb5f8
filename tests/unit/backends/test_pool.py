"""Which backend takes a line: routes, loads, health, and changes of the pool while lines run."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from batchd.backends.backend import Backend
from batchd.backends.caller import Caller
from batchd.backends.lane import Slot
from batchd.backends.load import Load
from batchd.backends.models import ListedModel
from batchd.backends.pool import Pool, opened_pool
from batchd.config import BackendConfig
from batchd.errors import ConfigError
from batchd.model import Outcome, RequestLine
from batchd.retry import LineState, Park
from tests.support.fakes import OK, UNREACHABLE, Clock, FakeCaller, config_of, pool_of
from tests.support.waiting import until

LINE = RequestLine(0, "a", "m", b"{}")


def lists(*names: str) -> FakeCaller:
    server = FakeCaller()
    server.listed = [ListedModel(name) for name in names]
    return server


def mute() -> FakeCaller:
    """A server whose models cannot be asked for."""
    server = FakeCaller()
    server.listed = None
    return server


class Several:
    """A pool with its servers."""

    def __init__(self, servers: Mapping[str, FakeCaller], **settings: Mapping[str, Any]) -> None:
        self.clock = Clock(0)
        self.servers = servers
        self.pool = pool_of(servers, monotonic=self.clock)
        self.configs = [config_of(name, **settings.get(name, {})) for name in servers]

    async def open(self) -> None:
        await self.pool.replace(self.configs)
        await self.pool.models()

    def backend(self, name: str) -> Backend:
        return next(backend for backend in self.pool.backends if backend.name == name)

    def who(self, model: str = "m", avoid: str | None = None) -> str | None:
        lane = self.pool.lane(model, self.clock.at, avoid)
        return None if lane is None else lane.name

    def take(self, model: str = "m") -> Slot:
        lane = self.pool.lane(model, self.clock.at)
        assert lane is not None
        return lane.take(self.clock.at)

    def spread(self, count: int, model: str = "m") -> dict[str, int]:
        """To whom so many lines go."""
        for _ in range(count):
            self.take(model)
        return {backend.name: backend.in_flight for backend in self.pool.backends}


async def several(servers: Mapping[str, FakeCaller], **settings: Mapping[str, Any]) -> Several:
    it = Several(servers, **settings)
    await it.open()
    return it


def parked(delay: float = 60) -> Park:
    return Park(delay, "rate_limited", LineState())


# -- routes


async def test_a_line_goes_to_a_server_that_lists_its_model() -> None:
    it = await several({"a": lists("x"), "b": lists("m", "llama3:latest")})
    assert (it.who("m"), it.who("x"), it.who("llama3")) == ("b", "a", "b")


async def test_globs_of_the_configuration_count_as_listed() -> None:
    it = await several({"a": lists("m"), "b": lists("gpt-4")}, b={"models": ("gpt-*", "m")})
    assert it.who("gpt-4o") == "b"
    assert it.spread(4) == {"a": 2, "b": 2}


async def test_a_server_with_globs_alone_gets_nothing_else() -> None:
    it = await several({"a": lists("m")}, a={"models": ("gpt-*",)})
    assert it.who("m") is None
    assert it.pool.ready_at("m", 0) == math.inf
    assert it.pool.note(["m"]) == "waiting: no backend has the model 'm'"
    assert it.pool.note(["gpt-4"]) is None


async def test_where_nobody_lists_it_one_whose_list_is_not_known_may_have_it() -> None:
    it = await several({"a": lists("x"), "b": mute()})
    assert it.who("m") == "b"
    assert it.who("x") == "a"


async def test_where_nobody_has_it_those_that_take_any_get_it() -> None:
    """Some answer under any name."""
    it = await several({"a": lists("x"), "b": lists("y")}, b={"models": ("y",)})
    assert it.who("m") == "a"


async def test_a_server_that_cannot_be_asked_any_more_keeps_its_last_list() -> None:
    it = await several({"a": lists("m"), "b": lists("x")})
    it.servers["a"].listed = None
    it.clock.at += 60
    await it.pool.models()
    assert it.who("m") == "a"
    assert it.who("x") == "b"


async def test_a_list_that_changes_changes_the_route() -> None:
    it = await several({"a": lists("m"), "b": lists("x")})
    assert it.who("m") == "a"
    it.servers["a"].listed, it.servers["b"].listed = [ListedModel("x")], [ListedModel("m")]
    it.clock.at += 60
    assert it.who("m") == "a"
    await it.pool.known_models()
    assert it.who("m") == "b"


async def test_routes_of_models_that_clients_name_are_bounded() -> None:
    it = await several({"a": lists("m")})
    for number in range(5000):
        assert it.who(f"model-{number}") == "a"
    assert len(it.pool._routes) <= 1024  # pyright: ignore[reportPrivateUsage] - memory has no other face
    assert len(it.backend("a").lanes.by_model) <= 256


# -- loads


async def test_the_least_loaded_goes_first() -> None:
    it = await several({"a": lists("m"), "b": lists("m")}, a={"max_in_flight": 2})
    assert it.spread(3) == {"a": 1, "b": 2}
    assert it.spread(3) == {"a": 2, "b": 4}
    assert it.who() is None


async def test_a_weight_draws_more_lines() -> None:
    it = await several(
        {"a": lists("m"), "b": lists("m")},
        a={"max_in_flight": 100},
        b={"max_in_flight": 100, "weight": 3},
    )
    assert it.spread(40) == {"a": 10, "b": 30}


async def test_one_that_waits_is_passed_over_and_the_others_take_its_lines() -> None:
    it = await several({"a": lists("m"), "b": lists("m")})
    it.backend("a").park(parked(60))
    assert it.spread(4) == {"a": 0, "b": 4}
    assert it.who() is None
    assert it.pool.ready_at("m", 0) == 60
    it.clock.at = 60
    assert it.who() == "a"


async def test_one_that_is_suspect_is_passed_over() -> None:
    it = await several({"a": lists("m"), "b": lists("m")})
    it.servers["a"].alive = False
    for _ in range(10):
        it.backend("a").pulse.failed()
    await it.backend("a").look()
    assert it.spread(4) == {"a": 0, "b": 4}


async def test_a_line_that_failed_goes_to_another() -> None:
    it = await several({"a": lists("m"), "b": lists("m")})
    assert it.who() == "a"
    assert it.who(avoid="a") == "b"
    it.spread(8)
    assert it.who(avoid="a") is None


async def test_another_does_a_models_lines_only_while_it_is_well() -> None:
    it = await several({"a": lists("m", "x"), "b": lists("m")})
    assert it.pool.has_other("m", "a")
    assert not it.pool.has_other("x", "a")
    it.backend("b").park(parked(60))
    assert not it.pool.has_other("m", "a")
    it.clock.at = 60
    assert it.pool.has_other("m", "a")


async def test_a_server_that_answers_no_look_is_tried_with_a_line_that_no_other_takes() -> None:
    it = await several({"a": lists("m"), "b": lists("m")}, b={"max_in_flight": 1})
    a = it.backend("a")
    it.servers["a"].alive = False
    for _ in range(10):
        a.pulse.failed()
    for _ in range(4):
        it.clock.at += 8
        await a.look()
    assert it.who() == "b"
    it.take()
    assert it.who() == "a"
    it.take()
    assert it.who() is None


async def test_another_that_makes_way_for_others_altogether_does_no_lines() -> None:
    yields = {"polite": True, "polite_floor": 0, "polite_hold": 10}
    it = await several({"a": lists("m"), "b": lists("m")}, b=yields)
    politeness = it.backend("b").politeness
    assert politeness is not None
    politeness.seen(0, Load(running=1, waiting=1), 0)
    assert not it.pool.has_other("m", "a")
    it.clock.at = 10
    assert it.pool.has_other("m", "a")


async def test_a_model_waits_with_a_reason_only_if_all_its_servers_wait() -> None:
    it = await several({"a": lists("m", "x"), "b": lists("m")})
    it.backend("a").park(parked(60))
    assert it.pool.note(["m"]) is None
    note = it.pool.note(["m", "x"])
    assert note is not None
    assert "backend 'a'" in note
    assert it.pool.is_waiting


# -- what they have


async def test_all_that_is_listed_is_told_once() -> None:
    it = await several({"a": lists("m", "x"), "b": lists("m", "y"), "c": mute()})
    assert sorted(model.id for model in await it.pool.models()) == ["m", "x", "y"]


async def test_known_models_are_not_known_while_one_cannot_be_asked() -> None:
    it = await several({"a": lists("m"), "b": mute()}, b={"models": ("gpt-*",)})
    known = await it.pool.known_models()
    assert known is not None
    assert [name in known for name in ("m", "gpt-4", "x")] == [True, True, False]
    it.servers["a"].listed = None
    it.clock.at += 60
    assert await it.pool.known_models() is None


# -- changes of the pool


class Connections:
    """Opens callers, and knows which are open; a backend called "bad" cannot be opened."""

    def __init__(self) -> None:
        self.opened: list[FakeCaller] = []
        self.open: list[str] = []

    @contextlib.asynccontextmanager
    async def caller(self, config: BackendConfig) -> AsyncGenerator[Caller]:
        if config.name == "bad":
            raise ConfigError("backend bad: the api_key_file cannot be read")
        server = FakeCaller(open_gate=False)
        self.opened.append(server)
        self.open.append(config.name)
        try:
            yield server
        finally:
            self.open.remove(config.name)


class Changing:
    """A pool whose backends come and go."""

    def __init__(self, kept: Mapping[tuple[str, str, str], int] | None = None) -> None:
        self.connections = Connections()
        self.rings = 0
        self.pool = Pool(
            self.connections.caller,
            now=lambda: 0.0,
            monotonic=asyncio.get_running_loop().time,
            kept=kept or {},
            ceiling=64,
        )
        self.pool.listen(self._ring)

    def _ring(self) -> None:
        self.rings += 1

    @property
    def names(self) -> list[str]:
        return [backend.name for backend in self.pool.backends]

    async def replace(self, *names: str, **settings: Any) -> None:
        await self.pool.replace([config_of(name, **settings) for name in names])

    def take(self, name: str) -> Slot:
        backend = next(backend for backend in self.pool.backends if backend.name == name)
        return backend.lane("m").take(asyncio.get_running_loop().time())

    async def send(self, name: str) -> asyncio.Task[Outcome]:
        task = asyncio.create_task(self.take(name).send("/v1/chat/completions", LINE))
        await asyncio.sleep(0)
        return task

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncGenerator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.pool.watch(stop))
            try:
                yield
            finally:
                stop.set()


@pytest.fixture
async def changing(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Changing]:
    monkeypatch.setattr("batchd.backends.pool._TICK", 0.005)
    it = Changing()
    yield it
    await it.pool.aclose()
    assert it.connections.open == []


async def test_a_known_backend_keeps_all_it_has(changing: Changing) -> None:
    await changing.replace("a")
    backend = changing.pool.backends[0]
    slot = changing.take("a")
    backend.park(parked(60))
    lane, note = backend.lane("m"), backend.note
    await changing.replace("a", "b", max_in_flight=7)
    assert changing.pool.backends[0] is backend
    assert backend.lane("m") is lane
    assert (backend.in_flight, backend.note, lane.capacity.concurrency.limit) == (1, note, 7)
    assert backend.caller is changing.connections.opened[1]
    assert changing.names == ["a", "b"]
    slot.free()


async def test_another_address_is_another_backend(changing: Changing) -> None:
    await changing.replace("a")
    before = changing.pool.backends[0]
    await changing.replace("a", base_url="http://elsewhere/v1")
    assert changing.pool.backends[0] is not before


async def test_a_change_rings(changing: Changing) -> None:
    await changing.replace("a")
    assert changing.rings == 1


async def test_one_that_cannot_be_opened_changes_nothing(changing: Changing) -> None:
    await changing.replace("a")
    backend, config = changing.pool.backends[0], changing.pool.backends[0].config
    with pytest.raises(ConfigError, match="bad"):
        await changing.replace("a", "b", "bad", max_in_flight=9)
    assert changing.pool.backends == [backend]
    assert backend.config is config
    assert backend.caller is changing.connections.opened[0]
    assert changing.connections.open == ["a"]


async def test_one_that_leaves_gets_no_more_and_closes_once_it_is_quiet(
    changing: Changing,
) -> None:
    await changing.replace("a", "b")
    task = await changing.send("a")
    await changing.replace("b")
    async with changing.watched():
        lane = changing.pool.lane("m", asyncio.get_running_loop().time())
        assert lane is not None
        assert lane.name == "b"
        await until(lambda: sorted(changing.connections.open) == ["a", "b"])
        assert changing.pool.in_flight == 1
        changing.connections.opened[0].gate.set()
        assert await task is OK
        await until(lambda: changing.connections.open == ["b"])
    assert changing.pool.in_flight == 0


async def test_one_that_leaves_and_comes_back_is_the_same(changing: Changing) -> None:
    await changing.replace("a", "b")
    backend, slot = changing.pool.backends[0], changing.take("a")
    await changing.replace("b")
    await changing.replace("a", "b")
    assert changing.pool.backends[0] is backend
    assert changing.pool.in_flight == 1
    slot.free()


async def test_lines_in_flight_go_on_over_their_connections_and_those_close_after_them(
    changing: Changing,
) -> None:
    await changing.replace("a")
    task = await changing.send("a")
    async with changing.watched():
        for _ in range(5):
            await changing.replace("a")
        newer = await changing.send("a")
        changing.connections.opened[0].gate.set()
        assert await task is OK
        await until(lambda: changing.connections.open == ["a"])
        assert not newer.done()
        changing.connections.opened[-1].gate.set()
        assert await newer is OK


async def test_what_hangs_on_one_that_leaves_is_broken_off_when_it_is_gone(
    changing: Changing,
) -> None:
    await changing.replace("a", "b")
    backend, server = changing.pool.backends[0], changing.connections.opened[0]
    task = await changing.send("a")
    for _ in range(10):
        backend.pulse.failed()
    server.alive = False
    await changing.replace("b")
    async with changing.watched():
        async with asyncio.timeout(5):
            assert await task == UNREACHABLE
        await until(lambda: changing.connections.open == ["b"])


async def test_a_new_list_of_models_is_noticed_while_nothing_runs(changing: Changing) -> None:
    await changing.replace("a")
    before = changing.rings
    async with changing.watched():
        await until(lambda: changing.rings > before)
    assert changing.pool.backends[0].serves("m")
    assert not changing.pool.backends[0].serves("x")


async def test_a_server_that_does_not_answer_the_look_holds_no_stop_up(changing: Changing) -> None:
    await changing.replace("a")
    asked = asyncio.Event()

    async def never() -> list[ListedModel] | None:
        asked.set()
        return await asyncio.get_running_loop().create_future()

    changing.connections.opened[0].models = never
    async with asyncio.timeout(5), changing.watched():
        await asked.wait()


async def test_one_that_does_not_answer_the_look_keeps_nobody_else_from_being_looked_at(
    changing: Changing,
) -> None:
    await changing.replace("a", "b")

    async def never() -> list[ListedModel] | None:
        return await asyncio.get_running_loop().create_future()

    changing.connections.opened[0].models = never
    async with changing.watched():
        await until(lambda: changing.pool.backends[1].listed is not None)


async def test_an_opened_pool_is_closed_at_the_end() -> None:
    it = Changing()
    async with opened_pool(it.pool, [config_of("a")]) as pool:
        await pool.replace([config_of("a"), config_of("b")])
        assert it.connections.open == ["a", "a", "b"]
    assert it.connections.open == []


async def test_a_pool_that_cannot_be_opened_leaves_nothing_open() -> None:
    it = Changing()
    with pytest.raises(ConfigError):
        async with opened_pool(it.pool, [config_of("a"), config_of("bad")]):
            pass
    assert it.connections.open == []


# -- limits that were found


async def test_a_limit_that_was_kept_is_where_measuring_begins() -> None:
    it = Changing({("a", "http://a/v1", "m"): 37, ("a", "http://other/v1", "m"): 9})
    await it.replace("a", "b", max_in_flight="auto")
    lanes = [backend.lane("m") for backend in it.pool.backends]
    assert lanes[0].capacity.concurrency.limit == 37
    assert lanes[1].capacity.concurrency.limit != 37
    await it.pool.aclose()


class Settled:
    """A limit that measuring has come to."""

    limit = 23
    reason = "steady"
    throughput = 1.0
    is_settled = True
    to_keep = 23

    def sent(self, now: float, in_flight: int) -> None: ...
    def answered(self, now: float, took: float, in_flight: int) -> None: ...
    def overloaded(self, now: float, in_flight: int, *, refused: bool = False) -> None: ...
    def queued(self, now: float, waiting: int) -> None: ...


async def test_limits_that_were_found_are_told_and_begun_with_when_one_comes_back() -> None:
    it = Changing()
    await it.replace("a", max_in_flight="auto")
    lane = it.pool.backends[0].lane("m")
    assert it.pool.found_limits() == {}
    lane.capacity.concurrency = Settled()
    assert it.pool.found_limits() == {("a", "http://a/v1", "m"): 23}
    await it.replace("a")  # a number now: nothing is found any more, and nothing is lost
    assert it.pool.found_limits() == {}
    await it.replace("a", max_in_flight="auto")
    assert it.pool.backends[0].lane("m").capacity.concurrency.limit == 23
    it.pool.backends[0].lane("m").capacity.concurrency = Settled()
    await it.replace("b")
    async with it.watched():
        await until(lambda: it.connections.open == ["b"])
    await it.replace("a", "b", max_in_flight="auto")
    assert it.pool.backends[0].lane("m").capacity.concurrency.limit == 23
    await it.pool.aclose()
