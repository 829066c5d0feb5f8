"""Pause, resume and priority: what clients ask for, and what they are told."""

import pytest

from batchd.model import LineError
from tests.integration.api.harness import Api, refused, wish

NOTE = (
    "paused since 2027-01-15 08:00:00 UTC: nothing more is sent until it is resumed; its "
    "completion window goes on, and ends at 2027-01-16 08:00:00 UTC"
)


async def test_a_paused_batch_keeps_its_status_and_says_what_goes_on(api: Api) -> None:
    batch_id = await api.batch_id()
    paused = (await api.post(f"/v1/batches/{batch_id}/pause", None)).json
    assert paused["status"] == "validating"
    assert paused["batchd"]["paused_at"] == api.clock()
    assert paused["batchd"]["notes"] == [NOTE]
    api.clock.turn(60)
    again = (await api.post(f"/v1/batches/{batch_id}/pause", {})).json
    assert again == paused
    resumed = (await api.post(f"/v1/batches/{batch_id}/resume", None)).json
    assert (resumed["batchd"]["paused_at"], resumed["batchd"]["notes"]) == (None, [])
    assert (await api.post(f"/v1/batches/{batch_id}/resume", None)).json == resumed


async def test_a_batch_that_was_cancelled_is_paused_no_more(api: Api) -> None:
    batch_id = await api.batch_id()
    await api.post(f"/v1/batches/{batch_id}/pause", None)
    cancelled = (await api.post(f"/v1/batches/{batch_id}/cancel", None)).json
    assert (cancelled["batchd"]["paused_at"], cancelled["batchd"]["notes"]) == (None, [])


@pytest.mark.parametrize(
    ("verb", "words", "body"),
    [
        ("pause", "pause", None),
        ("resume", "resume", None),
        ("priority", "change the priority of", {"priority": 1}),
    ],
)
async def test_what_has_ended_cannot_be_steered(
    api: Api, verb: str, words: str, body: object
) -> None:
    batch_id = await api.batch_id()
    await api.batches.rejected(batch_id, [LineError("empty_file", "It is.")])
    answer = await api.post(f"/v1/batches/{batch_id}/{verb}", body)
    refused(answer, 409, f"Cannot {words} a batch with status 'failed'.")
    assert answer.headers["x-should-retry"] == "false"
    unknown = await api.post(f"/v1/batches/batch_{'0' * 32}/{verb}", body)
    refused(unknown, 404, f"No batch found with id 'batch_{'0' * 32}'.")


async def test_a_priority_can_be_changed(api: Api) -> None:
    answer = await api.post("/v1/batches", wish(await api.file_id(), priority=3))
    batch_id = answer.json["id"]
    changed = (await api.post(f"/v1/batches/{batch_id}/priority", {"priority": -4})).json
    assert changed["batchd"]["priority"] == -4
    assert (await api.batches.controls())[batch_id].priority == -4


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({}, "Missing required parameter: 'priority'.", "missing_required_parameter"),
        (
            {"priority": "high"},
            "Invalid type for 'priority': expected an integer, but got a string instead.",
            "invalid_type",
        ),
        (
            {"priority": 11},
            (
                "Invalid 'priority': integer above maximum value. Expected a value <= 10, but got "
                "11 instead."
            ),
            "integer_above_max_value",
        ),
    ],
)
async def test_a_priority_is_a_number_in_its_range(
    api: Api, body: object, message: str, code: str
) -> None:
    answer = await api.post(f"/v1/batches/{await api.batch_id()}/priority", body)
    refused(answer, 400, message, code=code, param="priority")
