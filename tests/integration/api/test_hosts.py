"""What a web page may not do: foreign Host, Origin and Sec-Fetch-Site are refused."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from batchd.config import ServerConfig
from tests.integration.api.harness import Api, Setup, refused
from tests.integration.api.multipart import FILE, PURPOSE, form

StartApi = Callable[[Setup], Awaitable[Api]]

FOREIGN = "Requests from web pages of other origins are refused."


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8400", "localhost", "LocalHost:1", "[::1]", "[::1]:8400"]
)
async def test_the_names_of_this_machine_are_answered(api: Api, host: str) -> None:
    assert (await api.ask("GET", "/v1/files", headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8400",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1:80:90",
        "[::1].evil.example",
        "0.0.0.0",  # noqa: S104 - a name to refuse, nothing is bound to it
        "",
    ],
)
@pytest.mark.parametrize("path", ["/v1/files", "/healthz", "/v1/nothing"])
async def test_a_foreign_host_is_refused_on_every_route(api: Api, host: str, path: str) -> None:
    message = (
        f"This batchd does not answer for the host '{host}': add it to server.allowed_hosts if "
        "it should."
    )
    answer = await api.ask("GET", path, headers={"Host": host})
    refused(answer, 403, message, code="invalid_host")


async def test_a_host_that_is_not_utf8_gets_an_answer_too(api: Api) -> None:
    status, body = await raw(api, b"GET /v1/files HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n")
    assert status == 403
    assert b'"code":"invalid_host"' in body


async def test_a_key_that_is_not_utf8_breaks_nothing(api: Api) -> None:
    head = b"GET /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n"
    status, _ = await raw(api, head)
    assert status == 200


async def raw(api: Api, request: bytes) -> tuple[int, bytes]:
    """The status and the head and body of the answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    try:
        writer.write(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        async with asyncio.timeout(5):
            answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return int(answer.split(b" ", 2)[1]), answer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Origin", "http://evil.example"),
        ("Origin", "https://localhost.evil.example"),
        ("Origin", "null"),
        ("Origin", ""),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ],
)
async def test_an_upload_from_a_foreign_page_is_refused(api: Api, name: str, value: str) -> None:
    sent = form(PURPOSE, FILE)
    headers = {"Content-Type": sent.content_type, name: value}
    answer = await api.ask("POST", "/v1/files", data=sent.body, headers=headers)
    refused(answer, 403, FOREIGN, code="invalid_origin")
    assert api.spooled() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Origin", "http://localhost:8400"),
        ("Origin", "http://127.0.0.1"),
        ("Sec-Fetch-Site", "none"),
        ("Sec-Fetch-Site", "same-origin"),
    ],
)
async def test_a_page_of_this_machine_may_ask(api: Api, name: str, value: str) -> None:
    assert (await api.ask("GET", "/v1/files", headers={name: value})).status == 200


async def test_no_answer_opens_the_api_to_other_pages(api: Api) -> None:
    preflight = {
        "Origin": "http://localhost",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    for method in ("OPTIONS", "GET"):
        answer = await api.ask(method, "/v1/files", headers=preflight)
        assert not any(name.lower().startswith("access-control") for name in answer.headers)


async def test_configured_names_are_answered(start_api: StartApi) -> None:
    api = await start_api(Setup(server=ServerConfig(allowed_hosts=("Batch.Example",))))
    headers = {"Host": "batch.example:8400", "Origin": "https://batch.example"}
    assert (await api.ask("GET", "/v1/files", headers=headers)).status == 200
    answer = await api.ask("GET", "/v1/files", headers={"Host": "other.example"})
    assert answer.status == 403


async def test_a_star_allows_every_name(start_api: StartApi) -> None:
    api = await start_api(Setup(server=ServerConfig(allowed_hosts=("*",))))
    headers = {"Host": "any.example", "Origin": "https://any.example"}
    assert (await api.ask("GET", "/v1/files", headers=headers)).status == 200
