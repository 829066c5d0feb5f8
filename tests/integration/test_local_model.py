"""The real local model: one server answers chats, completions and embeddings."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from batchd.backends.local import LocalServer, installed_program, local_server
from batchd.errors import ConfigError

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.timeout(120),
    pytest.mark.usefixtures("installed"),  # these come before a test's own: it skips first
]

Answer = dict[str, Any]


@pytest.fixture
def installed() -> None:
    try:
        installed_program()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    async with local_server(tmp_path) as running:
        yield running


async def post(server: LocalServer, path: str, body: Answer) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.base_url + path, json={"model": server.model, **body}) as response,
    ):
        assert response.status == 200
        return await response.json()


async def test_it_answers_a_chat(server: LocalServer) -> None:
    messages = [
        {"role": "system", "content": "Answer in one short sentence."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    body = {"messages": messages, "temperature": 0, "max_tokens": 32}
    answer = await post(server, "/chat/completions", body)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["model"] == "smollm2"
    assert answer["usage"]["completion_tokens"] > 0


async def test_it_completes_a_text(server: LocalServer) -> None:
    body = {"prompt": "The capital of France is", "temperature": 0, "max_tokens": 4}
    answer = await post(server, "/completions", body)
    assert "Paris" in answer["choices"][0]["text"]


async def test_it_embeds_texts_so_that_likeness_shows(server: LocalServer) -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose."]
    answer = await post(server, "/embeddings", {"input": texts})
    cat, kitten, rates = (item["embedding"] for item in answer["data"])
    assert len(cat) == 576
    assert _cosine(cat, kitten) > _cosine(cat, rates)


async def test_it_embeds_a_text_longer_than_512_tokens(server: LocalServer) -> None:
    answer = await post(server, "/embeddings", {"input": "a long text " * 200})
    assert answer["usage"]["prompt_tokens"] > 512


async def test_texts_embedded_at_once_come_out_as_if_alone(server: LocalServer) -> None:
    texts = ["The river is " + "very " * number + "wide." for number in range(8)]

    async def vector(text: str) -> list[float]:
        return (await post(server, "/embeddings", {"input": text}))["data"][0]["embedding"]

    alone = [await vector(text) for text in texts]
    at_once = await asyncio.gather(*map(vector, texts))
    for one, other in zip(alone, at_once, strict=True):
        assert _cosine(one, other) == pytest.approx(1, abs=1e-3)


async def test_its_log_holds_no_prompt(server: LocalServer, tmp_path: Path) -> None:
    await post(server, "/completions", {"prompt": "A private sentence", "max_tokens": 4})
    assert (tmp_path / "local-server.log").read_bytes() == b""


def _cosine(one: list[float], other: list[float]) -> float:
    def length(vector: list[float]) -> float:
        return sum(x * x for x in vector) ** 0.5

    return sum(x * y for x, y in zip(one, other, strict=True)) / (length(one) * length(other))
