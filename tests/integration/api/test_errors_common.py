"""The errors that every route shares, to the letter (contract 1.3)."""

from collections.abc import Awaitable, Callable

import pytest

from batchd.config import ServerConfig
from tests.integration.api.harness import Answer, Api, Setup, refused, wish
from tests.integration.api.multipart import FILE, PURPOSE, field, form

StartApi = Callable[[Setup], Awaitable[Api]]

BAD_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
    "your HTTP library correctly. The API expects a JSON payload.)"
)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/foo"),
        ("GET", "/"),
        ("GET", "/v1/files/a/b"),
        ("POST", "/v1/uploads"),
        ("PATCH", "/v1/batches/batch_1/content"),
    ],
)
async def test_an_unknown_route_is_named(api: Api, method: str, path: str) -> None:
    refused(await api.ask(method, path), 404, f"Invalid URL ({method} {path})")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/files"),
        ("DELETE", "/v1/batches/batch_69c3c34700112233445566778899aabb"),
        ("PATCH", "/v1/batches"),
        ("GET", "/v1/batches/batch_69c3c34700112233445566778899aabb/cancel"),
        ("OPTIONS", "/v1/files"),
        ("POST", "/v1/models"),
    ],
)
async def test_a_wrong_method_is_named(api: Api, method: str, path: str) -> None:
    hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
    answer = await api.ask(method, path)
    refused(answer, 405, f"Not allowed to {method} on {path}. {hint}")
    assert answer.headers["Allow"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"hello",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        '{"endpoint": 1}'.encode("utf-16"),
    ],
)
async def test_a_body_that_is_not_json_is_refused(api: Api, body: bytes) -> None:
    refused(await api.ask("POST", "/v1/batches", data=body), 400, BAD_JSON)


@pytest.mark.parametrize(
    ("body", "name"),
    [(b"[]", "an array"), (b'"x"', "a string"), (b"null", "null"), (b"1", "an integer")],
)
async def test_a_body_that_is_no_object_is_refused(api: Api, body: bytes, name: str) -> None:
    hint = f"(HINT: The API expects a JSON object, but got {name} instead.)"
    message = f"We could not parse the JSON body of your request. {hint}"
    refused(await api.ask("POST", "/v1/batches", data=body), 400, message)


async def test_a_json_body_over_a_mebibyte_is_too_large(api: Api) -> None:
    body = b'{"a": "' + b"x" * (1 << 20) + b'"}'
    answer = await api.ask("POST", "/v1/batches", data=body)
    refused(answer, 413, "The request's body is too large.")


async def test_unknown_fields_headers_and_parameters_are_ignored(api: Api) -> None:
    headers = {
        "OpenAI-Organization": "org",
        "OpenAI-Project": "proj",
        "X-Stainless-Lang": "python",
        "Accept": "application/binary",
    }
    body = wish("file-x", target_model_names="a", extra={"deep": [1]})
    assert (await api.ask("POST", "/v1/batches", json=body, headers=headers)).status == 200
    assert (await api.get("/v1/batches?order=sideways&status=x&foo=1")).status == 200


async def test_a_full_disk_refuses_a_batch_and_says_not_to_repeat(start_api: StartApi) -> None:
    api = await start_api(Setup())
    api.room.note_full()
    answer = await api.post("/v1/batches", wish("file-x"))
    full(answer)
    assert (await api.get("/v1/batches")).json["data"] == []


async def test_a_full_disk_refuses_an_upload_and_says_not_to_repeat(start_api: StartApi) -> None:
    api = await start_api(Setup(reserve=1 << 62))
    full(await api.upload())
    assert api.spooled() == []


def full(answer: Answer) -> None:
    refused(
        answer,
        503,
        "The disk of batchd's storage directory is full; free some space and try again.",
        code="insufficient_storage",
        kind="server_error",
    )
    assert answer.headers["x-should-retry"] == "false"


async def test_too_many_uploads_at_once_are_asked_to_come_back(start_api: StartApi) -> None:
    api = await start_api(Setup(server=ServerConfig(max_uploads=1)))
    async with api.upload_under_way():
        answer = await api.upload()
    message = "Too many uploads at once; try again in a moment."
    refused(answer, 503, message, kind="server_error")
    assert answer.headers["retry-after"] == "2"
    assert (await api.upload()).status == 200


async def test_a_bug_is_an_answer_too_and_stands_in_the_log(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api.batches, "page", broken)
    message = "batchd failed to handle this request; its log says why."
    refused(await api.get("/v1/batches"), 500, message, kind="server_error")
    assert "unhandled_error" in caplog.text


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_an_encoded_body_is_refused(api: Api, path: str, encoding: str) -> None:
    sent = form(PURPOSE, FILE, field("x", "y"))
    headers = {"Content-Type": sent.content_type, "Content-Encoding": encoding}
    answer = await api.ask("POST", path, data=sent.body, headers=headers)
    message = "Send the request body as it is: Content-Encoding is not supported."
    refused(answer, 415, message)
