"""Sockets, and the clients that are let in."""

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from batchd.api.listen import listening
from batchd.config import ServerConfig
from batchd.errors import BatchdError

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MOST = 2
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "batchd.sock"


@pytest.fixture
async def served(path: Path) -> AsyncIterator[None]:
    async with listening(_app(), ServerConfig(listen=(f"unix:{path}",)), connections=MOST):
        yield


def _app() -> web.Application:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    return app


async def answer(connection: Connection) -> bytes:
    """The end of the answer to one request; empty if there is none."""
    reader, writer = connection
    try:
        writer.write(REQUEST)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        return await reader.readexactly(len(b"hello")) if b" 200 " in head else b""
    except (ConnectionError, asyncio.IncompleteReadError):
        return b""


async def close(connection: Connection) -> None:
    connection[1].close()
    with contextlib.suppress(ConnectionError):
        await connection[1].wait_closed()


async def answer_to_another(path: Path) -> bytes:
    connection = await asyncio.open_unix_connection(path)
    found = await answer(connection)
    await close(connection)
    return found


@pytest.mark.usefixtures("served")
async def test_a_client_too_many_is_turned_away_until_another_leaves(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = [await asyncio.open_unix_connection(path) for _ in range(MOST)]
    assert [await answer(connection) for connection in opened] == [b"hello"] * MOST
    assert [await answer_to_another(path) for _ in range(3)] == [b""] * 3
    assert await answer(opened[0]) == b"hello"
    await close(opened[1])
    async with asyncio.timeout(5):
        while await answer_to_another(path) != b"hello":
            pass
    assert [entry.message for entry in caplog.records] == ["connections_refused"]
    await close(opened[0])


@pytest.mark.usefixtures("served")
async def test_a_unix_socket_is_for_its_owner_and_group(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_a_file_at_the_sockets_name_is_left_and_said(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(BatchdError, match="there is something that is no socket"):
        async with listening(_app(), ServerConfig(listen=(f"unix:{path}",)), connections=MOST):
            pass
    assert path.read_text() == "mine"


async def test_a_socket_that_an_earlier_life_has_left_is_replaced(path: Path) -> None:
    config = ServerConfig(listen=(f"unix:{path}",))
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with listening(_app(), config, connections=MOST):
        assert await answer_to_another(path) == b"hello"


async def test_an_address_that_is_taken_is_said() -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(BatchdError, match="cannot listen on"):
        async with listening(_app(), ServerConfig(listen=(f"127.0.0.1:{port}",)), connections=MOST):
            pass
    server.close()
