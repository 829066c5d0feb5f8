"""A create that is sent twice makes one batch, if its sender gives it a name or says that it is."""

import asyncio
from collections.abc import Mapping

import pytest

from tests.integration.api.harness import Answer, Api, refused, wish

AGAIN = {"x-stainless-retry-count": "1"}


async def create(
    api: Api, body: Mapping[str, object], headers: Mapping[str, str] | None = None
) -> Answer:
    return await api.ask("POST", "/v1/batches", json=body, headers=headers)


async def count(api: Api) -> int:
    return len((await api.get("/v1/batches")).json["data"])


@pytest.mark.parametrize("in_header", [True, False])
async def test_the_same_key_gives_the_same_batch_for_ever(api: Api, *, in_header: bool) -> None:
    asked = wish(await api.file_id(), metadata={"b": "2", "a": "1"})
    same = {**asked, "metadata": {"a": "1", "b": "2"}}
    if in_header:
        headers = {"Idempotency-Key": "night-7"}
        first, second = await create(api, asked, headers), await create(api, same, headers)
    else:
        first = await create(api, {**asked, "idempotency_key": "night-7"})
        second = await create(api, {**same, "idempotency_key": "night-7"})
    assert first.status == second.status == 200
    assert first.json == second.json
    api.clock.turn(10 * 86400)
    third = await create(api, asked, {"Idempotency-Key": "night-7"})
    assert third.json["id"] == first.json["id"]
    assert await count(api) == 1


async def test_a_key_is_for_one_wish(api: Api) -> None:
    asked, headers = wish(await api.file_id()), {"Idempotency-Key": "k"}
    first = await create(api, asked, headers)
    other = await create(api, {**asked, "priority": 1}, headers)
    refused(
        other,
        409,
        f"The idempotency key 'k' was used before, for batch {first.json['id']}, which was asked "
        "for with other parameters. Use another key.",
        code="idempotency_key_reused",
        param="idempotency_key",
    )
    assert other.headers["x-should-retry"] == "false"
    assert (await create(api, asked, {"Idempotency-Key": "l"})).json["id"] != first.json["id"]


async def test_many_at_once_are_one(api: Api) -> None:
    asked, headers = wish(await api.file_id()), {"Idempotency-Key": "k"}
    answers = await asyncio.gather(*(create(api, asked, headers) for _ in range(10)))
    assert len({answer.json["id"] for answer in answers}) == 1
    assert await count(api) == 1


async def test_what_an_sdk_repeats_within_a_minute_is_the_same(api: Api) -> None:
    asked = wish(await api.file_id(), metadata={"a": "1"})
    first = (await create(api, asked)).json["id"]
    assert (await create(api, asked, AGAIN)).json["id"] == first
    other = (await create(api, {**asked, "metadata": None}, AGAIN)).json["id"]
    fresh = (await create(api, asked, {"x-stainless-retry-count": "0"})).json["id"]
    api.clock.turn(61)
    late = (await create(api, asked, AGAIN)).json["id"]
    assert len({first, other, fresh, late}) == 4


async def test_a_repeat_is_answered_though_the_disk_is_full(api: Api) -> None:
    """The answer was lost, the batch was not."""
    asked, headers = wish(await api.file_id()), {"Idempotency-Key": "k"}
    first = await create(api, asked, headers)
    api.room.note_full()
    assert (await create(api, asked, headers)).json["id"] == first.json["id"]
    assert (await create(api, asked, {"Idempotency-Key": "l"})).status == 503


async def test_keys_of_others_are_no_concern(guarded: Api) -> None:
    key = {"Authorization": "Bearer right-key-of-anna", "Idempotency-Key": "k"}
    body = wish("file-" + "0" * 22)
    first = await guarded.ask("POST", "/v1/batches", json=body, headers=key)
    assert first.status == 200
    record = await guarded.batches.find(first.json["id"])
    assert record is not None
    assert (record.owner, record.idempotency_key) == ("anna", "k")


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", 7])
async def test_a_key_is_a_short_text(api: Api, key: object) -> None:
    answer = await create(api, {**wish(await api.file_id()), "idempotency_key": key})
    assert (answer.status, answer.json["error"]["param"]) == (400, "idempotency_key")


async def test_a_key_in_the_body_is_looked_at_though_the_header_has_one(api: Api) -> None:
    asked = {**wish(await api.file_id()), "idempotency_key": ""}
    answer = await create(api, asked, {"Idempotency-Key": "k"})
    assert (answer.status, answer.json["error"]["param"]) == (400, "idempotency_key")


async def test_a_repeat_may_be_counted_with_any_number_of_digits(api: Api) -> None:
    asked = wish(await api.file_id())
    first = (await create(api, asked)).json["id"]
    again = await create(api, asked, {"x-stainless-retry-count": "9" * 5000})
    assert (again.status, again.json["id"]) == (200, first)
