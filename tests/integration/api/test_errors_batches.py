"""The errors of ``/v1/batches``, to the letter, and the table of cancel (contract 3)."""

from collections.abc import Awaitable, Callable

import pytest

from batchd.closing import Closing
from batchd.model import NO_USAGE, Counts, LineError
from batchd.states import Event
from tests.integration.api.harness import CHAT, START, Api, Setup, refused, wish

StartApi = Callable[[Setup], Awaitable[Api]]

UNKNOWN_ID = "batch_69c3c34700112233445566778899aabb"
DAY = 86400
ENDS = ("completed", "failed", "expired", "cancelled")
ZERO_USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


async def bring(api: Api, status: str) -> str:
    """The id of a batch that has come to this status."""
    batch_id = await api.batch_id()
    batches = api.batches
    if status == "failed":
        await batches.rejected(batch_id, [LineError("invalid_json_line", "x", None, 1)])
    elif status in ("cancelling", "cancelled"):
        await batches.cancel("local", batch_id)
        if status == "cancelled":
            await batches.never_started(batch_id, Event.PUBLISHED)
    elif status != "validating":
        await batches.validated(batch_id, total=2, model="m")
        if status != "in_progress":
            await finish(api, batch_id, status)
    assert (await batches.get("local", batch_id)).status == status
    return batch_id


async def finish(api: Api, batch_id: str, status: str) -> None:
    """Go on from ``in_progress``: to ``finalizing``, ``completed`` or ``expired``."""
    late = status == "expired"
    await api.batches.advance(batch_id, Event.WINDOW_CLOSED if late else Event.LINES_DONE)
    if status == "finalizing":
        return
    record = await api.batches.get("local", batch_id)
    assert record.output_file_id is not None
    api.spool.file(record.output_file_id).write_bytes(b"{}\n")
    counts = Counts(2, 1, 0) if late else Counts(2, 2, 0)
    closing = Closing(counts=counts, usage=NO_USAGE, output_bytes=3, error_bytes=0)
    end = Event.PUBLISHED_LATE if late else Event.PUBLISHED
    await api.batches.finished(batch_id, end, closing)


async def test_a_new_batch_has_every_key(api: Api) -> None:
    answer = await api.post("/v1/batches", wish("file-x", metadata={"a": "b"}))
    batch_id = answer.json["id"]
    assert int(batch_id[6:14], 16) == START
    assert answer.json == {
        "id": batch_id,
        "object": "batch",
        "endpoint": CHAT,
        "model": None,
        "errors": None,
        "input_file_id": "file-x",
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": START,
        "in_progress_at": None,
        "expires_at": START + DAY,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": ZERO_USAGE,
        "metadata": {"a": "b"},
        "batchd": {
            "priority": 0,
            "paused_at": None,
            "parent_id": None,
            "notes": [],
            "retrying": None,
        },
    }
    assert (await api.get(f"/v1/batches/{batch_id}")).json == answer.json


@pytest.mark.parametrize("window", ["", "24H", "1h", "24 h", "86400"])
async def test_another_window_is_refused_by_name(api: Api, window: str) -> None:
    message = f"Invalid value for 'completion_window': '{window}'. Supported values are: '24h'."
    answer = await api.post("/v1/batches", wish("file-x", completion_window=window))
    refused(answer, 400, message, code="invalid_value", param="completion_window")


@pytest.mark.parametrize("endpoint", ["/v1/responses", "", "v1/chat/completions", f"{CHAT}/"])
async def test_another_endpoint_is_refused_with_those_there_are(api: Api, endpoint: str) -> None:
    message = (
        f"Invalid value: '{endpoint}'. Supported values are: '/v1/chat/completions', "
        "'/v1/completions', and '/v1/embeddings'."
    )
    answer = await api.post("/v1/batches", wish("file-x", endpoint=endpoint))
    refused(answer, 400, message, code="invalid_value", param="endpoint")


async def test_an_input_with_another_purpose_is_refused_at_once(api: Api) -> None:
    file_id = await api.file_id(purpose="user_data")
    message = (
        f"Invalid 'input_file_id': file {file_id} has purpose 'user_data', but a batch needs one "
        "uploaded with purpose 'batch'."
    )
    answer = await api.post("/v1/batches", wish(file_id))
    refused(answer, 400, message, code="invalid_value", param="input_file_id")
    assert (await api.get("/v1/batches")).json["data"] == []


@pytest.mark.parametrize("kind", ["unknown", "deleted", "expired", "odd"])
async def test_a_missing_input_fails_the_batch_and_not_the_create(
    start_api: StartApi, kind: str
) -> None:
    api = await start_api(Setup(validating=True))
    file_id = {"unknown": "file-" + "0" * 22, "odd": "../\x00"}.get(kind) or await api.file_id()
    if kind == "deleted":
        await api.ask("DELETE", f"/v1/files/{file_id}")
    if kind == "expired":
        api.clock.turn(30 * DAY)
    batch = await api.settled(await api.batch_id(file_id))
    message = f"Cannot find file {file_id}, or organization local does not have access to it."
    error = {"code": "invalid_request", "message": message, "param": "file_id", "line": None}
    assert batch["status"] == "failed"
    assert batch["errors"] == {"object": "list", "data": [error]}


@pytest.mark.parametrize("sent", [UNKNOWN_ID, "batch_x", "%2e%2e%2f", "%00", "file-" + "0" * 22])
async def test_an_unknown_batch_is_named(api: Api, sent: str) -> None:
    shown = {"%2e%2e%2f": "../", "%00": "\x00"}.get(sent, sent)
    message = f"No batch found with id '{shown}'."
    refused(await api.get(f"/v1/batches/{sent}"), 404, message)
    refused(await api.ask("POST", f"/v1/batches/{sent}/cancel"), 404, message)


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing"])
async def test_a_cancel_is_accepted_while_there_is_something_to_cancel(
    api: Api, status: str
) -> None:
    batch_id = await bring(api, status)
    api.clock.turn(7)
    answer = await api.ask("POST", f"/v1/batches/{batch_id}/cancel")
    assert answer.status == 200
    assert (answer.json["status"], answer.json["cancelling_at"]) == ("cancelling", START + 7)


@pytest.mark.parametrize("status", ["cancelling", "cancelled"])
async def test_a_second_cancel_changes_nothing(api: Api, status: str) -> None:
    batch_id = await bring(api, status)
    before = (await api.get(f"/v1/batches/{batch_id}")).json
    api.clock.turn(7)
    answer = await api.ask("POST", f"/v1/batches/{batch_id}/cancel")
    assert (answer.status, answer.json) == (200, before)
    assert isinstance(answer.json["cancelling_at"], int)


@pytest.mark.parametrize("status", ["completed", "failed", "expired"])
async def test_a_batch_that_has_ended_cannot_be_cancelled(api: Api, status: str) -> None:
    batch_id = await bring(api, status)
    before = (await api.get(f"/v1/batches/{batch_id}")).json
    answer = await api.ask("POST", f"/v1/batches/{batch_id}/cancel")
    refused(answer, 409, f"Cannot cancel a batch with status '{status}'.")
    assert answer.headers["x-should-retry"] == "false"
    assert (await api.get(f"/v1/batches/{batch_id}")).json == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Content-Type": "application/json", "Content-Length": "0"},
        {"Content-Length": "0"},
        {},
    ],
)
async def test_a_cancel_needs_no_body_whatever_its_headers_say(
    api: Api, headers: dict[str, str]
) -> None:
    batch_id = await bring(api, "in_progress")
    answer = await api.ask("POST", f"/v1/batches/{batch_id}/cancel", headers=headers)
    assert answer.json["status"] == "cancelling"


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", *ENDS])
async def test_a_batch_in_any_status_keeps_to_the_schema(api: Api, status: str) -> None:
    batch_id = await bring(api, status)
    batch = (await api.get(f"/v1/batches/{batch_id}")).json
    listed = (await api.get("/v1/batches")).json
    assert batch["status"] == status
    assert listed["data"] == [batch]
    ends = {end: batch[f"{end}_at"] for end in ENDS}
    assert [end for end, at in ends.items() if at is not None] == [status] * (status in ENDS)


async def test_the_files_of_a_finished_batch_can_be_fetched_and_expire(api: Api) -> None:
    batch_id = await bring(api, "completed")
    file_id = (await api.get(f"/v1/batches/{batch_id}")).json["output_file_id"]
    file = (await api.get(f"/v1/files/{file_id}")).json
    assert (file["purpose"], file["filename"]) == ("batch_output", f"{batch_id}_output.jsonl")
    assert file["expires_at"] == START + 30 * DAY
    assert (await api.get(f"/v1/files/{file_id}/content")).body == b"{}\n"
    await api.ask("DELETE", f"/v1/files/{file_id}")
    assert (await api.get(f"/v1/batches/{batch_id}")).json["output_file_id"] == file_id


async def test_the_lifetime_of_result_files_counts_from_their_own_creation(api: Api) -> None:
    body = wish(await api.file_id(), output_expires_after={"seconds": 3600})
    batch_id = (await api.post("/v1/batches", body)).json["id"]
    await api.batches.validated(batch_id, total=2, model="m")
    api.clock.turn(1000)
    await finish(api, batch_id, "completed")
    file_id = (await api.get(f"/v1/batches/{batch_id}")).json["output_file_id"]
    assert (await api.get(f"/v1/files/{file_id}")).json["expires_at"] == START + 4600


async def test_the_hidden_ids_of_result_files_name_nothing_before_the_end(api: Api) -> None:
    batch_id = await bring(api, "in_progress")
    hidden = (await api.batches.get("local", batch_id)).output_file_id
    answer = await api.get(f"/v1/files/{hidden}/content")
    refused(answer, 404, f"No such File object: {hidden}", param="id")
