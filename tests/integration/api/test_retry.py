"""The lines that came to nothing, as a batch of their own."""

from collections.abc import Sequence
from typing import Any

import pytest

from batchd.model import LineError
from batchd.states import Event
from tests.integration.api.ended import BUSY, LATE, NEVER, ODD, OK, Fate, named, played
from tests.integration.api.harness import Api, refused
from tests.integration.api.lines import line
from tests.support.bad_sectors import WornDisk

FATES: list[Fate] = [OK, BUSY, LATE, OK, ODD, NEVER]


async def retried(api: Api, batch_id: str, **body: object) -> dict[str, Any]:
    answer = await api.post(f"/v1/batches/{batch_id}/retry", body or None)
    assert answer.status == 200, answer.body
    return answer.json


async def requests_of(api: Api, batch: dict[str, Any]) -> bytes:
    return (await api.get(f"/v1/files/{batch['input_file_id']}/content")).body


async def test_only_what_came_to_nothing_is_run_again(judge: Api) -> None:
    first = await (await played(judge, FATES)).ends()
    batch = await retried(judge, first.id)
    assert await requests_of(judge, batch) == named(*"bcef")
    assert batch["batchd"]["parent_id"] == first.id
    assert (batch["status"], batch["endpoint"]) == ("validating", first.record.endpoint)
    settled = await judge.settled(batch["id"])
    assert (settled["status"], settled["request_counts"]["total"]) == ("in_progress", 4)
    file = (await judge.get(f"/v1/files/{batch['input_file_id']}")).json
    assert (file["purpose"], file["filename"]) == ("batch", f"{first.id}_retry.jsonl")


@pytest.mark.parametrize(
    ("codes", "names"),
    [
        (["busy"], "b"),
        (["503"], "b"),
        ([503, "request_timeout"], "bc"),
        (["401"], "e"),
        (["batch_cancelled"], "f"),
    ],
)
async def test_what_is_run_again_can_be_picked_by_code(
    judge: Api, codes: Sequence[object], names: str
) -> None:
    first = await (await played(judge, FATES)).ends()
    batch = await retried(judge, first.id, codes=codes)
    assert await requests_of(judge, batch) == named(*names)


async def test_the_bytes_of_a_line_stay_as_they_were(judge: Api) -> None:
    odd = b'{"body" : {"model":"m","messages":[],"n":1.0000000000000000001,"t":"\xe2\x80\xa8"}, '
    odd += b'"url":"/v1/chat/completions","method":"POST","custom_id":"b"}'
    data = b"\xef\xbb\xbf" + line("a") + b"\r\n \n" + odd  # a mark, blank lines, no end
    first = await (await played(judge, [BUSY, BUSY], data)).ends()
    batch = await retried(judge, first.id)
    assert await requests_of(judge, batch) == line("a") + odd + b"\n"


async def test_it_runs_on_the_same_terms_unless_others_are_named(judge: Api) -> None:
    first = await (await played(judge, [BUSY])).ends()
    batch = await retried(judge, first.id, priority=4, metadata={"try": "2"})
    assert batch["metadata"] == {"try": "2"}
    assert batch["batchd"]["priority"] == 4
    plain = await retried(judge, first.id)
    assert (plain["metadata"], plain["batchd"]["priority"]) == (None, 0)
    answer = await judge.post(f"/v1/batches/{first.id}/retry", {"completion_window": "1h"})
    refused(
        answer,
        400,
        "Invalid value for 'completion_window': '1h'. Supported values are: '24h'.",
        code="invalid_value",
        param="completion_window",
    )


async def test_a_retry_with_a_key_is_made_once_and_leaves_no_second_file(judge: Api) -> None:
    first = await (await played(judge, [BUSY, OK])).ends()
    path, key = f"/v1/batches/{first.id}/retry", {"Idempotency-Key": "k"}
    once = await judge.ask("POST", path, headers=key)
    files = judge.spooled()
    twice = await judge.ask("POST", path, headers=key)
    assert once.json["id"] == twice.json["id"]
    assert judge.spooled() == files
    other = await judge.ask("POST", path, json={"codes": ["busy"]}, headers=key)
    assert (other.status, other.json["error"]["code"]) == (409, "idempotency_key_reused")
    assert judge.spooled() == files


async def test_a_retry_with_a_key_is_answered_for_ever(judge: Api) -> None:
    first = await (await played(judge, [BUSY])).ends()
    path, key = f"/v1/batches/{first.id}/retry", {"Idempotency-Key": "k"}
    once = await judge.ask("POST", path, headers=key)
    judge.room.note_full()
    assert (await judge.ask("POST", path, headers=key)).json["id"] == once.json["id"]
    await judge.see_room()
    await judge.files.delete("local", first.record.input_file_id)
    assert (await judge.ask("POST", path, headers=key)).json["id"] == once.json["id"]
    assert (await judge.ask("POST", path)).status == 409


@pytest.mark.parametrize(
    ("old", "new"), [(b"\n", b" "), (b'{"custom_id": "b"', b'\n"custom_id": "b"')]
)
async def test_an_input_with_other_lines_than_were_validated_is_not_believed(
    judge: Api, old: bytes, new: bytes
) -> None:
    first = await (await played(judge, [OK, BUSY])).ends()
    path = judge.spool.file(first.record.input_file_id)
    path.write_bytes(path.read_bytes().replace(old, new, 1).replace(b"}}\n\n", b"}}\n{\n", 1))
    answer = await judge.post(f"/v1/batches/{first.id}/retry", None)
    assert (answer.status, answer.json["error"]["code"]) == (500, "file_corrupt")
    assert judge.incoming() == []


async def test_a_batch_cancelled_before_it_was_validated_is_run_whole(api: Api) -> None:
    batch_id = await api.batch_id(await api.file_id(named("a", "b")))
    await api.batches.cancel("local", batch_id)
    await api.batches.never_started(batch_id, Event.PUBLISHED)
    batch = await retried(api, batch_id, codes=["batch_cancelled"])
    assert await requests_of(api, batch) == named("a", "b")
    assert batch["batchd"]["parent_id"] == batch_id
    answer = await api.post(f"/v1/batches/{batch_id}/retry", {"codes": ["503"]})
    assert answer.status == 409


async def test_there_may_be_nothing_to_run_again(judge: Api) -> None:
    done = await (await played(judge, [OK])).ends()
    answer = await judge.post(f"/v1/batches/{done.id}/retry", None)
    refused(answer, 409, f"Cannot retry batch {done.id}: every line of it was answered.")
    failed = await (await played(judge, [BUSY])).ends()
    answer = await judge.post(f"/v1/batches/{failed.id}/retry", {"codes": ["429", "401"]})
    refused(answer, 409, f"Cannot retry batch {failed.id}: no line of it failed with 401, 429.")


async def test_only_what_has_ended_is_run_again(judge: Api) -> None:
    running = await played(judge, [BUSY])
    answer = await judge.post(f"/v1/batches/{running.id}/retry", None)
    message = (
        "Cannot retry a batch with status 'in_progress': wait until it has ended, or cancel it."
    )
    refused(answer, 409, message)
    batch_id = await judge.batch_id("file-" + "0" * 22)
    assert (await judge.settled(batch_id))["status"] == "failed"
    answer = await judge.post(f"/v1/batches/{batch_id}/retry", None)
    assert answer.status == 409
    assert "its input was not accepted" in answer.json["error"]["message"]


@pytest.mark.parametrize("which", ["input", "error"])
async def test_lines_that_are_gone_cannot_be_run_again(judge: Api, which: str) -> None:
    first = await (await played(judge, [BUSY])).ends()
    gone = first.record.input_file_id if which == "input" else str(first.record.error_file_id)
    await judge.files.delete("local", gone)
    answer = await judge.post(f"/v1/batches/{first.id}/retry", None)
    refused(
        answer,
        409,
        f"Cannot retry batch {first.id}: its {which} file {gone} was deleted or has expired.",
    )


async def test_a_damaged_error_file_is_not_believed(judge: Api) -> None:
    first = await (await played(judge, [BUSY, BUSY])).ends()
    path = judge.spool.file(str(first.record.error_file_id))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"busy", b"bizy", 1))
    answer = await judge.post(f"/v1/batches/{first.id}/retry", None)
    assert (answer.status, answer.json["error"]["code"]) == (500, "file_corrupt")
    assert len(judge.spooled()) == 2  # nothing was made of it


@pytest.mark.parametrize("which", ["input", "error"])
async def test_lines_that_the_disk_cannot_read_cannot_be_run_again(
    judge: Api, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    first = await (await played(judge, [BUSY, OK])).ends()
    bad = first.record.input_file_id if which == "input" else str(first.record.error_file_id)
    worn, files = WornDisk(judge.spool.file(bad), {0}), judge.spooled()
    monkeypatch.setattr(judge.spool.disk, "open_read", worn.open_read)
    answer = await judge.post(f"/v1/batches/{first.id}/retry", None)
    message = (
        f"The {which} file of batch {first.id} cannot be read (Input/output error): run `batchd "
        "fsck` where batchd runs."
    )
    refused(answer, 500, message, code="file_corrupt", kind="server_error")
    assert judge.spooled() == files


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"codes": "503"}, "codes"),
        ({"codes": []}, "codes"),
        ({"codes": [None]}, "codes[0]"),
        ({"codes": ["a", "b" * 256]}, "codes[1]"),
        ({"priority": 11}, "priority"),
        ({"metadata": []}, "metadata"),
        ({"completion_window": 24}, "completion_window"),
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused(api: Api, body: object, param: str) -> None:
    answer = await api.post(f"/v1/batches/{await api.batch_id()}/retry", body)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


async def test_a_batch_that_was_rejected_has_no_lines(api: Api) -> None:
    batch_id = await api.batch_id()
    await api.batches.rejected(batch_id, [LineError("empty_file", "It is.")])
    answer = await api.post(f"/v1/batches/{batch_id}/retry", None)
    assert answer.status == 409
