"""What each answer and each misbehaviour of a model server comes to, over real sockets."""

import asyncio
import contextlib
import json
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from batchd.backends.client import Client, Connections, connections
from batchd.config import BackendConfig
from batchd.memory import Memory, Reading
from batchd.model import Failure, FailureKind, Reply, RequestLine, Usage
from batchd.settings import Duration, Size
from tests.support.model_server import ModelServer

ENDPOINT = "/v1/chat/completions"


def line(behave: str = "ok", *, size: int = 0, nonce: str = "n") -> RequestLine:
    body = {"model": "m", "nonce": nonce, "behave": behave, "more": "x" * size}
    return RequestLine(0, "a", "m", json.dumps(body).encode())


def client_of(
    both: Connections,
    settings: BackendConfig,
    *,
    key: str | None = None,
    memory: Memory | None = None,
) -> Client:
    return Client(
        both,
        settings,
        key=lambda: key,
        memory=memory or Memory(1 << 30),
        now=lambda: 0.0,
        new_request_id=lambda: "req_new",
    )


@contextlib.asynccontextmanager
async def opened(server: ModelServer, patience: float) -> AsyncGenerator[Client]:
    settings = BackendConfig(
        base_url=server.base_url + "/",
        connect_timeout=Duration(patience),
        first_byte_timeout=Duration(patience),
        idle_timeout=Duration(patience),
        total_timeout=Duration(2 * patience),
        max_answer_size=Size(600_000),
    )
    async with connections(settings) as both:
        yield client_of(both, settings, key="key")


@pytest.fixture
async def client(model_server: ModelServer) -> AsyncIterator[Client]:
    async with opened(model_server, 5) as patient:
        yield patient


GOOD = (
    ("ok", 200),
    ("201", 201),
    ("close-after", 200),
    ("pretty", 200),
    ("u2028", 200),
    ("chunked", 200),
    ("no-length", 200),
    ("continue", 200),
)
REFUSALS = (
    ("400", 400),
    ("401", 401),
    ("403", 403),
    ("404", 404),
    ("408", 408),
    ("409", 409),
    ("413", 413),
    ("422", 422),
    ("500", 500),
    ("503", 503),
    ("529", 529),
    ("text-400", 400),
    ("text-502", 502),
    ("error-string", 401),
    ("redirect", 307),
)
FAILURES = (
    ("204", FailureKind.NOT_JSON),
    ("html", FailureKind.NOT_JSON),
    ("empty", FailureKind.NOT_JSON),
    ("array", FailureKind.NOT_JSON),
    ("deep", FailureKind.NOT_JSON),
    ("nan", FailureKind.NOT_JSON),
    ("badutf8", FailureKind.NOT_JSON),
    ("trailing", FailureKind.NOT_JSON),
    ("reset", FailureKind.RESET),
    ("close", FailureKind.RESET),
    ("cut", FailureKind.RESET),
    ("cut-reset", FailureKind.RESET),
    ("cut-chunked", FailureKind.RESET),
    ("garbage", FailureKind.NOT_HTTP),
    ("both-lengths", FailureKind.NOT_HTTP),
    ("big-header", FailureKind.NOT_HTTP),
    ("many-headers", FailureKind.NOT_HTTP),
    ("switch", FailureKind.NOT_HTTP),
    ("huge:700000", FailureKind.TOO_LARGE),
    ("infinite", FailureKind.TOO_LARGE),
)


async def reply(client: Client, behave: str) -> Reply:
    outcome = await client.send(ENDPOINT, line(behave))
    assert isinstance(outcome, Reply), outcome
    return outcome


@pytest.mark.parametrize(("behave", "status"), GOOD)
async def test_a_good_answer_is_a_reply(client: Client, behave: str, status: int) -> None:
    found = await reply(client, behave)
    assert found.status_code == status
    assert json.loads(found.body)["nonce"] == "n"
    assert found.body.decode().splitlines() == [found.body.decode()]
    assert found.usage.total_tokens > 0
    assert (found.hint, found.error_code) == (None, None)


@pytest.mark.parametrize(("behave", "status"), REFUSALS)
async def test_a_refusal_is_a_reply_with_a_json_object(
    client: Client, behave: str, status: int
) -> None:
    found = await reply(client, behave)
    assert found.status_code == status
    body = json.loads(found.body)
    if behave.startswith("text-"):
        assert body["error"]["message"].startswith("No: n")
        assert set(body["error"]) == {"message", "type", "param", "code"}
    assert found.usage == Usage()


@pytest.mark.parametrize(("behave", "kind"), FAILURES)
async def test_what_is_no_answer_is_a_failure(
    client: Client, behave: str, kind: FailureKind
) -> None:
    assert await client.send(ENDPOINT, line(behave)) == Failure(kind)


async def test_where_no_server_can_be_none_is_reached() -> None:
    settings = BackendConfig(base_url="http://127.0.0.1:8000")
    async with connections(settings) as both:
        client = client_of(both, settings)
        # As part of the port, of which there are not so many.
        assert await client.send("0/chat", line()) == Failure(FailureKind.UNREACHABLE)


@pytest.mark.parametrize("behave", ["timeout", "stall", "drip"])
async def test_no_server_is_waited_for_without_end(model_server: ModelServer, behave: str) -> None:
    async with opened(model_server, 0.1) as client:
        assert await client.send(ENDPOINT, line(behave)) == Failure(FailureKind.TIMEOUT)


@pytest.mark.parametrize(
    ("behave", "hint", "code"),
    [
        ("retry-after:7", 7, "invalid_request_error"),
        ("retry-after-ms:250", 0.25, "invalid_request_error"),
        ("reset-tokens:1m30s", 90, "invalid_request_error"),
        ("quota", None, "insufficient_quota"),
        ("error-string", None, None),
        ("text-500", None, None),
    ],
)
async def test_hints_and_codes_are_read(
    client: Client, behave: str, hint: float | None, code: str | None
) -> None:
    found = await reply(client, behave)
    assert (found.hint, found.error_code) == (hint, code)


async def test_a_refused_connection_is_unreachable(
    model_server: ModelServer, client: Client
) -> None:
    await model_server.stop_listening()
    assert await client.send(ENDPOINT, line()) == Failure(FailureKind.UNREACHABLE)


async def test_a_stale_connection_is_replaced_and_no_fault(
    model_server: ModelServer, client: Client
) -> None:
    await reply(client, "ok")
    assert (await reply(client, "stale")).ok
    assert model_server.counts.connections == 2


async def test_a_backend_that_always_cuts_kept_connections_still_answers(
    model_server: ModelServer, client: Client
) -> None:
    for _ in range(3):
        assert (await reply(client, "stale")).ok
    assert model_server.counts.arrived <= 6


async def test_two_answers_to_one_request_do_not_mix(client: Client) -> None:
    first = await client.send(ENDPOINT, line("twice", nonce="one"))
    second = await client.send(ENDPOINT, line(nonce="two"))
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert [json.loads(found.body)["nonce"] for found in (first, second)] == ["one", "two"]


async def test_the_body_goes_out_byte_for_byte(model_server: ModelServer, client: Client) -> None:
    for size in (0, 1_500_000):
        sent = line(size=size)
        assert (await client.send(ENDPOINT, sent)) != Failure(FailureKind.RESET)
        assert model_server.events[-1].crc == zlib.crc32(sent.body)


async def test_a_large_answer_is_judged_off_the_loop(
    model_server: ModelServer, client: Client
) -> None:
    model_server.set(answer_size=270_000)
    assert len((await reply(client, "ok")).body) > 270_000


@pytest.mark.parametrize(
    ("given", "kept"),
    [("req_abc", True), ("!~", True), ("x" * 128, True), ("", False), ("x" * 129, False)],
)
async def test_a_request_id_is_passed_on_if_it_is_plain(given: str, kept: bool) -> None:
    answer = b"HTTP/1.1 200 OK\r\nx-request-id: %b\r\ncontent-length: 2\r\n\r\n{}" % given.encode()
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = BackendConfig(base_url=f"http://127.0.0.1:{port}/v1")
    async with server, connections(settings) as opened:
        client = client_of(opened, settings)
        found = await client.send(ENDPOINT, line())
    assert isinstance(found, Reply)
    assert found.request_id == (given if kept else "req_new")
    assert b"authorization" not in seen[0].lower()
    assert seen[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")


class Watched(Memory):
    """Notes the most that was held."""

    most = 0

    def read(self, reading: Reading, count: int) -> None:
        super().read(reading, count)
        self.most = max(self.most, self.held)


async def test_answers_that_come_all_at_once_are_read_as_there_is_room() -> None:
    size, many, all_are_asked = 3_000_000, 20, asyncio.Event()
    body = b'{"text":"%b"}' % (b"x" * size)
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        if asked == many:
            all_are_asked.set()
        await all_are_asked.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = BackendConfig(base_url=f"http://127.0.0.1:{port}/v1")
    memory = Watched(10_000_000)
    async with server, connections(settings) as both:
        client = client_of(both, settings, memory=memory)
        found = await asyncio.gather(*(client.send(ENDPOINT, line()) for _ in range(many)))
    assert all(isinstance(reply, Reply) and reply.body == body for reply in found)
    assert 10_000_000 < memory.most <= 10_000_000 + len(body)
    assert memory.held == 0


async def test_to_wait_for_memory_is_no_time_of_the_server(model_server: ModelServer) -> None:
    memory = Memory(1 << 20)
    settings = BackendConfig(
        base_url=model_server.base_url, total_timeout=Duration(0.3), idle_timeout=Duration(0.3)
    )
    memory.take_result(1 << 20)  # a disk that is full
    async with connections(settings) as both:
        client = client_of(both, settings, memory=memory)
        sent = asyncio.create_task(client.send(ENDPOINT, line("huge:300000")))
        refused = await client.send(ENDPOINT, line("429"))
        assert isinstance(refused, Reply)  # of a few words
        _, pending = await asyncio.wait([sent], timeout=1)
        assert pending
        memory.give_result(1 << 20)
        assert isinstance(await sent, Reply)
    assert memory.held == 0


async def test_an_answer_over_the_cap_or_broken_off_is_held_no_more(
    model_server: ModelServer,
) -> None:
    memory = Memory(1 << 20)
    settings = BackendConfig(base_url=model_server.base_url, max_answer_size=Size(1000))
    async with connections(settings) as both:
        client = client_of(both, settings, memory=memory)
        for behave, kind in (
            ("huge:5000", FailureKind.TOO_LARGE),
            ("cut", FailureKind.RESET),
        ):
            assert await client.send(ENDPOINT, line(behave)) == Failure(kind)
            assert memory.held == 0
