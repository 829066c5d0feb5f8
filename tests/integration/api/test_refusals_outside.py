"""What is refused before the application is asked: it has an id and the envelope all the same."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchd.api.listen import listening
from batchd.config import ServerConfig
from tests.integration.api.harness import Answer, Api, check_answer, refused

NOT_HTTP = "The request is not valid HTTP: "
HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
async def path(api: Api, tmp_path: Path) -> AsyncIterator[Path]:
    """The socket at which the app is served as the daemon serves it."""
    path = tmp_path / "batchd.sock"
    config = ServerConfig(listen=(f"unix:{path}",))
    async with listening(api.client.app, config, connections=2):
        yield path


async def sent(path: Path, request: bytes) -> Answer:
    """What these bytes are answered with."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        async with asyncio.timeout(5):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(re.findall(r"^(\S+): (.*?)\r$", head, re.MULTILINE))
            body = await reader.readexactly(int(headers["Content-Length"]))
    finally:
        writer.close()
        await writer.wait_closed()
    answer = Answer(int(head.split()[1]), headers, body)
    check_answer("GET", "/healthz", answer)
    return answer


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (b"HELLO\r\n\r\n", "Invalid method encountered."),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n", "Received HTTPS traffic on an HTTP port."),
        (
            b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
            "Got more than 8190 bytes when reading.",
        ),
        (HEAD + b"X: " + b"a" * 9000 + b"\r\n\r\n", "Got more than 8190 bytes when reading."),
        (HEAD + b"X: 1\r\n" * 200 + b"\r\n", "Too many headers received."),
        (HEAD + b"Content-Length: x\r\n\r\n", "Invalid character in Content-Length."),
    ],
)
async def test_what_is_no_http_is_an_error_like_any_other(
    path: Path, request_: bytes, message: str
) -> None:
    refused(await sent(path, request_), 400, NOT_HTTP + message)


@pytest.mark.parametrize("target", [b"/healthz", b"/v1/files", b"/nowhere"])
async def test_what_cannot_be_expected_is_an_error_like_any_other(
    path: Path, target: bytes
) -> None:
    request = HEAD.replace(b"/healthz", target) + b"Expect: something-else\r\n\r\n"
    message = "Invalid 'Expect': only '100-continue' can be expected."
    refused(await sent(path, request), 417, message)


async def test_a_request_that_is_sound_is_answered_as_ever(path: Path) -> None:
    answer = await sent(path, HEAD + b"\r\n")
    assert (answer.status, answer.json) == (200, {"status": "ok"})
