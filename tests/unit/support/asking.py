"""Requests to a scripted model server, for the tests of it."""

import asyncio
import json

import aiohttp

from tests.support.eventlog import Event
from tests.support.model_server import ModelServer
from tests.support.waiting import until

CHAT = "/v1/chat/completions"


def chat(nonce: str, behave: str = "ok", **more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": f"say {nonce}"}]
    return {"model": "m", "nonce": nonce, "behave": behave, "messages": messages, **more}


async def post(
    server: ModelServer, body: dict[str, object], path: str = CHAT, key: str = "k"
) -> tuple[int, bytes, dict[str, str]]:
    """One request on a connection of its own, read by a client nobody here wrote."""
    async with (
        asyncio.timeout(5),
        aiohttp.ClientSession() as session,
        session.post(
            server.url + path,
            json=body,
            headers={"Authorization": f"Bearer {key}"},
            allow_redirects=False,
        ) as answer,
    ):
        return (
            answer.status,
            await answer.read(),
            {name.lower(): value for name, value in answer.headers.items()},
        )


async def raw(server: ModelServer, *bodies: dict[str, object], path: str = CHAT) -> bytes:
    """Everything the server sends to these requests on one connection, until it hangs up.

    Nothing when it resets the connection.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for body in bodies:
            data = json.dumps(body).encode()
            writer.write(b"POST %b HTTP/1.1\r\nContent-Length: " % path.encode())
            writer.write(b"%d\r\n\r\n%b" % (len(data), data))
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def events_after(server: ModelServer, kind: str, count: int) -> list[Event]:
    """The log, once it holds so many events of a kind."""
    await until(lambda: sum(event.event == kind for event in server.events) >= count)
    return server.events
