"""The errors of ``/v1/files``, to the letter, and what a download says of itself (contract 2)."""

from collections.abc import Awaitable, Callable

import pytest

from batchd.config import ServerConfig
from batchd.settings import Size
from tests.integration.api.harness import START, Api, Setup, refused
from tests.integration.api.multipart import PURPOSE, file, form

StartApi = Callable[[Setup], Awaitable[Api]]

UNKNOWN_ID = "file-" + "0" * 22
NOT_JSONL = "Invalid file format for Batch API. Must be .jsonl"
NOT_UTF8 = "Invalid file for Batch API. Must be utf-8 encoded"
DAY = 86400


async def small(start_api: StartApi, most: int) -> Api:
    return await start_api(Setup(server=ServerConfig(max_upload_size=Size(most))))


async def test_a_missing_file_or_purpose_is_named(api: Api) -> None:
    no_file = await api.send_form(form(PURPOSE))
    refused(no_file, 400, "'file' is a required property", param="file")
    no_purpose = await api.send_form(form(file(b"{}\n")))
    refused(no_purpose, 400, "'purpose' is a required property", param="purpose")
    refused(await api.send_form(form()), 400, "'file' is a required property", param="file")
    assert api.spooled() == []


@pytest.mark.parametrize(
    "purpose", ["foo", "", "batch_output", "assistants_output", "batch-output", "Batch", "a\x00b"]
)
async def test_a_purpose_that_is_none_is_answered_with_those_there_are(
    api: Api, purpose: str
) -> None:
    known = "['fine-tune', 'assistants', 'batch', 'user_data', 'vision', 'evals']"
    message = f"'{purpose}' is not one of {known} - 'purpose'"
    refused(await api.upload(purpose=purpose), 400, message, param="purpose")


async def test_evals_is_refused_since_strict_clients_reject_the_file(api: Api) -> None:
    message = "Files with purpose 'evals' are of no use here."
    refused(await api.upload(purpose="evals"), 400, message, param="purpose")


@pytest.mark.parametrize("purpose", ["assistants", "fine-tune", "user_data", "vision"])
async def test_other_purposes_take_any_bytes_and_never_expire(api: Api, purpose: str) -> None:
    answer = await api.upload(b"\xff\x00 not json", purpose=purpose)
    assert answer.status == 200
    assert (answer.json["purpose"], answer.json["expires_at"]) == (purpose, None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b" \r\n\t\n",
        b"\xef\xbb\xbf",
        b"hello\n",
        b"{'custom_id': 'a'}\n",
        b'{"a": 1\n{}\n',
        b"\n\nx\n{}\n",
        b'{"a": NaN}\n',
        b"PK\x03\x04",
        b"[" * 100_000,
    ],
)
async def test_a_file_that_does_not_begin_with_json_is_no_batch(api: Api, content: bytes) -> None:
    refused(await api.upload(content), 400, NOT_JSONL)
    assert api.spooled() == []


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[]\n",
        b'{"custom_id": "a"}\nhello\n',
        b"\xef\xbb\xbf{}\n",
        b"\r\n\n  {}\r\n",
        '{"custom_id": "\u2028"}\n'.encode(),
    ],
)
async def test_what_else_is_wrong_with_lines_is_told_by_the_batch(api: Api, content: bytes) -> None:
    answer = await api.upload(content)
    assert answer.status == 200
    assert answer.json["bytes"] == len(content)


@pytest.mark.parametrize("tail", [b"\xff", b"\xe2\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80"])
async def test_a_file_that_is_not_utf8_is_refused(api: Api, tail: bytes) -> None:
    refused(await api.upload(b'{"a": "' + tail), 400, NOT_UTF8)


async def test_utf16_is_not_utf8(api: Api) -> None:
    refused(await api.upload("{}\n".encode("utf-16")), 400, NOT_UTF8)


@pytest.mark.parametrize("shift", range(4))
async def test_a_character_may_be_split_over_two_pieces(api: Api, shift: int) -> None:
    # Pieces are cut at powers of two, so some duck stands on each seam.
    content = b'{"a": "' + b"x" * shift + "🦆".encode() * 100_000 + b'"}\n'
    assert (await api.send_form(form(PURPOSE, file(content)), chunked=True)).status == 200


async def test_a_fault_behind_a_seam_is_found(api: Api) -> None:
    content = b'{"a": "' + "🦆".encode() * 100_000 + b"\xf0\x9f\xa6" + b'"}\n'
    refused(await api.send_form(form(PURPOSE, file(content)), chunked=True), 400, NOT_UTF8)


async def test_a_file_over_the_limit_is_refused_by_its_content_length(
    start_api: StartApi,
) -> None:
    api = await small(start_api, 1000)
    answer = await api.ask("POST", "/v1/files", headers=declared(200_000))
    message = "The file is too large: at most 1000 bytes are accepted."
    refused(answer, 413, message, param="file")
    assert answer.headers["Connection"] == "close"
    assert api.spooled() == []


def declared(length: int) -> dict[str, str]:
    """The headers of an upload whose body never comes."""
    content_type = form().content_type
    return {"Content-Type": content_type, "Content-Length": str(length)}


async def test_a_file_over_the_limit_is_refused_while_it_is_read(start_api: StartApi) -> None:
    api = await small(start_api, 1000)
    for size in (1001, 300_000):
        sent = form(PURPOSE, file(b"{}" + b" " * (size - 2)))
        answer = await api.send_form(sent, chunked=True)
        message = "The file is too large: at most 1000 bytes are accepted."
        refused(answer, 413, message, param="file")
    assert api.spooled() == []


async def test_a_file_of_just_the_limit_is_taken(start_api: StartApi) -> None:
    api = await small(start_api, 1000)
    content = b"{}" + b" " * 998
    assert (await api.upload(content)).json["bytes"] == 1000
    assert (await api.send_form(form(file(content), PURPOSE), chunked=True)).status == 200


@pytest.mark.parametrize(
    ("anchor", "seconds", "message", "code", "param"),
    [
        (
            "created_at",
            "3599",
            (
                "Invalid 'expires_after.seconds': integer below minimum value. Expected a value >= "
                "3600, but got 3599 instead."
            ),
            "integer_below_min_value",
            "expires_after.seconds",
        ),
        (
            "created_at",
            "2592001",
            (
                "Invalid 'expires_after.seconds': integer above maximum value. Expected a value <= "
                "2592000, but got 2592001 instead."
            ),
            "integer_above_max_value",
            "expires_after.seconds",
        ),
        (
            "created_at",
            "1h",
            "Invalid type for 'expires_after.seconds': expected an integer, but got '1h' instead.",
            "invalid_type",
            "expires_after.seconds",
        ),
        (
            "last_active_at",
            "3600",
            "Invalid value: 'last_active_at'. Supported values are: 'created_at'.",
            "invalid_value",
            "expires_after.anchor",
        ),
    ],
)
async def test_a_fault_in_expires_after_is_named(  # noqa: PLR0913, PLR0917 - a table's columns
    api: Api, anchor: str, seconds: str, message: str, code: str, param: str
) -> None:
    fields = {"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}
    answer = await api.upload(fields=fields)
    refused(answer, 400, message, code=code, param=param)
    assert api.spooled() == []


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 30 * DAY),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}, 3600),
        ({"expires_after[seconds]": "2592000"}, 2592000),
        ({"expires_after[anchor]": "created_at"}, 2592000),
    ],
)
async def test_a_batch_file_expires(api: Api, fields: dict[str, str], seconds: int) -> None:
    answer = await api.upload(fields=fields)
    assert answer.json["expires_at"] == START + seconds


async def test_another_purpose_may_be_given_an_expiry(api: Api) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "7200"}
    answer = await api.upload(purpose="user_data", fields=fields)
    assert answer.json["expires_at"] == START + 7200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (UNKNOWN_ID, UNKNOWN_ID),
        ("file-abc", "file-abc"),
        ("%2e%2e%2f", "../"),
        ("..%2f..%2fbatchd.db", "../../batchd.db"),
        ("%00", "\x00"),
        ("%0d%0aSet-Cookie:x", "\r\nSet-Cookie:x"),
        ("file-" + "%F0%9F%A6%86" * 22, "file-" + "🦆" * 22),
        (UNKNOWN_ID + "%0a", UNKNOWN_ID + "\n"),
    ],
)
async def test_an_id_that_names_no_file_is_told_as_it_came(
    api: Api, method: str, sent: str, shown: str
) -> None:
    message = f"No such File object: {shown}"
    refused(await api.ask(method, f"/v1/files/{sent}"), 404, message, param="id")
    if method == "GET":
        answer = await api.get(f"/v1/files/{sent}/content")
        refused(answer, 404, message, param="id")


@pytest.mark.parametrize("sent", ["%ff", "%ed%a0%80", "%C3", "%", "%zz"])
async def test_an_id_that_is_not_utf8_names_no_file(api: Api, sent: str) -> None:
    answer = await api.get(f"/v1/files/{sent}")
    assert answer.status == 404
    assert answer.json["error"]["message"].startswith("No such File object: ")


async def test_a_deleted_or_expired_file_is_gone_for_every_route(api: Api) -> None:
    deleted, expired = await api.file_id(), await api.file_id()
    answer = await api.ask("DELETE", f"/v1/files/{deleted}")
    assert answer.json == {"id": deleted, "object": "file", "deleted": True}
    api.clock.turn(30 * DAY)
    for gone in (deleted, expired):
        message = f"No such File object: {gone}"
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            answer = await api.ask(method, f"/v1/files/{gone}{path}")
            refused(answer, 404, message, param="id")


async def test_one_owner_cannot_tell_anothers_file_from_none(api: Api) -> None:
    file_id = await api.file_id()
    with pytest.raises(Exception, match="No such File object"):
        await api.files.get("somebody else", file_id)
