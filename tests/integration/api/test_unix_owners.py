"""Whose a request by a Unix socket is."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from batchd.api.auth import Guard, Keys
from batchd.api.identity import OWNER
from batchd.api.listen import listening
from batchd.api.middleware import authorize, errors_as_json
from batchd.config import ServerConfig
from tests.integration.api.harness import Api

UID = os.geteuid()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "batchd.sock"


@pytest.fixture
async def served(tmp_path: Path, socket: Path) -> AsyncIterator[None]:
    """Answers with the owner. There is one key, ``key-of-bert``; this user is anna."""
    lines = [("bert", b"key-of-bert", ""), ("anna", b"key-of-anna", f" uid={UID}")]
    text = [f"{name} sha256:{hashlib.sha256(key).hexdigest()}{more}" for name, key, more in lines]
    (tmp_path / "keys").write_text("\n".join(text))
    keys = await asyncio.to_thread(Keys.read, tmp_path / "keys", unix_owners=True)

    async def whose(request: web.Request) -> web.Response:
        return web.Response(text=request[OWNER])

    app = web.Application(middlewares=[errors_as_json, authorize(keys, Guard(()))])
    app.router.add_get("/", whose)
    listen = (f"unix:{socket}", "127.0.0.1:0")
    async with listening(app, ServerConfig(listen=listen), connections=9):
        yield


async def answer(socket: Path, authorization: str | None, **more: str) -> tuple[int, str]:
    headers = dict(more) if authorization is None else {"Authorization": authorization, **more}
    connector = aiohttp.UnixConnector(str(socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://localhost/", headers=headers) as response,
    ):
        return response.status, await response.text()


@pytest.mark.usefixtures("served")
async def test_the_kernels_word_is_enough(socket: Path) -> None:
    assert await answer(socket, None) == (200, "anna")


@pytest.mark.usefixtures("served")
async def test_a_key_counts_more(socket: Path) -> None:
    assert await answer(socket, "Bearer key-of-bert") == (200, "bert")
    status, _ = await answer(socket, "Bearer wrong")
    assert status == 401


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "Via"])
async def test_a_proxys_user_is_nobody(socket: Path, header: str) -> None:
    status, text = await answer(socket, None, **{header: "somebody"})
    assert (status, '"code":"proxied"' in text) == (403, True)
    assert await answer(socket, "Bearer key-of-bert", **{header: "somebody"}) == (200, "bert")


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("header", "value"), [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")]
)
async def test_a_web_page_behind_a_proxy_is_refused_there_too(
    socket: Path, header: str, value: str
) -> None:
    status, text = await answer(socket, "Bearer key-of-bert", **{header: value})
    assert (status, '"code":"invalid_origin"' in text) == (403, True)


async def test_a_tcp_client_has_no_such_word(guarded: Api) -> None:
    assert (await guarded.get("/v1/files")).status == 401
