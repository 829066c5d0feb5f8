"""The scripted model server keeps its settings, and its log tells the truth."""

import asyncio
import json
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.eventlog import most_in_flight, sent
from tests.support.model_server import ModelServer
from tests.support.model_settings import Settings
from tests.support.nonce import answer_nonce
from tests.unit.support.asking import CHAT, chat, events_after, post, raw


@pytest.mark.parametrize(
    ("path", "body", "nonce"),
    [
        (CHAT, {"nonce": "a", "messages": [{"role": "user", "content": "b"}]}, "a"),
        (CHAT, {"messages": [{"role": "user", "content": "b"}]}, "b"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "c"}]}]}, "c"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]},
            "d",
        ),
        ("/v1/completions", {"prompt": "f"}, "f"),
        ("/v1/embeddings", {"input": "g"}, "g"),
        ("/v1/embeddings", {"input": ["h", "i"]}, '["h","i"]'),
    ],
)
async def test_each_endpoint_echoes_the_nonce_and_the_model(
    model_server: ModelServer, path: str, body: dict[str, object], nonce: str
) -> None:
    status, answer, _ = await post(model_server, {"model": "m-1", **body}, path)
    read: dict[str, Any] = json.loads(answer)
    assert status == 200
    assert answer_nonce(read) == nonce
    assert read["model"] == "m-1"
    assert read["usage"]["total_tokens"] > 0


async def test_the_log_holds_each_arrival_and_each_end(model_server: ModelServer) -> None:
    body = chat("a")
    await post(model_server, body)
    await post(model_server, chat("a", "404"))
    events = model_server.events
    told = [(event.event, event.nth, event.in_flight, event.status) for event in events]
    assert told == [("start", 1, 1, 0), ("end", 1, 0, 200), ("start", 2, 1, 0), ("end", 2, 0, 404)]
    assert [event.usable for event in events] == [False, True, False, False]
    assert events[0].crc == zlib.crc32(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("behave", "expected"),
    [
        ("429-then-200", [429, 200, 200]),
        ("429:2", [429, 429, 200]),
        ("500-forever", [500, 500, 500]),
        ("quota", [429, 429, 429]),
        ("redirect", [307, 307, 307]),
        ("retry-after:1", [429, 200, 200]),
        ("no-such-step", [418, 418, 418]),
        ("201", [201, 201, 201]),
    ],
)
async def test_a_script_is_played_by_nonce(
    model_server: ModelServer, behave: str, expected: list[int]
) -> None:
    got = [(await post(model_server, chat("a", behave)))[0] for _ in range(3)]
    assert got == expected
    assert (await post(model_server, chat("b")))[0] == 200


async def test_hints_stand_in_the_headers(model_server: ModelServer) -> None:
    for step, header in (
        ("retry-after:7", "retry-after"),
        ("retry-after-ms:7", "retry-after-ms"),
        ("reset-requests:7", "x-ratelimit-reset-requests"),
    ):
        status, _, headers = await post(model_server, chat(step, step))
        assert (status, headers[header]) == (429, "7")


async def test_requests_sent_ahead_are_answered_one_after_the_other(
    model_server: ModelServer,
) -> None:
    answer = await raw(model_server, chat("a"), chat("b"), chat("c", "close-after"))
    at = [answer.index(f'"nonce":"{nonce}"'.encode()) for nonce in "abc"]
    assert at == sorted(at)
    assert model_server.counts.most_in_flight == 1


async def test_chunked_requests_are_understood(model_server: ModelServer) -> None:
    async def chunks() -> Any:
        data = json.dumps(chat("a")).encode()
        yield data[:10]
        yield data[10:]

    async with (
        aiohttp.ClientSession() as session,
        session.post(model_server.url + CHAT, data=chunks()) as answer,
    ):
        assert (await answer.json())["nonce"] == "a"


async def test_slots_let_the_rest_wait_silently() -> None:
    async with ModelServer(settings=Settings(slots=2, delay=0.01)) as server:
        answers = await asyncio.gather(*(post(server, chat(f"n{i}")) for i in range(6)))
        assert {status for status, _, _ in answers} == {200}
        events = server.events
    assert most_in_flight(events) > 2
    ends = [event.t for event in events if event.event == "end"]
    assert ends[-1] - ends[0] >= 0.018  # three rounds of two


async def test_a_waiting_request_that_leaves_gives_no_slot_away() -> None:
    async with ModelServer(settings=Settings(slots=1)) as server:
        holder = asyncio.create_task(post(server, chat("held", "timeout")), name="holder")
        await events_after(server, "start", 1)
        waiter = asyncio.create_task(post(server, chat("waiting")), name="waiter")
        await events_after(server, "start", 2)
        waiter.cancel()
        await events_after(server, "abort", 1)
        holder.cancel()
        await events_after(server, "abort", 2)
        assert (await post(server, chat("after")))[0] == 200


async def test_a_rate_is_kept_with_and_without_a_hint() -> None:
    async with ModelServer(settings=Settings(rate=2)) as server:
        got = [await post(server, chat(f"n{i}")) for i in range(3)]
        assert [status for status, _, _ in got] == [200, 200, 429]
        assert 0 < int(got[2][2]["retry-after"]) <= 60
        server.set(rate_hint=False)
        assert "retry-after" not in (await post(server, chat("m")))[2]


async def test_a_wrong_key_is_refused() -> None:
    async with ModelServer(settings=Settings(api_key="right")) as server:
        assert (await post(server, chat("a"), key="wrong"))[0] == 401
        assert (await post(server, chat("a"), key="right"))[0] == 200


async def test_models_are_listed_or_missing(model_server: ModelServer) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(model_server.base_url + "/models") as answer:
            listed = await answer.json()
        model_server.set(models_status=404)
        async with session.get(model_server.base_url + "/models") as answer:
            assert answer.status == 404
    assert [model["id"] for model in listed["data"]] == ["test-model"]
    assert model_server.events == []


async def test_it_goes_away_and_comes_back_on_the_same_port() -> None:
    async with ModelServer(listening=False) as server:
        port = server.port
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(server, chat("a"))
        await server.listen()
        assert (await post(server, chat("a")))[0] == 200
        await server.stop_listening()
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(server, chat("b"))
        await server.listen()
        assert (await post(server, chat("b")))[0] == 200
        assert server.port == port
        assert sent(server.events) == {"a": 1, "b": 1}


async def test_dropping_connections_ends_what_is_in_flight(model_server: ModelServer) -> None:
    asked = asyncio.create_task(post(model_server, chat("a", "timeout")), name="asked")
    await events_after(model_server, "start", 1)
    model_server.drop_connections()
    with pytest.raises(aiohttp.ClientError):
        await asked
    assert (await events_after(model_server, "abort", 1))[-1].nonce == "a"


@pytest.mark.parametrize("way", ["reset", "close"])
async def test_it_can_hang_up_on_connect(way: str, model_server: ModelServer) -> None:
    model_server.set(on_connect=way)
    with pytest.raises(aiohttp.ClientError):
        await post(model_server, chat("a"))


async def test_idle_and_much_used_connections_are_closed(model_server: ModelServer) -> None:
    model_server.set(keep_alive=0.01)
    assert (await raw(model_server, chat("a"))).startswith(b"HTTP/1.1 200")
    model_server.set(keep_alive=0, requests_per_connection=2)
    answer = await raw(model_server, chat("b"), chat("c"), chat("d"))
    assert answer.count(b"HTTP/1.1 200") == 2


async def test_a_log_file_is_whole_at_every_moment(tmp_path: Path) -> None:
    async with ModelServer(log=tmp_path / "log") as server:
        await asyncio.gather(*(post(server, chat(f"n{i}")) for i in range(20)))
        assert len(server.events) == 40
        assert (tmp_path / "log").read_bytes().endswith(b"\n")
