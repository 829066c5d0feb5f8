"""A server's load as it tells it, and how batchd makes way for guests on that server."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.backends import load as module
from batchd.backends.load import Fetch, Load, LoadWatch, Politeness, load_urls, parse_load
from tests.support.waiting import until

TEXT = "text/plain; version=0.0.4"
METRICS, SLOTS = "http://h/metrics", "http://h/slots"

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a} b"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a} b"} 1.0
vllm:num_requests_waiting{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
"""
LLAMA = b"""\
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 4
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 60
llamacpp:n_busy_slots_per_decode 3.9
"""
SGLANG = b"""\
sglang:num_running_reqs{model_name="m"} 7.0 1700000000000\r
sglang:num_queue_reqs{model_name="m"} 1e1\r
"""


@pytest.mark.parametrize(
    ("body", "load"),
    [
        (VLLM, Load(5, 5)),
        (LLAMA, Load(4, 60)),
        (SGLANG, Load(7, 10)),
        (b"llamacpp:requests_processing 1", Load(1, 0, tells_waiting=False)),
        (b"llamacpp:requests_deferred 0", Load(0, 0)),
        (b"llamacpp:requests_processing NaN\n", None),
        (b"llamacpp:requests_processing +Inf\n", None),
        (b"llamacpp:requests_processing -1\n", None),
        (b"llamacpp:requests_processing many\n", None),
        (b"llamacpp:requests_processing\n", None),
        (b"process_cpu_seconds_total 12\n", None),
        (b"# llamacpp:requests_processing 1\n", None),
        (b"<html>llamacpp:requests_processing 1</html>", None),
        (b"", None),
    ],
)
def test_the_load_is_read_from_a_servers_metrics(body: bytes, load: Load | None) -> None:
    assert parse_load(TEXT, body) == load


@pytest.mark.parametrize(
    ("body", "load"),
    [
        (
            b'[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]',
            Load(1, 0, places=2, tells_waiting=False),
        ),
        (b'[{"id":0}]', None),
        (b'[{"is_processing":"yes"}]', None),
        (b'{"error":{"code":501}}', None),
        (b"[]", None),
        (b"[" * 100_000, None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_the_load_is_read_from_llamas_slots(body: bytes, load: Load | None) -> None:
    assert parse_load("application/json; charset=utf-8", body) == load


@given(st.sampled_from([TEXT, "application/json", ""]), st.binary(max_size=300))
def test_no_body_is_more_than_can_be_read(content_type: str, body: bytes) -> None:
    for name in (b"", b"\nvllm:num_requests_running "):
        parse_load(content_type, body + name + body)


@pytest.mark.parametrize("base", ["http://h/llm/v1", "http://h/llm/v1/", "http://h/llm"])
def test_a_server_is_asked_beside_its_api(base: str) -> None:
    assert load_urls(base, "auto") == ["http://h/llm/metrics", "http://h/llm/slots"]


def test_a_configured_url_is_the_only_one() -> None:
    assert load_urls("http://h/v1", "http://x:1/load") == ["http://x:1/load"]


def polite(floor: int = 1, hold: float = 10) -> Politeness:
    return Politeness(floor=floor, hold=hold)


def test_our_own_requests_make_us_yield_to_nobody() -> None:
    it = polite()
    for now in range(20):
        it.seen(now, Load(4, 4), ours=8)
        assert it.bound(now) is None
        assert it.note(now) is None


def test_a_guest_that_waits_is_believed_at_once() -> None:
    it = polite(floor=2)
    it.seen(0, Load(4, 1), ours=4)
    assert it.bound(0) == 2
    assert it.note(0) == "makes way for others' requests: at most 2 in flight"


def test_a_guest_that_runs_is_believed_at_the_second_look_in_a_row() -> None:
    it = polite()
    for now, running in enumerate([3, 2, 3]):
        it.seen(now, Load(running, 0), ours=2)
        assert it.bound(now) is None
    it.seen(3, Load(3, 0), ours=2)
    assert it.bound(3) == 1


def test_a_request_of_ours_that_ended_since_the_last_look_is_no_guest() -> None:
    it = polite()
    it.seen(0, Load(4, 2), ours=6)
    it.seen(1, Load(4, 2), ours=5)  # the server still counts it
    assert it.bound(1) is None


def test_way_is_made_for_as_long_as_guests_are_seen_and_the_hold_after() -> None:
    it = polite(floor=0, hold=10)
    it.seen(0, Load(0, 1), ours=0)
    it.seen(5, Load(0, 0), ours=0)
    it.seen(9, Load(1, 0), ours=0)  # one look is enough now
    assert it.bound(18.9) == 0
    assert it.bound(19) is None


def test_where_the_waiting_are_not_told_one_place_is_left_free() -> None:
    it = polite()
    it.seen(0, Load(3, 0, places=4), ours=3)
    assert it.bound(0) == 3
    it.seen(1, Load(4, 0, places=4), ours=3)
    it.seen(2, Load(4, 0, places=4), ours=3)
    assert it.bound(2) == 1
    alone = polite(floor=0)
    alone.seen(0, Load(0, 0, places=1), ours=0)
    assert alone.bound(0) == 1


class Server:
    """Answers from a table that a test changes; ``watching`` runs a watch on it."""

    def __init__(self, *, is_polite: bool = True) -> None:
        self.answers: dict[str, tuple[str, bytes] | Exception | None] = {}
        self.asked: list[str] = []
        self.told: list[Load] = []
        self.in_flight = 0
        self.has_work = True
        self.hangs = False
        self.politeness = polite(floor=0) if is_polite else None

    async def fetch(self, url: str) -> tuple[str, bytes] | None:
        self.asked.append(url)
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.answers.get(url, ("", b""))
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextlib.asynccontextmanager
    async def watching(self, fetch: Fetch | None = None) -> AsyncGenerator[None]:
        watch = LoadWatch(
            "b",
            load_urls("http://h/v1", "auto"),
            fetch or self.fetch,
            politeness=self.politeness,
            ours=lambda: self.in_flight,
            has_work=lambda: self.has_work,
            told=self.told.append,
        )
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(watch.run())
            yield
            looking.cancel()

    async def is_asked(self, times: int) -> None:
        """Wait until it was asked so often from now on."""
        before = len(self.asked)
        await until(lambda: len(self.asked) >= before + times)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_EVERY", "LOOK_EVERY_YIELDING", "LOOK_EVERY_IDLE", "ASK_AGAIN"):
        monkeypatch.setattr(module, name, 0.001)


async def test_the_place_that_tells_is_found_and_kept() -> None:
    server = Server()
    server.answers[SLOTS] = "application/json", b'[{"is_processing":true}]'
    async with server.watching():
        await server.is_asked(5)
    assert server.asked[:2] == [METRICS, SLOTS]
    assert set(server.asked[2:]) == {SLOTS}
    assert server.told[0] == Load(1, 0, places=1, tells_waiting=False)


async def test_a_server_that_no_longer_tells_there_is_asked_everywhere_again() -> None:
    server = Server()
    server.answers[SLOTS] = "application/json", b'[{"is_processing":true}]'
    async with server.watching():
        await until(lambda: bool(server.told))
        server.answers = {METRICS: (TEXT, LLAMA)}
        await until(lambda: Load(4, 60) in server.told)


async def test_a_server_that_is_down_is_not_said_to_tell_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN", 60)
    server = Server()
    server.answers[METRICS] = None
    async with server.watching():
        await server.is_asked(3)
        server.answers[METRICS] = TEXT, LLAMA
        await until(lambda: bool(server.told))
    assert set(server.asked) == {METRICS}
    assert caplog.messages == []


async def test_a_server_that_tells_nothing_is_said_once_until_it_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    async with server.watching():
        await server.is_asked(6)
        assert caplog.messages == ["load_not_told"]
        server.answers[METRICS] = TEXT, LLAMA
        await until(lambda: bool(server.told))
        server.answers.clear()
        await until(lambda: len(caplog.messages) == 2)
    assert caplog.messages == ["load_not_told"] * 2
    assert [vars(record)["backend"] for record in caplog.records] == ["b", "b"]


async def test_a_server_that_tells_nothing_is_seldom_asked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN", 3600)
    server = Server()
    async with server.watching():
        await until(lambda: caplog.messages == ["load_not_told"])
    assert server.asked == [METRICS, SLOTS]


async def test_a_guest_makes_us_yield_and_a_server_that_is_idle_does_not() -> None:
    server = Server()
    server.answers[METRICS] = TEXT, LLAMA
    server.in_flight = 64
    now = asyncio.get_running_loop().time
    assert server.politeness is not None
    async with server.watching():
        await server.is_asked(3)
        assert server.politeness.bound(now()) is None
        server.answers[METRICS] = TEXT, LLAMA.replace(b"60", b"61")
        await until(lambda: server.politeness is not None and server.politeness.bound(now()) == 0)


@pytest.mark.parametrize(
    ("is_polite", "has_work", "pace"),
    [
        (True, True, "LOOK_EVERY"),
        (True, False, "LOOK_EVERY_IDLE"),
        (False, True, "LOOK_EVERY_IDLE"),
    ],
)
async def test_looks_are_frequent_only_while_it_matters(
    monkeypatch: pytest.MonkeyPatch, *, is_polite: bool, has_work: bool, pace: str
) -> None:
    for name in {"LOOK_EVERY", "LOOK_EVERY_YIELDING", "LOOK_EVERY_IDLE"} - {pace}:
        monkeypatch.setattr(module, name, 3600)
    server = Server(is_polite=is_polite)
    server.has_work = has_work
    server.answers[METRICS] = TEXT, b"llamacpp:requests_processing 0\n"
    async with server.watching():
        await server.is_asked(4)


async def test_looks_are_most_frequent_while_we_yield(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 3600)
    server = Server()
    server.answers[METRICS] = TEXT, LLAMA
    async with server.watching():
        await server.is_asked(4)


async def test_a_server_that_hangs_is_given_up_and_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_FETCH_TIMEOUT", 0.005)
    server = Server()
    server.hangs = True
    async with server.watching():
        await server.is_asked(2)
        server.hangs = False
        server.answers[METRICS] = TEXT, LLAMA
        await until(lambda: bool(server.told))


async def test_leaving_does_not_wait_for_an_answer() -> None:
    server = Server()
    server.hangs = True
    async with asyncio.timeout(2), server.watching():
        await server.is_asked(1)


async def test_an_error_nobody_foresaw_is_logged_and_the_watch_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    server.answers[METRICS] = RuntimeError("?")
    async with server.watching():
        await server.is_asked(2)
        server.answers[METRICS] = TEXT, LLAMA
        await until(lambda: bool(server.told))
    assert set(caplog.messages) == {"load_watch_failed"}
