"""One server over HTTP: its key, its models, whether it lives, its pages."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from batchd.backends.caller import HttpCaller, opened_caller
from batchd.config import BackendConfig
from batchd.errors import ConfigError
from batchd.memory import Memory
from batchd.model import Reply, RequestLine
from tests.support.fakes import Clock
from tests.support.model_server import ModelServer

ENDPOINT = "/v1/chat/completions"
LINE = RequestLine(0, "a", "m", b'{"model":"m","nonce":"n"}')


class Opening:
    """What a caller is opened with."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.environment: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def caller(self, **settings: Any) -> AsyncGenerator[HttpCaller]:
        config = BackendConfig(base_url=self.server.base_url, name="gpu", **settings)
        async with opened_caller(
            config,
            self.environment,
            memory=Memory(1 << 20),
            now=Clock(),
            new_request_id=lambda: "req_new",
        ) as opened:
            yield opened


@pytest.fixture
def opening(model_server: ModelServer) -> Opening:
    return Opening(model_server)


async def status(caller: HttpCaller) -> int:
    outcome = await caller.send(ENDPOINT, LINE)
    assert isinstance(outcome, Reply)
    return outcome.status_code


async def listed(caller: HttpCaller) -> list[str] | None:
    found = await caller.models()
    return None if found is None else [model.id for model in found]


async def test_the_key_is_sent_with_lines_and_with_questions(opening: Opening) -> None:
    opening.server.set(api_key="secret", models=("a",))
    opening.environment["GPU_KEY"] = "secret"
    async with opening.caller(api_key_env="GPU_KEY") as caller:
        assert await status(caller) == 200
        assert await listed(caller) == ["a"]
    async with opening.caller() as keyless:
        assert await status(keyless) == 401


async def test_a_key_that_is_not_there_is_refused(opening: Opening) -> None:
    with pytest.raises(ConfigError, match="GPU_KEY"):
        async with opening.caller(api_key_env="GPU_KEY"):
            pass


async def test_a_new_key_is_used_from_then_on(opening: Opening, tmp_path: Path) -> None:
    opening.server.set(api_key="new")
    path = tmp_path / "key"
    path.write_text("old\n")
    async with opening.caller(api_key_file=path) as caller:
        assert await status(caller) == 401
        assert not await caller.reload_key()
        path.write_text("new\n")
        assert await caller.reload_key()
        assert await status(caller) == 200


@pytest.mark.parametrize("code", [301, 401, 404, 500, 503])
async def test_models_that_are_refused_are_not_known(opening: Opening, code: int) -> None:
    opening.server.set(models_status=code)
    async with opening.caller() as caller:
        assert await caller.models() is None


@pytest.mark.parametrize(
    ("code", "is_alive"),
    [
        (200, True),
        (401, True),
        (404, True),
        (405, True),
        (501, True),  # it knows nothing but lines
        (500, False),
        (502, False),
        (503, False),
    ],
)
async def test_whoever_answers_lives_unless_it_says_that_it_does_not(
    opening: Opening, code: int, is_alive: bool
) -> None:
    opening.server.set(models_status=code)
    async with opening.caller() as caller:
        assert await caller.is_alive() is is_alive


async def test_nobody_there_is_an_answer_too(opening: Opening) -> None:
    await opening.server.stop_listening()
    async with opening.caller() as caller:
        assert await caller.models() is None
        assert not await caller.is_alive()
        assert await caller.fetch(opening.server.url + "/metrics") is None


async def test_a_page_is_told_with_its_type_and_a_refusal_is_empty(opening: Opening) -> None:
    opening.server.set(models=("a",))
    async with opening.caller() as caller:
        page = await caller.fetch(opening.server.base_url + "/models")
        assert page is not None
        assert page[0] == "application/json"
        assert b'"a"' in page[1]
        assert await caller.fetch(opening.server.url + "/no-such") == ("", b"")
        opening.server.set(models_status=503)
        assert await caller.fetch(opening.server.base_url + "/models") is None


@contextlib.asynccontextmanager
async def answering(body: bytes) -> AsyncGenerator[tuple[str, list[bytes]]]:
    """The URL of a server that answers everything with this, and the heads of what it was asked."""
    heard = list[bytes]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body[:1])
        await writer.drain()
        writer.write(body[1:])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


async def test_another_server_that_tells_the_load_gets_no_key(opening: Opening) -> None:
    opening.environment["GPU_KEY"] = "secret"
    async with (
        answering(b"a 1\n" * 50_000) as (url, heard),
        opening.caller(api_key_env="GPU_KEY") as caller,
    ):
        page = await caller.fetch(f"{url}/metrics")
    assert page == ("application/octet-stream", b"a 1\n" * 50_000)
    assert b"secret" not in heard[0]


@pytest.mark.parametrize("body", [b"hello", b'{"data": 3}', b"[" * 100_000])
async def test_what_is_no_list_of_models_is_none(body: bytes) -> None:
    async with answering(body) as (url, _):
        config = BackendConfig(base_url=url)
        async with opened_caller(
            config, {}, memory=Memory(1 << 20), now=Clock(), new_request_id=str
        ) as caller:
            assert await caller.models() is None
            assert await caller.is_alive()


async def test_once_closed_it_says_nothing_more(opening: Opening) -> None:
    async with opening.caller() as caller:
        assert await caller.models() is not None
    assert await caller.models() is None
    assert not await caller.is_alive()
