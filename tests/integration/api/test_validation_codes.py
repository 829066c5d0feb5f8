"""What a batch says of a bad input file: every code, line, param and message (contract 5).

Nothing about the content of a file is told at once: the batch comes to ``failed`` and its errors
say why. Files are judged by the real validator, from upload to batch object.
"""

import pytest

from tests.integration.api.harness import CHAT, Api
from tests.integration.api.lines import (
    COMPLETIONS,
    EMBEDDINGS,
    body,
    duplicate,
    error,
    errors_of,
    invalid_json,
    line,
    missing,
    started,
    wrong_type,
)

INVALID_URL = "The URL provided for this request does not match the batch endpoint."


NO_MODEL = ("invalid_request", "Model parameter is required.", "body.model")
NO_MESSAGES = ("invalid_request", "Messages parameter is required.", "body.messages")
STREAM = "Chat Completions: Streaming is not supported in the Batch API."

LINE_FAULTS: list[tuple[dict[str, object], tuple[str, str, str | None]]] = [
    ({"custom_id": ...}, missing("custom_id")),
    ({"custom_id": None}, missing("custom_id")),
    ({"method": ...}, missing("method")),
    ({"url": ...}, missing("url")),
    ({"body": ...}, missing("body")),
    ({"custom_id": 7}, wrong_type("custom_id", "a string", "an integer")),
    ({"method": True}, wrong_type("method", "a string", "a boolean")),
    ({"url": []}, wrong_type("url", "a string", "an array")),
    ({"body": "x"}, wrong_type("body", "an object", "a string")),
    ({"body": [1]}, wrong_type("body", "an object", "an array")),
    (
        {"custom_id": ""},
        (
            "invalid_value",
            "Invalid 'custom_id': empty string. Expected a string with minimum length 1.",
            "custom_id",
        ),
    ),
    (
        {"method": "GET"},
        ("invalid_value", "Invalid value: 'GET'. Supported values are: 'POST'.", "method"),
    ),
    (
        {"method": "post"},
        ("invalid_value", "Invalid value: 'post'. Supported values are: 'POST'.", "method"),
    ),
    ({"url": EMBEDDINGS}, ("invalid_url", INVALID_URL, "url")),
    ({"url": ""}, ("invalid_url", INVALID_URL, "url")),
    ({"url": "http://localhost" + CHAT}, ("invalid_url", INVALID_URL, "url")),
    ({"body": body(stream=True)}, ("streaming_unsupported", STREAM, "body.stream")),
    ({"body": body(stream="x")}, wrong_type("body.stream", "a boolean", "a string")),
    ({"body": body(stream=1)}, wrong_type("body.stream", "a boolean", "an integer")),
    ({"body": body(model=...)}, NO_MODEL),
    ({"body": body(model=None)}, NO_MODEL),
    ({"body": body(model="")}, NO_MODEL),
    ({"body": body(model=1.5)}, wrong_type("body.model", "a string", "a decimal number")),
    ({"body": body(messages=...)}, NO_MESSAGES),
]


@pytest.mark.parametrize(("changed", "found"), LINE_FAULTS)
async def test_a_fault_of_a_line_is_told_with_its_number(
    judge: Api, changed: dict[str, object], found: tuple[str, str, str | None]
) -> None:
    fields = {"custom_id": "bad", **changed}
    batch = await judge.validated(line("good") + line(**fields))  # pyright: ignore[reportArgumentType] - wrong types on purpose
    assert errors_of(batch) == [error(*found, 2)]


@pytest.mark.parametrize("stream", [False, None])
async def test_stream_may_be_false_or_null(judge: Api, stream: bool | None) -> None:
    started(await judge.validated(line(body=body(stream=stream))), 1)


async def test_streaming_is_refused_in_the_words_of_its_endpoint(judge: Api) -> None:
    asked = {"model": "m", "stream": True}
    names = {COMPLETIONS: "Completions", EMBEDDINGS: EMBEDDINGS}
    for endpoint, name in names.items():
        batch = await judge.validated(line(url=endpoint, body=asked), endpoint)
        text = f"{name}: Streaming is not supported in the Batch API."
        assert errors_of(batch) == [error("streaming_unsupported", text, "body.stream", 1)]


async def test_prompt_and_input_are_left_to_the_model_server(judge: Api) -> None:
    for endpoint in (COMPLETIONS, EMBEDDINGS):
        started(await judge.validated(line(url=endpoint, body={"model": "m"}), endpoint), 1)


async def test_all_faults_of_a_line_are_told(judge: Api) -> None:
    batch = await judge.validated(b"{}\n" + line(method="GET", url="x", body={"stream": True}))
    wrong_method = "Invalid value: 'GET'. Supported values are: 'POST'."
    assert errors_of(batch) == [
        *(error(*missing(name), 1) for name in ("custom_id", "method", "url", "body")),
        error("invalid_value", wrong_method, "method", 2),
        error("invalid_url", INVALID_URL, "url", 2),
        error(*NO_MODEL, 2),
        error(*NO_MESSAGES, 2),
        error("streaming_unsupported", STREAM, "body.stream", 2),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        b"hello",
        b'{"custom_id": "a"',
        b'{"custom_id": "a"} x',
        b"{'custom_id': 'a'}",
        line()[:-2] + b", }",
        line().replace(b"[]", b"NaN"),
        line().replace(b"[]", b"-Infinity"),
        line().replace(b"[]", b"01"),
        line().replace(b"[]", b".5"),
        line().replace(b"[]", b'"\\ud800"'),
        line().replace(b"[]", b'"a\x00b"'),
        line().replace(b"[]", b'"a\tb"'),
        line().replace(b"[]", b"[" * 100_000 + b"]" * 100_000),
        line().replace(b"[]", b'{"a":' * 5_000 + b"1" + b"}" * 5_000),
        line().replace(b'"a"', b'"\\udc00"'),
        line().replace(b'"a"', b"1e999"),
    ],
)
async def test_a_line_that_is_not_json_is_told(judge: Api, bad: bytes) -> None:
    batch = await judge.validated(line("good") + bad.rstrip(b"\n") + b"\n" + line("last"))
    assert errors_of(batch) == [invalid_json(2)]


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" * 5_000, b"0.1e-400", b"1E+2"])
async def test_any_number_of_json_passes_within_a_body(judge: Api, number: bytes) -> None:
    started(await judge.validated(line().replace(b"[]", b"[" + number + b"]")), 1)


@pytest.mark.parametrize(
    ("bad", "name"),
    [(b"[]", "an array"), (b'"x"', "a string"), (b"1", "an integer"), (b"null", "null")],
)
async def test_a_line_that_is_no_object_is_told(judge: Api, bad: bytes, name: str) -> None:
    text = f"Each line must be a JSON object, but this one is {name}."
    batch = await judge.validated(line("good") + bad)
    assert errors_of(batch) == [error("invalid_request", text, None, 2)]


async def test_blank_lines_are_skipped_and_counted(judge: Api) -> None:
    batch = await judge.validated(b"\n\r\n" + line("a") + b"  \t\n" + b"x\n\n")
    assert errors_of(batch) == [invalid_json(5)]
    started(await judge.validated(b"\n" + line("a") + b"\r\n" + line("b") + b"\n\n"), 2)


async def test_a_byte_order_mark_and_crlf_are_taken(judge: Api) -> None:
    good = (line("a") + line("b")).replace(b"\n", b"\r\n")
    started(await judge.validated(b"\xef\xbb\xbf" + good), 2)
    batch = await judge.validated(b"\xef\xbb\xbf" + good + line("a", method="GET"))
    assert [found["line"] for found in errors_of(batch)] == [3, 3]


async def test_a_byte_order_mark_further_down_is_not_json(judge: Api) -> None:
    assert errors_of(await judge.validated(line("a") + b"\xef\xbb\xbf" + line("b"))) == [
        invalid_json(2)
    ]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\\u000b"])
async def test_only_a_newline_ends_a_line(judge: Api, separator: str) -> None:
    asked = body(messages=[{"role": "user", "content": f"a{separator}b"}])
    content = line("a", body=asked) + line(f"b{separator}") + b"x"
    assert errors_of(await judge.validated(content)) == [invalid_json(3)]


async def test_the_last_newline_is_optional(judge: Api) -> None:
    started(await judge.validated((line("a") + line("b")).rstrip()), 2)


async def test_a_line_may_be_thirty_megabytes_long(judge: Api) -> None:
    long = line("long", body=body(messages=["x" * 30_000_000]))
    batch = await judge.validated(line("a") + long + line("a"))
    assert errors_of(batch) == [duplicate("a", 3)]


async def test_a_custom_id_has_no_length_limit(judge: Api) -> None:
    started(await judge.validated(line("x" * 100_000) + line("x" * 99_999 + "ü")), 2)
