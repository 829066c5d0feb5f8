"""Section 15 of the contract: each sentence of the two documents that batchd was made from.

One test or more for each row, with its number, through openai-python and the real program.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from tests.acceptance.conftest import Service, StartService
from tests.acceptance.scripts.asking import (
    CHAT,
    ask,
    completed,
    create,
    error_codes,
    jsonl,
    line,
    poll,
    results,
)
from tests.support.waiting import wait_until

MONTH = 2592000
STATUSES = set(get_args(Batch.model_fields["status"].annotation))


@pytest.fixture(scope="module")
def plain(start_service: StartService) -> Iterator[OpenAI]:
    """A client of a service whose windows are the default ones."""
    service = start_service(batches={"finish_grace": "0s"})
    with OpenAI(
        base_url=service.base_url, api_key="any", _strict_response_validation=True
    ) as client:
        yield client


def embeddings(*inputs: object) -> bytes:
    return jsonl(
        *(
            {
                "custom_id": f"{number}",
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": "test-model", "input": given},
            }
            for number, given in enumerate(inputs)
        )
    )


def start(client: OpenAI, content: bytes, endpoint: str) -> Batch:
    file = client.files.create(file=content, purpose="batch")
    return ask(client, input_file_id=file.id, endpoint=endpoint)


def test_0_1_a_batch_expires_when_its_window_ends(client: OpenAI) -> None:
    batch = create(client, jsonl(line("quick"), line("slow", behave="timeout")), "2s")
    assert batch.expires_at == batch.created_at + 2
    batch = poll(client, batch, "expired")
    assert (batch.expired_at or 0) >= batch.created_at + 2
    assert set(results(client, batch.output_file_id)) == {"quick"}
    left = results(client, batch.error_file_id)
    assert left["slow"]["error"]["code"] == "batch_expired"
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (2, 1, 0)


def test_0_1_only_24_hours_are_taken_by_default(plain: OpenAI) -> None:
    batch = ask(plain)
    assert batch.expires_at == batch.created_at + 86400
    for window in ("48h", "2s", ""):
        with pytest.raises(openai.BadRequestError, match="completion_window") as refused:
            ask(plain, completion_window=window)
        assert (refused.value.param, refused.value.code) == ("completion_window", "invalid_value")


def test_0_2_three_endpoints_and_every_url_is_the_batches_own(client: OpenAI) -> None:
    for endpoint in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
        body = {"prompt": "say a", "input": "say a"}
        own = line("a", **body) | {"url": endpoint}
        batch = poll(client, start(client, jsonl(own), endpoint), "completed")
        answer = results(client, batch.output_file_id)["a"]["response"]
        assert (batch.endpoint, answer["status_code"]) == (endpoint, 200)
    failed = poll(client, start(client, jsonl(line("a")), "/v1/embeddings"), "failed")
    assert error_codes(failed) == ["invalid_url"]
    with pytest.raises(openai.BadRequestError, match="/v1/responses"):
        ask(client, endpoint="/v1/responses")


def test_0_3_the_input_file_has_the_purpose_batch(client: OpenAI) -> None:
    other = client.files.create(file=jsonl(line("a")), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match=other.id) as refused:
        ask(client, input_file_id=other.id)
    assert refused.value.param == "input_file_id"


def test_0_4_sixteen_pairs_of_metadata_of_64_and_512_characters(client: OpenAI) -> None:
    most = {f"{number:064}": "ä" * 512 for number in range(16)}
    assert ask(client, metadata=most).metadata == most
    refused = {
        "object_above_max_properties": most | {"one": "more"},
        "property_name_above_max_length": {"k" * 65: ""},
        "string_above_max_length": {"k": "v" * 513},
        "invalid_type": {"k": 1},
    }
    for code, metadata in refused.items():
        with pytest.raises(openai.BadRequestError, match="metadata") as error:
            ask(client, metadata=metadata)
        assert error.value.code == code


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (None, MONTH),
        ({}, MONTH),
        ({"seconds": 3600}, 3600),
        ({"anchor": "created_at"}, MONTH),
        ({"anchor": "created_at", "seconds": MONTH}, MONTH),
    ],
)
def test_0_5_result_files_expire_that_long_after_their_own_creation(
    client: OpenAI, given: dict[str, object] | None, seconds: int
) -> None:
    content = jsonl(line("good"), line("bad", behave="400"))
    more = {} if given is None else {"output_expires_after": given}
    batch = poll(client, create(client, content, **more), "completed")
    for file_id in (batch.output_file_id, batch.error_file_id):
        file = client.files.retrieve(file_id or "")
        assert file.expires_at == file.created_at + seconds
        assert file.created_at >= (batch.finalizing_at or 0)


@pytest.mark.parametrize(
    "given", [{"seconds": 3599}, {"seconds": MONTH + 1}, {"anchor": "completed_at"}]
)
def test_0_5_other_expiries_are_refused(client: OpenAI, given: dict[str, object]) -> None:
    member = next(iter(given))
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, output_expires_after=given)
    assert refused.value.param == f"output_expires_after.{member}"


def test_0_6_a_batch_is_retrieved_by_its_id(client: OpenAI) -> None:
    batch = poll(client, ask(client), "completed")
    assert client.batches.retrieve(batch.id) == batch
    with pytest.raises(openai.NotFoundError, match="batch_unknown"):
        client.batches.retrieve("batch_unknown")


def test_0_7_a_list_starts_right_after_the_given_id(client: OpenAI) -> None:
    newest_first = [ask(client).id for _ in range(3)][::-1]
    assert [batch.id for batch in client.batches.list().data[:3]] == newest_first
    after = client.batches.list(after=newest_first[0]).data
    assert [batch.id for batch in after[:2]] == newest_first[1:]
    with pytest.raises(openai.BadRequestError, match="batch_unknown"):
        client.batches.list(after="batch_unknown")


def test_0_8_a_page_has_1_to_100_batches_and_20_by_default(client: OpenAI) -> None:
    file = client.files.create(file=jsonl(line("a")), purpose="batch")
    with ThreadPoolExecutor(8) as several:
        made = [several.submit(ask, client, input_file_id=file.id) for _ in range(101)]
    assert len({each.result().id for each in made}) == 101
    assert len(client.batches.list().data) == 20
    assert len(client.batches.list(limit=1).data) == 1
    assert len(client.batches.list(limit=100).data) == 100
    for limit in (0, 101):
        with pytest.raises(openai.BadRequestError, match=f"limit.*{limit}"):
            client.batches.list(limit=limit)


def test_0_9_a_list_says_whether_there_is_more(client: OpenAI) -> None:
    for _ in range(2):
        ask(client)
    page = client.batches.list(limit=1)
    assert (page.to_dict()["object"], page.has_more, page.has_next_page()) == ("list", True, True)
    everything = [batch.id for batch in client.batches.list(limit=100)]
    last = client.batches.list(after=everything[-2])
    assert [batch.id for batch in last.data] == everything[-1:]
    assert last.has_more is False
    after_all = client.batches.list(after=everything[-1])
    assert (after_all.data, after_all.has_more) == ([], False)


def test_0_10_what_a_cancelled_batch_finished_is_output_the_rest_errors(client: OpenAI) -> None:
    slow = [line(f"slow {number}", behave="timeout") for number in range(100)]
    batch = create(client, jsonl(line("quick"), *slow))
    wait_until(lambda: completed(client, batch) == 1, within=10)
    cancelling = client.batches.cancel(batch.id)
    assert cancelling.status == "cancelling"
    assert cancelling.cancelling_at is not None
    batch = poll(client, cancelling, "cancelled")
    assert set(results(client, batch.output_file_id)) == {"quick"}
    left = results(client, batch.error_file_id)
    assert len(left) == 100
    assert {entry["error"]["code"] for entry in left.values()} == {"batch_cancelled"}


def test_1_1_create_takes_a_json_body_and_answers_200(client: OpenAI) -> None:
    file = client.files.create(file=jsonl(line("a")), purpose="batch")
    raw = client.batches.with_raw_response.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h"
    )
    assert raw.http_response.status_code == 200
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.parse().object == "batch"


def test_1_2_fifty_thousand_requests_are_the_most(client: OpenAI) -> None:
    short: list[dict[str, object]] = [
        {"custom_id": f"{n}", "method": "POST", "url": CHAT, "body": {"model": "none"}}
        for n in range(50_001)
    ]
    assert "too_many_tasks" in error_codes(poll(client, create(client, jsonl(*short)), "failed"))
    good = {"body": line("a", behave="timeout")["body"]}
    just = [{**entry, **good} for entry in short[:-1]]
    batch = poll(client, create(client, jsonl(*just)), "in_progress")
    assert batch.request_counts is not None
    assert batch.request_counts.total == 50_000
    client.batches.cancel(batch.id)


def test_1_2_a_file_of_100_megabytes_is_taken(client: OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "hundred.jsonl"
    with path.open("wb") as file:
        file.writelines([jsonl(line("a")), b" " * 100_000_000, b"\n"])
    uploaded = client.files.create(file=path, purpose="batch")
    assert uploaded.bytes == path.stat().st_size > 100_000_000
    assert client.files.delete(uploaded.id).deleted


@pytest.mark.parametrize("too_many", [["x"] * 50_001, [["x"] * 50_000, "one more"]])
def test_1_3_embeddings_have_fifty_thousand_inputs_in_all(
    client: OpenAI, too_many: list[Any]
) -> None:
    inputs = too_many if isinstance(too_many[0], list) else [too_many]
    batch = poll(client, start(client, embeddings(*inputs), "/v1/embeddings"), "failed")
    assert error_codes(batch) == ["too_many_tasks"]


def test_1_3_fifty_thousand_embedding_inputs_are_answered(client: OpenAI) -> None:
    content = embeddings(["x"] * 49_998, "one", [1, 2, 3])
    batch = poll(client, start(client, content, "/v1/embeddings"), "completed")
    vectors = results(client, batch.output_file_id)["0"]["response"]["body"]["data"]
    assert len(vectors) == 49_998


@pytest.mark.parametrize("field", ["completion_window", "endpoint", "input_file_id"])
def test_1_4_a_required_field_is_asked_for_by_name(client: OpenAI, field: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **{field: openai.omit})
    assert f"Missing required parameter: '{field}'." in str(refused.value)
    assert (refused.value.param, refused.value.code) == (field, "missing_required_parameter")


@pytest.mark.parametrize("metadata", [{"job": "nightly", "": ""}, {}, None])
def test_1_5_metadata_is_an_object_or_null_and_comes_back(
    client: OpenAI, metadata: dict[str, str] | None
) -> None:
    batch = ask(client, metadata=metadata)
    assert batch.metadata == metadata
    assert client.batches.retrieve(batch.id).metadata == metadata


def test_1_6_a_batch_has_every_attribute_in_every_status(client: OpenAI, service: Service) -> None:
    """Which of them are null when, is held against the schema in every answer."""
    content = jsonl(line("quick"), line("slow", behave="timeout"))
    cancelled, expired = create(client, content), create(client, content, "2s")
    poll(client, poll(client, expired, "finalizing"), "expired")
    failed = poll(client, create(client, b'{"custom_id": 1}\n'), "failed")
    poll(client, create(client, jsonl(line("a"))), "completed")
    client.batches.cancel(poll(client, cancelled, "in_progress").id)
    poll(client, cancelled, "cancelled")
    assert failed.errors is not None
    assert failed.errors.object == "list"
    assert {"code", "message", "param", "line"} <= (failed.errors.data or [])[0].to_dict().keys()
    answers = [
        json.loads(exchange.body)
        for exchange in service.proxy.seen
        if exchange.request.url.path.startswith("/v1/batches")
    ]
    shown = {answer["status"] for answer in answers if answer.get("object") == "batch"}
    assert shown == STATUSES


def test_1_7_a_bearer_token_is_taken_whatever_it_is(service: Service) -> None:
    with OpenAI(base_url=service.base_url, api_key="sk-proj-other") as client:
        assert client.models.list().data
    assert service.proxy.seen[-1].request.headers["authorization"] == "Bearer sk-proj-other"
