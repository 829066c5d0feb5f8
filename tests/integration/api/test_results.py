"""The results there are so far, and how a reader goes on from where it was."""

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError

from batchd.api.parts import RESULTS
from batchd.model import FileRecord
from batchd.results import Found
from batchd.states import Event
from tests.integration.api.ended import BUSY, LATE, NEVER, OK, Fate, Played, named, played
from tests.integration.api.harness import Answer, Api, refused
from tests.integration.api.lines import line
from tests.support.waiting import until

FATES: list[Fate] = [OK, BUSY, OK, LATE]


async def read(api: Api, batch_id: str, query: str = "") -> Answer:
    answer = await api.get(f"/v1/batches/{batch_id}/results{query}")
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/jsonl; charset=utf-8"
    return answer


def going_on(answer: Answer) -> tuple[str, bool]:
    return answer.headers["x-next-cursor"], answer.headers["x-has-more"] == "true"


async def test_a_running_batch_has_the_results_that_are_on_disk(judge: Api) -> None:
    batch = await played(judge, FATES)
    batch.runs()
    with judge.spool.file(str(batch.record.output_file_id)).open("ab") as growing:
        growing.write(b'{"id":"batch_req_torn')
    answer = await read(judge, batch.id)
    assert answer.body == batch.output + batch.errors
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    cursor, has_more = going_on(answer)
    assert has_more
    nothing = await read(judge, batch.id, f"?after={cursor}")
    assert (nothing.body, going_on(nothing)) == (b"", (cursor, True))


async def test_a_reader_gets_each_line_once_whenever_it_asks(judge: Api) -> None:
    seen = b""
    cursor = ""
    batch: Played | None = None
    data = named(*"abcd")
    record = (await played(judge, [], data)).record
    for number in range(5):
        batch = Played(judge, record, FATES[:number], data)
        batch.runs()
        answer = await read(judge, batch.id, cursor and f"?after={cursor}")
        cursor, has_more = going_on(answer)
        assert has_more
        seen += answer.body
    assert batch is not None
    await batch.ends()
    last = await read(judge, batch.id, f"?after={cursor}")
    assert (last.body, going_on(last)) == (b"", (cursor, False))
    assert sorted(seen.splitlines()) == sorted((batch.output + batch.errors).splitlines())


@pytest.mark.parametrize("is_over", [True, False])
async def test_they_can_be_picked_by_what_they_came_to(judge: Api, *, is_over: bool) -> None:
    batch = await played(judge, [*FATES, NEVER])
    batch.runs()
    if is_over:
        await batch.ends()
    completed = await read(judge, batch.id, "?status=completed")
    assert completed.body == batch.output
    failed = await read(judge, batch.id, f"?status=failed&after={going_on(completed)[0]}")
    assert failed.body == batch.errors
    assert (await read(judge, batch.id, f"?after={going_on(failed)[0]}")).body == b""


@pytest.mark.parametrize("is_over", [True, False])
async def test_each_line_can_carry_its_request(judge: Api, *, is_over: bool) -> None:
    data = b"\xef\xbb\xbf" + line("a") + b"\n" + line("b", more="\u2028") + line("c").rstrip()
    batch = await played(judge, [BUSY, OK, OK], data)
    batch.runs()
    if is_over:
        await batch.ends()
    answer = await read(judge, batch.id, "?include=input")
    assert len(answer.body.decode().splitlines()) == 3
    found = {item["custom_id"]: item for item in map(json.loads, answer.body.splitlines())}
    assert found["b"]["input"] == json.loads(line("b", more="\u2028"))
    assert found["a"]["input"]["custom_id"] == "a"
    assert found["c"]["response"]["body"] == {"ok": True}
    assert list(found["c"]) == ["id", "custom_id", "response", "error", "input"]
    assert judge.incoming() == []


async def test_a_batch_that_has_none_yet_or_never_will(judge: Api) -> None:
    failed = await judge.batch_id("file-" + "0" * 22)
    await judge.settled(failed)
    answer = await read(judge, failed)
    assert (answer.body, going_on(answer)) == (b"", ("0-0", False))
    waiting = (await played(judge, [], named("a"))).id
    answer = await read(judge, waiting, "?include=input")
    assert (answer.body, going_on(answer)) == (b"", ("0-0", True))


async def test_all_lines_of_one_kind(judge: Api) -> None:
    good = await (await played(judge, [OK, OK])).ends()
    assert (await read(judge, good.id)).body == good.output
    bad = await (await played(judge, [NEVER])).ends(Event.PUBLISHED)
    assert (await read(judge, bad.id)).body == bad.errors


@pytest.mark.parametrize("cursor", ["x", "1", "1-0", "0-ffffff", "-1-0", "", "0-0-0"])
async def test_a_cursor_that_points_nowhere_is_refused(judge: Api, cursor: str) -> None:
    batch = await (await played(judge, FATES)).ends()
    answer = await judge.get(f"/v1/batches/{batch.id}/results?after={cursor}")
    assert (answer.status, answer.json["error"]["param"]) == (400, "after")


@pytest.mark.parametrize("cursor", ["1-0", "0-1", "ffffffffffffffff-0", "7fffffffffffffff-0"])
async def test_where_there_is_nothing_no_cursor_but_the_first_is_right(
    judge: Api, cursor: str
) -> None:
    waiting = await played(judge, [], named("a"))
    unvalidated = await judge.batch_id("file-" + "0" * 22)
    nothing = await (await played(judge, [OK])).ends()
    for batch_id in (waiting.id, unvalidated, nothing.id):
        answer = await judge.get(f"/v1/batches/{batch_id}/results?after={cursor}")
        assert (answer.status, answer.json["error"]["param"]) == (400, "after")


async def test_a_look_at_the_headers_gets_no_line(judge: Api) -> None:
    batch = await (await played(judge, FATES)).ends()
    async with judge.client.session.head(f"{judge.url}/v1/batches/{batch.id}/results") as response:
        assert response.headers["x-next-cursor"]
        assert await response.read() == b""
    assert (await read(judge, batch.id)).body == batch.output + batch.errors


async def test_an_answer_that_breaks_off_is_seen_to_be_short(judge: Api) -> None:
    """A second answer inside the first would pass for lines."""
    fates: list[Fate] = [OK, BUSY]
    batch = await (await played(judge, fates)).ends()
    path = judge.spool.file(str(batch.record.error_file_id))
    found = judge.client.app[RESULTS]
    opened = found.find

    async def find(*args: Any) -> Found:
        answer = await opened(*args)
        await asyncio.to_thread(os.truncate, path, len(batch.errors) - 10)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found, "find", find)
        with pytest.raises(ClientPayloadError):
            await judge.get(f"/v1/batches/{batch.id}/results")


async def test_an_input_with_other_lines_than_were_validated_is_not_joined(judge: Api) -> None:
    batch = await (await played(judge, [OK, OK])).ends()
    path = judge.spool.file(batch.record.input_file_id)
    path.write_bytes(path.read_bytes().replace(b"\n", b" ", 1))
    answer = await judge.get(f"/v1/batches/{batch.id}/results?include=input")
    assert (answer.status, answer.json["error"]["code"]) == (500, "file_corrupt")
    assert judge.incoming() == []


async def test_an_input_that_ends_too_soon_is_not_joined(judge: Api) -> None:
    batch = await played(judge, [OK, OK])
    batch.runs()
    os.truncate(judge.spool.input(batch.id), 10)
    answer = await judge.get(f"/v1/batches/{batch.id}/results?include=input")
    message = (
        f"The input file of batch {batch.id} is shorter than it was: run `batchd fsck` where "
        "batchd runs."
    )
    refused(answer, 500, message, code="file_corrupt", kind="server_error")
    assert answer.headers["x-should-retry"] == "false"
    assert (await read(judge, batch.id)).body == batch.output


@pytest.mark.parametrize("is_over", [True, False])
async def test_an_input_that_the_disk_cannot_read_is_not_joined(
    judge: Api, monkeypatch: pytest.MonkeyPatch, *, is_over: bool
) -> None:
    batch = await played(judge, [OK, OK])
    batch.runs()
    if is_over:
        await batch.ends()
    monkeypatch.setattr(os, "pread", unreadable)
    answer = await judge.get(f"/v1/batches/{batch.id}/results?include=input")
    message = (
        f"The input file of batch {batch.id} cannot be read (Input/output error): run `batchd "
        "fsck` where batchd runs."
    )
    refused(answer, 500, message, code="file_corrupt", kind="server_error")
    assert judge.incoming() == []


def unreadable(*_: int) -> bytes:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_an_input_that_is_found_damaged_later_breaks_the_answer_off(
    judge: Api, caplog: pytest.LogCaptureFixture
) -> None:
    data = b"".join(line(name, more="x" * 300_000) for name in "abc")
    batch = await played(judge, [OK, OK, OK], data)
    batch.runs()
    os.truncate(judge.spool.input(batch.id), len(data) - 10)
    url = f"{judge.url}/v1/batches/{batch.id}/results?include=input"
    async with judge.client.session.get(url) as response:
        assert response.status == 200
        with pytest.raises(ClientPayloadError):
            await response.read()
    assert [entry.message for entry in caplog.records] == ["results_broken_off"]


async def test_an_input_that_is_deleted_as_it_is_looked_up_is_gone(judge: Api) -> None:
    batch = await (await played(judge, [OK])).ends()
    find_bytes = judge.files.find_bytes

    async def deleted(owner: str, file_id: str) -> tuple[FileRecord, Path]:
        found = await find_bytes(owner, file_id)
        if file_id == batch.record.input_file_id:
            await judge.files.delete(owner, file_id)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge.files, "find_bytes", deleted)
        answer = await judge.get(f"/v1/batches/{batch.id}/results?include=input")
    assert (answer.status, answer.json["error"]["code"]) == (404, None)
    assert "cannot be included" in answer.json["error"]["message"]
    assert judge.incoming() == []


@pytest.mark.parametrize(("name", "value"), [("status", "done"), ("include", "output")])
async def test_only_what_there_is_can_be_asked_for(api: Api, name: str, value: str) -> None:
    answer = await api.get(f"/v1/batches/{await api.batch_id()}/results?{name}={value}")
    assert (answer.status, answer.json["error"]["param"]) == (400, name)


async def test_what_was_deleted_is_gone(judge: Api) -> None:
    batch = await (await played(judge, FATES)).ends()
    await judge.files.delete("local", batch.record.input_file_id)
    answer = await judge.get(f"/v1/batches/{batch.id}/results?include=input")
    assert answer.status == 404
    assert "cannot be included" in answer.json["error"]["message"]
    await judge.files.delete("local", str(batch.record.output_file_id))
    answer = await judge.get(f"/v1/batches/{batch.id}/results")
    assert answer.status == 404
    assert "were deleted or have expired" in answer.json["error"]["message"]
    assert (await read(judge, batch.id, "?status=failed")).body == batch.errors
    unknown = await judge.get(f"/v1/batches/batch_{'0' * 32}/results")
    assert unknown.status == 404


@pytest.mark.parametrize("is_over", [True, False])
async def test_a_reader_holds_no_more_descriptors_than_are_counted_for_it(
    judge: Api, *, is_over: bool
) -> None:
    data = b"".join(line(name, more="x" * (1 << 20)) for name in "abcdefghijklmnopqrst")
    batch = await played(judge, [OK] * 20, data)  # more than sockets hold on the way
    batch.runs()
    if is_over:
        await batch.ends()
    url = f"{judge.url}/v1/batches/{batch.id}/results?include=input"
    assert files_open(judge) == 0
    async with judge.client.session.get(url) as response:
        assert response.status == 200
        assert files_open(judge) == 3  # and its connection
        await response.read()
    await until(lambda: files_open(judge) == 0)


def files_open(api: Api) -> int:
    """How many of the files in the spool are open, those included that have no name any more."""
    folders = tuple(f"{api.spool.directory}/{name}/" for name in ("files", "batches", "incoming"))
    links = list(Path("/proc/self/fd").iterdir())
    return sum(str(link.readlink()).startswith(folders) for link in links if link.is_symlink())


async def test_a_reader_that_leaves_leaves_nothing_open(judge: Api) -> None:
    batch = await (await played(judge, FATES)).ends()
    async with judge.client.session.get(
        f"{judge.url}/v1/batches/{batch.id}/results?include=input"
    ) as response:
        assert response.status == 200
    assert judge.incoming() == []
