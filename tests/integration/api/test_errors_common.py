"""The errors that every route shares, to the letter (contract 1.3)."""

import hashlib
import urllib.parse
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from batchd.config import ServerConfig
from tests.integration.api.harness import Answer, Api, Setup, refused, wish
from tests.integration.api.multipart import FILE, PURPOSE, field, form

StartApi = Callable[[Setup], Awaitable[Api]]
Case = tuple[dict[str, object], str, str, str]  # changed fields, message, code, param

BAD_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
    "your HTTP library correctly. The API expects a JSON payload.)"
)
NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
)
WRONG_KEY = "Incorrect API key provided: {}. Ask whoever runs this batchd for a key."


@pytest.fixture
async def guarded(start_api: StartApi, tmp_path: Path) -> Api:
    """An app that asks for a key; there is one, ``right-key-of-anna``."""
    keys = tmp_path / "keys"
    digest = hashlib.sha256(b"right-key-of-anna").hexdigest()
    keys.write_text(f"# who may\nanna sha256:{digest}\n")
    keys.chmod(0o600)
    return await start_api(Setup(keys_file=keys))


async def with_key(api: Api, authorization: str) -> Answer:
    return await api.ask("GET", "/v1/files", headers={"Authorization": authorization})


async def test_a_request_with_no_key_is_refused(guarded: Api) -> None:
    refused(await guarded.get("/v1/files"), 401, NO_KEY)


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer  ", "Basic YTpi", "right-key-of-anna"])
async def test_what_is_no_bearer_key_counts_as_none(guarded: Api, authorization: str) -> None:
    refused(await with_key(guarded, authorization), 401, NO_KEY)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("wrong-key-of-bert", "wron***"),
        ("short", "***"),
        ("schlüssel-of-bert", "schl***"),
    ],
)
async def test_a_wrong_key_is_refused_and_not_repeated(
    guarded: Api, key: str, shown: str
) -> None:
    refused(
        await with_key(guarded, f"Bearer {key}"),
        401,
        WRONG_KEY.format(shown),
        code="invalid_api_key",
    )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_right_key_is_let_in(guarded: Api, scheme: str) -> None:
    assert (await with_key(guarded, f"{scheme} right-key-of-anna")).status == 200


async def test_health_is_told_without_a_key(guarded: Api) -> None:
    assert (await guarded.get("/healthz")).json["status"] == "ok"


async def test_without_a_keys_file_any_key_and_none_are_accepted(api: Api) -> None:
    assert (await api.get("/v1/files")).status == 200
    assert (await with_key(api, "Bearer whatever")).status == 200


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
    refused(await api.ask(method, path), 405, f"Not allowed to {method} on {path}. {hint}")


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
    ("body", "name"), [(b"[]", "an array"), (b'"x"', "a string"), (b"null", "null"), (b"1", "an integer")]
)
async def test_a_body_that_is_no_object_is_refused(api: Api, body: bytes, name: str) -> None:
    hint = f"(HINT: The API expects a JSON object, but got {name} instead.)"
    message = f"We could not parse the JSON body of your request. {hint}"
    refused(await api.ask("POST", "/v1/batches", data=body), 400, message)


async def test_a_json_body_over_a_mebibyte_is_too_large(api: Api) -> None:
    body = b'{"a": "' + b"x" * (1 << 20) + b'"}'
    answer = await api.ask("POST", "/v1/batches", data=body)
    refused(answer, 413, "The request's body is too large.")


def missing(field_: str) -> Case:
    text = f"Missing required parameter: '{field_}'."
    return {field_: None}, text, "missing_required_parameter", field_


def wrong_type(changed: dict[str, object], path: str, expected: str, got: str) -> Case:
    text = f"Invalid type for '{path}': expected {expected}, but got {got} instead."
    return changed, text, "invalid_type", path


def out_of_range(seconds: int) -> Case:
    side, sign, bound = ("above", "<=", 2592000) if seconds > 3600 else ("below", ">=", 3600)
    edge = "maximum" if side == "above" else "minimum"
    path = "output_expires_after.seconds"
    text = (
        f"Invalid '{path}': integer {side} {edge} value. Expected a value {sign} {bound}, but got "
        f"{seconds} instead."
    )
    changed: dict[str, object] = {"output_expires_after": {"seconds": seconds}}
    return changed, text, f"integer_{side}_{edge[:3]}_value", path


ENDPOINTS = "'/v1/chat/completions', '/v1/completions', and '/v1/embeddings'"
FAULTS: list[Case] = [
    missing("input_file_id"),
    missing("endpoint"),
    missing("completion_window"),
    wrong_type({"input_file_id": 7}, "input_file_id", "a string", "an integer"),
    wrong_type({"endpoint": ["/v1"]}, "endpoint", "a string", "an array"),
    wrong_type({"completion_window": 24.5}, "completion_window", "a string", "a decimal number"),
    wrong_type({"metadata": []}, "metadata", "an object", "an array"),
    wrong_type({"metadata": "x"}, "metadata", "an object", "a string"),
    wrong_type({"metadata": {"tags": ["a"]}}, "metadata.tags", "a string", "an array"),
    wrong_type({"metadata": {"on": True}}, "metadata.on", "a string", "a boolean"),
    wrong_type({"metadata": {"k": None}}, "metadata.k", "a string", "null"),
    wrong_type({"metadata": {"k": {}}}, "metadata.k", "a string", "an object"),
    wrong_type({"output_expires_after": 3600}, "output_expires_after", "an object", "an integer"),
    wrong_type(
        {"output_expires_after": {"seconds": "3600"}},
        "output_expires_after.seconds",
        "an integer",
        "a string",
    ),
    wrong_type(
        {"output_expires_after": {"seconds": True}},
        "output_expires_after.seconds",
        "an integer",
        "a boolean",
    ),
    wrong_type(
        {"output_expires_after": {"anchor": 1}},
        "output_expires_after.anchor",
        "a string",
        "an integer",
    ),
    (
        {"endpoint": "/v1/x"},
        f"Invalid value: '/v1/x'. Supported values are: {ENDPOINTS}.",
        "invalid_value",
        "endpoint",
    ),
    (
        {"output_expires_after": {"anchor": "last_active_at"}},
        "Invalid value: 'last_active_at'. Supported values are: 'created_at'.",
        "invalid_value",
        "output_expires_after.anchor",
    ),
    out_of_range(3599),
    out_of_range(-1),
    out_of_range(2592001),
    (
        {"metadata": {f"k{number}": "v" for number in range(17)}},
        "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
        "but got an object with 17 properties instead.",
        "object_above_max_properties",
        "metadata",
    ),
    (
        {"metadata": {"k" * 65: "v"}},
        f"Invalid 'metadata': property name '{'k' * 64}…' too long. Expected a property name with "
        "maximum length 64, but got one with length 65 instead.",
        "property_name_above_max_length",
        "metadata",
    ),
    (
        {"metadata": {"k": "v" * 600}},
        "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but "
        "got a string with length 600 instead.",
        "string_above_max_length",
        "metadata.k",
    ),
]


@pytest.mark.parametrize(("changed", "message", "code", "param"), FAULTS)
async def test_a_fault_in_a_create_is_named(
    api: Api, changed: dict[str, object], message: str, code: str, param: str
) -> None:
    answer = await api.post("/v1/batches", wish("file-x", **changed))
    refused(answer, 400, message, code=code, param=param)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"k": ""},
        {"k" * 64: "v" * 512},
        {"ключ" * 16: "🦆" * 512},
        {f"k{number}": "v" for number in range(16)},
    ],
)
async def test_metadata_within_the_limits_is_echoed(
    api: Api, metadata: dict[str, str] | None
) -> None:
    answer = await api.post("/v1/batches", wish("file-x", metadata=metadata))
    assert answer.status == 200
    assert answer.json["metadata"] == metadata


@pytest.mark.parametrize(
    "seconds", [{}, {"seconds": 3600}, {"seconds": 2592000, "anchor": "created_at"}]
)
async def test_output_expires_after_may_lack_its_members(
    api: Api, seconds: dict[str, object]
) -> None:
    answer = await api.post("/v1/batches", wish("file-x", output_expires_after=seconds))
    assert answer.status == 200


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
@pytest.mark.parametrize("given", ["", "x", "1.5", "1e2", "+1", " 1", "٣", "0x10", "9" * 5000])
async def test_a_limit_that_is_no_integer_is_refused(api: Api, path: str, given: str) -> None:
    answer = await api.get(f"{path}?limit={urllib.parse.quote(given)}")
    message = f"Invalid type for 'limit': expected an integer, but got '{given[:64]}' instead."
    refused(answer, 400, message, code="invalid_type", param="limit")


@pytest.mark.parametrize(("path", "most"), [("/v1/files", 10_000), ("/v1/batches", 100)])
async def test_a_limit_out_of_range_is_refused(api: Api, path: str, most: int) -> None:
    refused(
        await api.get(f"{path}?limit={most + 1}"),
        400,
        f"Invalid 'limit': integer above maximum value. Expected a value <= {most}, but got "
        f"{most + 1} instead.",
        code="integer_above_max_value",
        param="limit",
    )
    for low in (0, -5):
        refused(
            await api.get(f"{path}?limit={low}"),
            400,
            "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got "
            f"{low} instead.",
            code="integer_below_min_value",
            param="limit",
        )
    assert (await api.get(f"{path}?limit={most}")).status == 200


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
    api = await start_api(Setup(has_room=False))
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
