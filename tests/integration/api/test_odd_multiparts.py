"""Uploads that no sound client sends: each gets a 400 in the envelope and leaves nothing behind."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from batchd.api.parts import UPLOADS
from batchd.config import ServerConfig
from batchd.settings import Duration
from tests.integration.api.harness import Api, Setup, refused
from tests.integration.api.multipart import BOUNDARY, FILE, PURPOSE, Form, field, file, form, part
from tests.support.waiting import until

StartApi = Callable[[Setup], Awaitable[Api]]

UNPARSED = "The multipart body of your request could not be parsed."
NOT_HTTP = "The request is not valid HTTP or multipart."
NEEDS_FORM = "Send the file as multipart/form-data, with the parts 'file' and 'purpose'."
DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="%b"'

NAMED_FAULTS = [
    (
        form(part(b"Content-Type: text/plain", b"x"), FILE),
        "Every part of the request needs a name.",
        None,
    ),
    (
        form(part(b"Content-Disposition: form-data", b"x"), FILE),
        "Every part of the request needs a name.",
        None,
    ),
    (form(PURPOSE, FILE, FILE), "Send exactly one part named 'file'.", "file"),
    (form(PURPOSE, FILE, PURPOSE), "Send exactly one part named 'purpose'.", "purpose"),
    (
        form(PURPOSE, FILE, *[field("expires_after[seconds]", "3600")] * 2),
        "Send exactly one part named 'expires_after[seconds]'.",
        "expires_after[seconds]",
    ),
    (
        form(
            part(b"Content-Type: multipart/mixed; boundary=inner", b"--inner\r\n\r\nx\r\n--inner--")
        ),
        "Nested multipart bodies are not supported.",
        None,
    ),
    (form(*[field("x", "y")] * 5000), "The request has more than 16 parts.", None),
    (form(field("purpose", "b" * 5000), FILE), "The part 'purpose' is too long.", "purpose"),
    (form(field("other", "b" * 5000), FILE), "The part 'other' is too long.", "other"),
    (Form(b"{}", "application/json"), NEEDS_FORM, None),
    (Form(b"purpose=batch", "application/x-www-form-urlencoded"), NEEDS_FORM, None),
    (Form(b"", "text/plain"), NEEDS_FORM, None),
]


@pytest.mark.parametrize(("sent", "message", "param"), NAMED_FAULTS)
async def test_an_odd_form_is_refused_for_what_is_odd(
    api: Api, sent: Form, message: str, param: str | None
) -> None:
    refused(await api.send_form(sent), 400, message, param=param)
    await nothing_is_left(api)


UNREADABLE = [
    Form(form(PURPOSE, FILE).body, "multipart/form-data"),
    Form(form(PURPOSE, FILE).body, "multipart/form-data; boundary="),
    Form(form(PURPOSE, FILE).body, "multipart/form-data; boundary=" + "b" * 100),
    Form(form(PURPOSE, FILE).body, "multipart/form-data; boundary=another"),
    form(PURPOSE, FILE, closed=False),
    Form(form(PURPOSE, FILE).body.replace(b"\r\n", b"\n")),
    Form(b"no boundary in here"),
    Form(b""),
    form(PURPOSE, part(DISPOSITION % b"a\x00b", b"{}")),
    form(PURPOSE, part(DISPOSITION % b"a\rb", b"{}")),
    form(PURPOSE, part(DISPOSITION % b"x" + b"\r\nX: " + b"y" * 100_000, b"{}")),
    form(PURPOSE, part(DISPOSITION % b"x" + b"\r\nX: y" * 10_000, b"{}")),
    form(PURPOSE, part(DISPOSITION % b"x" + b"\r\nno colon", b"{}")),
]


@pytest.mark.parametrize("sent", UNREADABLE)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_cannot_be_read_is_refused(api: Api, sent: Form, chunked: bool) -> None:
    answer = await api.send_form(sent, chunked=chunked)
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")
    assert answer.json["error"]["message"] in {UNPARSED, NOT_HTTP}
    await nothing_is_left(api)


NOT_UTF8 = [
    form(PURPOSE, part(DISPOSITION % b"\xff\xfe.jsonl", b"{}")),
    form(part(b'Content-Disposition: form-data; name="purpose"', b"\xff"), FILE),
    form(part(b'Content-Disposition: form-data; name="\xff"', b"x" * 5000), FILE),
    form(PURPOSE, part(b"Content-Disposition: form-data; name=file; filename*=UTF-8''%ff", b"{}")),
]


@pytest.mark.filterwarnings(
    "ignore::aiohttp.BadContentDispositionParam"
)  # aiohttp warns of it, and leaves the name out
@pytest.mark.parametrize("sent", NOT_UTF8)
async def test_headers_that_are_not_utf8_break_nothing(api: Api, sent: Form) -> None:
    assert (await api.send_form(sent)).status in {200, 400}


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Transfer-Encoding: rot13",
        b"Content-Transfer-Encoding: base64",
        b"Content-Length: -5",
        b"Content-Length: many",
        b"Content-Length: 500",
    ],
)
async def test_headers_that_mean_nothing_in_a_form_change_nothing(api: Api, header: bytes) -> None:
    head = DISPOSITION % b"in.jsonl" + b"\r\n" + header
    answer = await api.send_form(form(PURPOSE, part(head, b"{}\n")))
    assert (answer.status, answer.json["bytes"]) == (200, 3)


async def test_parts_in_any_order_and_unknown_ones_are_taken(api: Api) -> None:
    extra = field("target_model_names", "x" * 4000)
    for parts in ([PURPOSE, FILE, extra], [FILE, PURPOSE], [extra, FILE, extra, PURPOSE]):
        assert (await api.send_form(form(*parts))).status == 200


async def test_a_preamble_before_the_first_part_is_skipped(api: Api) -> None:
    sent = form(PURPOSE, FILE)
    assert (await api.send_form(Form(b"ignore me\r\n" + sent.body))).status == 200


async def test_a_file_may_hold_what_looks_like_a_boundary(api: Api) -> None:
    content = b"{}\n--" + BOUNDARY + b"x\n\r\n--" + BOUNDARY[:-1] + b"\r\n"
    file_id = (await api.send_form(form(PURPOSE, file(content)))).json["id"]
    assert (await api.get(f"/v1/files/{file_id}/content")).body == content


async def test_a_client_that_goes_away_leaves_nothing(api: Api) -> None:
    async with api.upload_under_way() as writer:
        writer.transport.abort()
    await nothing_is_left(api)


async def test_an_upload_that_ends_too_soon_leaves_nothing(api: Api) -> None:
    async with api.upload_under_way() as writer:
        writer.write_eof()
    await nothing_is_left(api)


async def test_an_upload_that_stalls_is_given_up(start_api: StartApi) -> None:
    api = await start_api(Setup(server=ServerConfig(upload_timeout=Duration(0.05))))
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {form().content_type}\r\n"
    try:
        writer.write(head.encode() + b"Content-Length: 500\r\n\r\n" + form(PURPOSE).body[:20])
        async with asyncio.timeout(5):
            answer = (await reader.readuntil(b"}}")).decode()
    finally:
        writer.close()
        await writer.wait_closed()
    assert answer.startswith("HTTP/1.1 408 ")
    body = json.loads(answer.partition("\r\n\r\n")[2])
    message = "No byte of the request's body came for 0.05 seconds."
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    assert body == {"error": error}
    await nothing_is_left(api)


async def test_an_upload_that_drips_is_given_up_and_makes_way_for_others(
    start_api: StartApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await start_api(Setup(server=ServerConfig(max_uploads=1)))
    hours = itertools.count(step=3600)  # each look at the clock is an hour after the last
    dripping = form(PURPOSE, file(b'{"a": "' + b"x" * 300_000))
    with monkeypatch.context() as patch:
        patch.setattr(api.client.app[UPLOADS], "_now", hours.__next__)
        answer = await api.send_form(dripping, chunked=True)
    message = "The request's body came too slowly: send at least 10000 bytes a second."
    refused(answer, 408, message)
    assert answer.headers["Connection"] == "close"
    await nothing_is_left(api)
    assert (await api.upload()).status == 200


async def test_a_json_body_has_one_time_for_all_of_it(start_api: StartApi) -> None:
    api = await start_api(Setup(server=ServerConfig(upload_timeout=Duration(0.05))))

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0)

    answer = await api.ask("POST", "/v1/batches", data=endless())
    refused(answer, 408, "The request's body did not come within 0.05 seconds.")


async def nothing_is_left(api: Api) -> None:
    """Neither a temporary file nor a file nor a row."""
    await until(lambda: api.spooled() == [])
    async with asyncio.timeout(5):
        assert (await api.get("/v1/files")).json["data"] == []
