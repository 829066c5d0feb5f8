"""A backend: its key, its models, and why it is waited for."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from batchd.backends.backend import Backend, KnownModels, opened_backend
from batchd.config import BackendConfig
from batchd.errors import ConfigError
from batchd.model import Reply, RequestLine
from batchd.retry import LineState, Park
from tests.support.fakes import Clock
from tests.support.model_server import ModelServer

ENDPOINT = "/v1/chat/completions"
LINE = RequestLine(0, "a", "m", b'{"model":"m","nonce":"n"}')


def park(reason: str) -> Park:
    return Park(60.0, reason, LineState())


class Opening:
    """What a backend is opened with."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.clock = Clock()
        self.environment: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def backend(self, **settings: Any) -> AsyncGenerator[Backend]:
        async with opened_backend(
            BackendConfig(base_url=self.server.base_url, name="gpu", **settings),
            self.environment,
            now=self.clock,
            monotonic=self.clock,
            new_request_id=lambda: "req_new",
        ) as opened:
            yield opened


@pytest.fixture
def opening(model_server: ModelServer) -> Opening:
    return Opening(model_server)


async def status(backend: Backend) -> int:
    outcome = await backend.send(ENDPOINT, LINE)
    assert isinstance(outcome, Reply)
    return outcome.status_code


async def test_the_key_of_the_environment_is_sent(opening: Opening) -> None:
    opening.server.set(api_key="secret")
    opening.environment["GPU_KEY"] = "secret"
    async with opening.backend(api_key_env="GPU_KEY") as backend:
        assert await status(backend) == 200
        assert await backend.models() is not None
    async with opening.backend() as keyless:
        assert await status(keyless) == 401


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"", "holds no usable key"),
        (b"two words\n", "holds no usable key"),
        ("schl\u00fcssel".encode(), "holds no usable key"),
    ],
)
async def test_a_key_file_that_is_of_no_use_is_named(
    opening: Opening, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"backend gpu: the api_key_file {path} {reason}"):
        async with opening.backend(api_key_file=path):
            pass


async def test_a_variable_that_is_not_set_is_named(opening: Opening) -> None:
    with pytest.raises(ConfigError, match=r"backend gpu.*GPU_KEY named by api_key_env is not set"):
        async with opening.backend(api_key_env="GPU_KEY"):
            pass


async def test_after_a_refusal_the_key_is_read_again(
    opening: Opening, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opening.server.set(api_key="new")
    path = tmp_path / "key"
    path.write_text("old\n")
    async with opening.backend(api_key_file=path) as backend:
        assert await status(backend) == 401
        path.write_text("new\n")
        assert await status(backend) == 401  # only after a park is it looked for
        backend.park(park("refused_401"))
        assert await status(backend) == 200
        await asyncio.to_thread(path.unlink)
        assert await status(backend) == 200  # the old one is kept
    assert "backend_key_unreadable" in [record.message for record in caplog.records]
    assert "new" not in caplog.text.replace("backend_key_unreadable", "")


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
    opening: Opening, reason: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with opening.backend() as backend:
        assert backend.note is None
        for _ in range(3):
            backend.park(park(reason))
        note = backend.note
        backend.answered(ok=True)  # of before the park
        assert backend.note == note
        opening.clock.at += 60
        for _ in range(2):
            backend.answered(ok=True)
        assert backend.note is None
    assert note is not None
    assert said in note
    assert note.startswith("waiting since 2027-01-15 08:00:00 UTC: backend 'gpu' at http://")
    told = [record.message for record in caplog.records if record.name.startswith("batchd")]
    assert told == ["backend_parked", "backend_back"]


async def test_models_are_asked_for_every_half_minute(opening: Opening) -> None:
    async def listed(backend: Backend) -> list[str] | None:
        found = await backend.models()
        return None if found is None else [model.id for model in found]

    opening.server.set(models=("a",))
    async with opening.backend() as backend:
        assert await listed(backend) == ["a"]
        opening.server.set(models=("a", "b"))
        assert await listed(backend) == ["a"]
        opening.clock.at += 30
        assert await listed(backend) == ["a", "b"]
        opening.clock.at += 30
        opening.server.set(models_status=500)
        assert await listed(backend) is None
        opening.server.set(models_status=200)
        assert await listed(backend) is None
        opening.clock.at += 5
        assert await listed(backend) == ["a", "b"]
        opening.clock.at += 30
        await opening.server.stop_listening()
        opening.server.drop_connections()
        assert await listed(backend) is None
        assert await backend.known_models() is None


async def test_known_models_are_those_listed_and_the_globs(opening: Opening) -> None:
    opening.server.set(models=("llama3:latest", "qwen"))
    async with opening.backend(models=("*", "gpt-*")) as backend:
        known = await backend.known_models()
    assert known is not None
    assert [name in known for name in ("llama3:latest", "llama3", "qwen", "gpt-4", "other")] == [
        True,
        True,
        True,
        True,
        False,
    ]
    assert "anything" not in KnownModels(frozenset())


async def test_a_server_that_lists_nothing_knows_nothing(opening: Opening) -> None:
    opening.server.set(models=())
    async with opening.backend() as backend:
        assert await backend.known_models() is None
