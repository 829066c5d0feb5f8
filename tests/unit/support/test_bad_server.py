"""Each way to answer well or badly is what its name says."""

import asyncio
import json

import aiohttp
import pytest

from tests.support.bad_server import STEPS
from tests.support.model_server import ModelServer
from tests.unit.support.asking import CHAT, chat, events_after, post, raw

GOOD = ["ok", "slow:0.001", "close-after", "stale", "pretty", "u2028", "chunked", "continue"]
NOT_AN_OBJECT = ["html", "empty", "array", "deep", "nan", "badutf8", "surrogate", "trailing"]


@pytest.mark.parametrize("step", [*GOOD, "no-length", "gzip", "drip:0.00001", "huge:100000"])
async def test_odd_but_whole_answers_can_be_read(model_server: ModelServer, step: str) -> None:
    status, answer, _ = await post(model_server, chat("a", step))
    assert status == 200
    assert json.loads(answer)["nonce"] == "a"


@pytest.mark.parametrize("step", NOT_AN_OBJECT)
async def test_spoilt_answers_are_whole_http_and_no_json_object(
    model_server: ModelServer, step: str
) -> None:
    status, answer, _ = await post(model_server, chat("a", step))
    assert status == 200
    assert not model_server.events[-1].usable
    try:
        read = json.loads(answer)
    except (ValueError, RecursionError):
        return
    # Python's own parser takes what no other does: NaN and a lone surrogate.
    assert step in ("array", "nan", "surrogate")
    assert isinstance(read, list) == (step == "array")


@pytest.mark.parametrize(
    "step",
    ["reset", "close", "cut", "cut-reset", "cut-chunked", "garbage", "both-lengths", "big-header"],
)
async def test_broken_answers_are_an_error_to_a_client(
    model_server: ModelServer, step: str
) -> None:
    with pytest.raises(aiohttp.ClientError):
        await post(model_server, chat("a", step))
    assert [event.event for event in model_server.events] == ["start", "end"]
    assert not model_server.events[-1].usable


async def test_pretty_has_both_kinds_of_newline(model_server: ModelServer) -> None:
    _, answer, _ = await post(model_server, chat("a", "pretty"))
    assert answer.count(b"\r\n") >= 5
    assert answer.count(b"\n") > answer.count(b"\r\n") + 5


async def test_u2028_sends_the_characters_raw(model_server: ModelServer) -> None:
    _, answer, _ = await post(model_server, chat("a", "u2028"))
    text = answer.decode()
    assert len(text.splitlines()) == 4
    assert all(character in text for character in "\u2028\u2029\u0085")


async def test_cut_promises_more_than_it_sends(model_server: ModelServer) -> None:
    answer = await raw(model_server, chat("a", "cut"))
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert len(body) == length - 9


async def test_close_after_hangs_up_without_a_word(model_server: ModelServer) -> None:
    answer = await raw(model_server, chat("a", "close-after"))
    assert b"HTTP/1.1 200" in answer
    assert b"connection: close" not in answer.lower()


async def test_a_stale_connection_dies_before_any_byte_and_a_new_one_answers(
    model_server: ModelServer,
) -> None:
    async with aiohttp.ClientSession() as session:
        url = model_server.url + CHAT
        async with session.post(url, json=chat("a")) as first:
            await first.read()
        with pytest.raises(aiohttp.ClientError):
            await session.post(url, json=chat("b", "stale"))
        async with session.post(url, json=chat("b", "stale")) as again:
            assert again.status == 200


async def test_timeout_never_answers_and_its_end_is_the_clients_leaving(
    model_server: ModelServer,
) -> None:
    for count, step in enumerate(("timeout", "stall"), start=1):
        asked = asyncio.create_task(post(model_server, chat(step, step)), name=step)
        await events_after(model_server, "start", count)
        asked.cancel()
        await events_after(model_server, "abort", count)
    events = model_server.events
    assert [event.event for event in events] == ["start", "abort"] * 2
    assert model_server.counts.in_flight == 0


async def test_infinite_goes_on_until_the_client_hangs_up(model_server: ModelServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", model_server.port)
    body = json.dumps(chat("a", "infinite")).encode()
    writer.write(b"POST %b HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (CHAT.encode(), len(body)))
    writer.write(body)
    async with asyncio.timeout(5):
        await reader.readexactly(5_000_000)
    writer.close()
    assert (await events_after(model_server, "abort", 1))[-1].in_flight == 0


async def test_every_step_can_be_played(model_server: ModelServer) -> None:
    slow = {"infinite", "timeout", "stall", "huge", "gzip-bomb"}
    for step in sorted(set(STEPS) - slow):
        argument = ":0" if step in ("slow", "drip", "retry-after") else ""
        answer = await raw(model_server, chat(step, step + argument), chat("end", "close-after"))
        assert b"HTTP/1.1 418" not in answer
    assert model_server.counts.in_flight == 0
