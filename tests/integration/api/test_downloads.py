"""What is downloaded: the bytes as they came, and what a download says of itself (contract 2)."""

import errno
import os
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientPayloadError

from batchd.model import FileRecord
from tests.integration.api.harness import Api, refused
from tests.integration.api.multipart import PURPOSE, field, form
from tests.support.bad_sectors import SECTOR, bad_file

LONG_AGO = "Thu, 01 Jan 1970 00:00:00 GMT"


@pytest.mark.parametrize("accept", ["application/binary", "application/json", "*/*"])
async def test_the_content_is_the_bytes_as_they_came(api: Api, accept: str) -> None:
    content = '{"a":"ü\u2028"}\r\n\n{}'.encode()
    path = f"/v1/files/{await api.file_id(content)}/content"
    answer = await api.ask("GET", path, headers={"Accept": accept})
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Content-Type"] == "application/jsonl; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="in.jsonl"'


async def test_what_is_not_jsonl_is_served_as_bytes(api: Api) -> None:
    file_id = await api.file_id(b"<script>", purpose="user_data", filename="page.html")
    answer = await api.get(f"/v1/files/{file_id}/content")
    assert answer.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("asked", "body", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=4-100", b"456789", "bytes 4-9/10"),
    ],
)
async def test_a_part_of_the_content_can_be_asked_for(
    api: Api, asked: str, body: bytes, content_range: str
) -> None:
    file_id = await api.file_id(b"0123456789", purpose="user_data")
    path = f"/v1/files/{file_id}/content"
    answer = await api.ask("GET", path, headers={"Range": asked})
    assert (answer.status, answer.headers["Content-Range"]) == (206, content_range)
    assert answer.body == body


@pytest.mark.parametrize(
    "asked",
    [
        "lines=1-2",
        "items=0-",
        "bytes=0-1,5-6",
        "bytes=0-1, 20-",
        "bytes=-0",
        "bytes=-",
        "bytes=x",
        "bytes",
        "",
    ],
)
async def test_a_range_that_is_not_one_of_bytes_is_ignored(api: Api, asked: str) -> None:
    path = f"/v1/files/{await api.file_id(b'0123456789', purpose='user_data')}/content"
    answer = await api.ask("GET", path, headers={"Range": asked, "X-Name": "Zo\u00eb"})
    assert (answer.status, answer.body) == (200, b"0123456789")
    assert "Content-Range" not in answer.headers
    unchanged = {"Range": asked, "If-None-Match": answer.headers["ETag"]}
    async with api.client.session.get(f"{api.url}{path}", headers=unchanged) as response:
        assert (response.status, await response.read()) == (304, b"")


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=9-3", "BYTES=10-10", f"bytes={'9' * 5000}-"])
async def test_a_part_that_there_is_not_is_refused(api: Api, asked: str) -> None:
    path = f"/v1/files/{await api.file_id(b'0123456789', purpose='user_data')}/content"
    answer = await api.ask("GET", path, headers={"Range": asked})
    message = f"Invalid 'Range': '{asked[:64]}' is not a range of a file of 10 bytes."
    refused(answer, 416, message)
    # It counts as the file is still the same, and does not if it is not.
    for instant, status in (("Fri, 01 Jan 2100 00:00:00 GMT", 416), (LONG_AGO, 200)):
        headers = {"Range": asked, "If-Range": instant}
        assert (await api.ask("GET", path, headers=headers)).status == status


async def test_an_empty_file_has_no_part(api: Api) -> None:
    path = f"/v1/files/{await api.file_id(b'', purpose='user_data')}/content"
    answer = await api.ask("GET", path, headers={"Range": "bytes=-5"})
    refused(answer, 416, "Invalid 'Range': 'bytes=-5' is not a range of a file of 0 bytes.")
    assert (await api.get(path)).body == b""


@pytest.mark.parametrize(
    "condition", [{"If-Match": '"another"'}, {"If-Unmodified-Since": LONG_AGO}]
)
async def test_a_file_that_is_not_as_the_client_wants_it_is_refused(
    api: Api, condition: dict[str, str]
) -> None:
    path = f"/v1/files/{await api.file_id()}/content"
    answer = await api.ask("GET", path, headers=condition)
    message = "The file is not as the request's If-Match or If-Unmodified-Since wants it."
    refused(answer, 412, message)
    tag = (await api.get(path)).headers["ETag"]
    assert (await api.ask("GET", path, headers={"If-Match": tag})).body == b"{}\n"


async def test_a_look_at_the_headers_tells_the_size(api: Api) -> None:
    path = f"/v1/files/{await api.file_id(b'{}' * 500, purpose='user_data')}/content"
    answer = await api.ask("HEAD", path)
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "1000", b"")
    assert (await api.get(path)).body == b"{}" * 500


async def test_a_file_that_is_deleted_as_it_is_opened_is_gone(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = await api.file_id()
    find_bytes = api.files.find_bytes

    async def deleted(owner: str, file_id: str) -> tuple[FileRecord, Path]:
        found = await find_bytes(owner, file_id)
        await api.files.delete(owner, file_id)
        return found

    monkeypatch.setattr(api.files, "find_bytes", deleted)
    answer = await api.get(f"/v1/files/{file_id}/content")
    refused(answer, 404, f"No such File object: {file_id}", param="id")


async def test_a_file_that_cannot_be_opened_is_no_file_that_is_gone(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = await api.file_id()
    path = api.spool.file(file_id)

    def fail(number: int) -> None:
        opened: Any = Path.open

        def open_(self: Path, *args: Any, **kwargs: Any) -> Any:
            if self == path:
                raise OSError(number, os.strerror(number))
            return opened(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", open_)

    fail(errno.EIO)
    answer = await api.get(f"/v1/files/{file_id}/content")
    message = (
        f"File {file_id} cannot be read (Input/output error): run `batchd fsck` where batchd runs."
    )
    refused(answer, 500, message, code="file_corrupt", kind="server_error")
    fail(errno.EMFILE)
    answer = await api.get(f"/v1/files/{file_id}/content")
    message = "batchd failed to handle this request; its log says why."
    refused(answer, 500, message, kind="server_error")


@pytest.mark.parametrize(
    ("sent", "shown", "disposition"),
    [
        ("../../etc/passwd", "passwd", 'filename="passwd"'),
        ("C:\\dir\\in.jsonl", None, None),
        ("", "upload", 'filename="upload"'),
        ("a b;c.jsonl", "a b;c.jsonl", 'filename="a b;c.jsonl"'),
        (
            "\u202egpj.exe",
            "gpj.exe",
            'filename="gpj.exe"',
        ),
        (
            "дайте.jsonl",
            "дайте.jsonl",
            "filename=\"_____.jsonl\"; filename*=UTF-8''%D0%B4%D0%B0%D0%B9%D1%82%D0%B5.jsonl",
        ),
        ("x" * 5000, "x" * 255, f'filename="{"x" * 255}"'),
        ("tab\there", "tabhere", 'filename="tabhere"'),
    ],
)
async def test_a_filename_is_text_to_show_and_never_a_path(
    api: Api, sent: str, shown: str | None, disposition: str | None
) -> None:
    answer = await api.upload(filename=sent)
    assert answer.status == 200
    name = answer.json["filename"]
    assert "/" not in name
    assert "\\" not in name
    if shown is not None:
        assert name == shown
    content = await api.get(f"/v1/files/{answer.json['id']}/content")
    told = content.headers["Content-Disposition"]
    assert told.startswith("attachment; ")
    if disposition is not None:
        assert told == f"attachment; {disposition}"


async def test_a_part_without_a_filename_is_called_upload(api: Api) -> None:
    answer = await api.send_form(form(field("file", "{}\n"), PURPOSE))
    assert (answer.status, answer.json["filename"]) == (200, "upload")


@pytest.mark.parametrize("left", [None, b"", b"{}\n{}\n"])
async def test_a_file_whose_bytes_are_damaged_is_an_error_that_says_what_to_do(
    api: Api, left: bytes | None
) -> None:
    file_id = await api.file_id(b"{}\n")
    path = api.spool.file(file_id)
    path.unlink()
    wrong = "is missing; it had 3 bytes"
    if left is not None:
        path.write_bytes(left)
        wrong = f"has {len(left)} bytes instead of 3"
    answer = await api.get(f"/v1/files/{file_id}/content")
    message = (
        f"The bytes of file {file_id} are damaged: it {wrong}. Run `batchd fsck` where batchd "
        "runs: it says what is damaged and what can be done."
    )
    refused(answer, 500, message, code="file_corrupt", kind="server_error")
    assert answer.headers["x-should-retry"] == "false"
    # What is known of the file is told still, and it can be deleted.
    assert (await api.get(f"/v1/files/{file_id}")).json["status"] == "processed"
    assert (await api.ask("DELETE", f"/v1/files/{file_id}")).status == 200
    gone = await api.get(f"/v1/files/{file_id}/content")
    refused(gone, 404, f"No such File object: {file_id}", param="id")


async def test_a_file_that_cannot_be_read_to_its_end_breaks_off(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content = b"x" * (200 * SECTOR)
    file_id = await api.file_id(content, purpose="user_data")
    path, opened = api.spool.file(file_id), cast("Any", Path.open)

    def open_(self: Path, *args: Any, **kwargs: Any) -> Any:
        return bad_file(content, {150}) if self == path else opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_)
    async with api.client.session.get(f"{api.url}/v1/files/{file_id}/content") as response:
        assert response.status == 200
        with pytest.raises(ClientPayloadError):
            await response.read()
    assert [entry.message for entry in caplog.records] == ["results_broken_off"]
