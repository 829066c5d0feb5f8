"""Files and batches from upload to deletion, the way a user of openai-python works with them.

Each step is a test of its own, and STEPS names them in order. Needs nothing but an openai package
from 1.109 on, so that another interpreter can run it as a program: ``python -m
tests.acceptance.scripts.lifecycle BASE_URL DIRECTORY`` prints one JSON object for each step.
"""

import functools
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import openai
from openai import OpenAI

from tests.acceptance.scripts.asking import (
    completed,
    create,
    jsonl,
    line,
    poll,
    refusal,
    results,
)

MONTH = 2592000
Step = Callable[[OpenAI, Path], None]


def upload_bytes_a_path_and_a_stream(client: OpenAI, directory: Path) -> None:
    content = jsonl(line("a"))
    path = directory / "named.jsonl"
    path.write_bytes(content)
    with path.open("rb") as stream:
        files = [
            client.files.create(file=given, purpose="batch")
            for given in (content, path, stream, ("pair.jsonl", content))
        ]
    assert [file.filename for file in files] == ["upload", *["named.jsonl"] * 2, "pair.jsonl"]
    for file in files:
        assert file.object == "file"
        assert file.bytes == len(content)
        assert file.expires_at == file.created_at + MONTH
        assert client.files.retrieve(file.id) == file


def upload_with_an_expiry_of_its_own(client: OpenAI, _: Path) -> None:
    file = client.files.create(
        file=jsonl(line("a")),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600


def wait_for_processing_returns_at_once(client: OpenAI, _: Path) -> None:
    file = client.files.create(file=jsonl(line("a")), purpose="batch")
    begun = time.monotonic()
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert time.monotonic() - begun < 2


def content_as_text_bytes_stream_and_range(client: OpenAI, _: Path) -> None:
    content = jsonl(*(line(f"höhe {number}") for number in range(2000)))
    file = client.files.create(file=content, purpose="batch")
    whole = client.files.content(file.id)
    assert whole.read() == whole.content == content
    assert whole.text == content.decode()
    with client.files.with_streaming_response.content(file.id) as stream:
        assert b"".join(stream.iter_bytes(1000)) == content
    part = client.files.content(file.id, extra_headers={"Range": "bytes=10-19"})
    assert part.response.status_code == 206
    assert part.content == content[10:20]
    assert part.response.headers["content-range"] == f"bytes 10-19/{len(content)}"


def retrieve_content_though_deprecated(client: OpenAI, _: Path) -> None:
    content = jsonl(line("a"))
    file = client.files.create(file=content, purpose="batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        text = client.files.retrieve_content(file.id)  # pyright: ignore[reportDeprecated] - old programs still call it
    assert text == content.decode()


def list_files_one_by_one_while_deleting_them(client: OpenAI, _: Path) -> None:
    content = jsonl(line("a"))
    made = [client.files.create(file=content, purpose="user_data").id for _ in range(5)]
    listed = [file.id for file in client.files.list(purpose="user_data", order="asc")]
    assert listed == made
    met: list[str] = []
    for file in client.files.list(limit=1, purpose="user_data"):
        met.append(file.id)
        assert client.files.delete(file.id).deleted
    assert met == made[::-1]
    assert client.files.list(purpose="user_data").data == []


def a_deleted_file_is_gone(client: OpenAI, _: Path) -> None:
    file = client.files.create(file=jsonl(line("a")), purpose="batch")
    assert client.files.delete(file.id).id == file.id
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        error = refusal(openai.NotFoundError, functools.partial(call, file.id))
        assert file.id in str(error)
        assert error.param == "id"


def a_batch_from_create_to_its_results(client: OpenAI, _: Path) -> None:
    content = jsonl(
        *(line(f"good {number}") for number in range(20)),
        line("bad", behave="400"),
        line("broken", behave="500"),
        line("cut", behave="u2028"),
    )
    batch = create(client, content, metadata={"job": "nightly"})
    assert (batch.status, batch.metadata) == ("validating", {"job": "nightly"})
    assert batch.expires_at == batch.created_at + 86400
    batch = poll(client, batch, "completed")
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (23, 21, 2)
    good, bad = results(client, batch.output_file_id), results(client, batch.error_file_id)
    assert set(good) == {*(f"good {number}" for number in range(20)), "cut"}
    answer = good["good 7"]["response"]["body"]["choices"][0]["message"]["content"]
    assert answer == "say good 7"
    assert {key: bad[key]["response"]["status_code"] for key in bad} == {"bad": 400, "broken": 500}
    assert (batch.in_progress_at or 0) <= (batch.finalizing_at or 0) <= (batch.completed_at or 0)
    purposes = {
        client.files.retrieve(file_id or "").purpose
        for file_id in (batch.output_file_id, batch.error_file_id)
    }
    assert purposes == {"batch_output"}


def list_batches_one_by_one(client: OpenAI, _: Path) -> None:
    made = [create(client, jsonl(line("a"))).id for _ in range(3)]
    met: list[str] = []
    for batch in client.batches.list(limit=1):
        met.append(batch.id)
        if len(met) == 3:
            break
    assert met == made[::-1]
    assert [batch.id for batch in client.batches.list(after=met[0], limit=2)][:2] == met[1:3]


def cancel_a_batch_that_is_validating(client: OpenAI, _: Path) -> None:
    # So many lines that no validation is over before the next request is there.
    batch = create(client, jsonl(*(line(f"{number}") for number in range(20_000))))
    batch = client.batches.cancel(batch.id)
    assert batch.status in ("cancelling", "cancelled")
    assert batch.cancelling_at is not None
    batch = poll(client, batch, "cancelled")
    assert batch.in_progress_at is None
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


def cancel_a_batch_that_runs_and_again(client: OpenAI, _: Path) -> None:
    """In progress, cancelling and cancelled are all the same to a second cancel."""
    batch = create(client, jsonl(line("quick"), line("slow", behave="timeout")))
    deadline = time.monotonic() + 10
    while completed(client, batch) < 1:
        assert time.monotonic() < deadline
    batch = client.batches.cancel(batch.id)
    assert batch.status == "cancelling"
    again = client.batches.cancel(batch.id)
    assert (again.status, again.cancelling_at) == ("cancelling", batch.cancelling_at)
    batch = poll(client, batch, "cancelled")
    assert client.batches.cancel(batch.id) == batch
    assert set(results(client, batch.output_file_id)) == {"quick"}
    left = results(client, batch.error_file_id)
    assert {key: left[key]["error"]["code"] for key in left} == {"slow": "batch_cancelled"}
    assert batch.finalizing_at is None


def cancel_a_batch_that_is_finalizing(client: OpenAI, _: Path) -> None:
    batch = create(client, jsonl(line("quick"), line("slow", behave="timeout")), "2s")
    batch = client.batches.cancel(poll(client, batch, "finalizing").id)
    assert batch.status == "cancelling"
    poll(client, batch, "cancelled")


def cancel_what_has_ended(client: OpenAI, _: Path) -> None:
    """Completed, failed and expired cannot be cancelled any more."""
    batches = {
        "expired": create(client, jsonl(line("slow", behave="timeout")), "2s"),
        "failed": create(client, b'{"custom_id": "no more than that"}\n'),
        "completed": create(client, jsonl(line("a"))),
    }
    for status, made in batches.items():
        batch = poll(client, made, status)
        error = refusal(openai.ConflictError, functools.partial(client.batches.cancel, batch.id))
        assert f"Cannot cancel a batch with status '{status}'." in str(error)
        assert error.status_code == 409


def a_failed_batch_names_line_and_parameter(client: OpenAI, _: Path) -> None:
    batch = create(client, jsonl(line("a")) + b'{"custom_id": "b"}\nno JSON\n')
    batch = poll(client, batch, "failed")
    assert batch.errors is not None
    told = [(error.code, error.line, error.param) for error in batch.errors.data or []]
    assert ("missing_required_parameter", 2, "method") in told
    assert ("invalid_json_line", 3, None) in told


def models_with_a_slash_in_the_name(client: OpenAI, _: Path) -> None:
    assert [model.id for model in client.models.list()] == ["test-model", "meta/llama"]
    assert client.models.retrieve("meta/llama").id == "meta/llama"
    error = refusal(openai.NotFoundError, lambda: client.models.retrieve("meta/none"))
    assert error.code == "model_not_found"
    assert "meta/none" in str(error)


def every_answer_has_a_request_id(client: OpenAI, _: Path) -> None:
    raw = client.files.with_raw_response.create(file=jsonl(line("a")), purpose="batch")
    file = raw.parse()
    told = file._request_id  # pyright: ignore[reportPrivateUsage] - public, says its documentation
    assert raw.headers["x-request-id"] == told
    assert (told or "").startswith("req_")
    error = refusal(openai.NotFoundError, lambda: client.batches.retrieve("batch_none"))
    assert (error.request_id or "").startswith("req_")
    assert "batch_none" in str(error)


def refusals_name_parameter_and_value(client: OpenAI, _: Path) -> None:
    file = client.files.create(file=jsonl(line("a")), purpose="batch")
    endpoint: Any = "/v1/none"
    purpose: Any = "none"
    refused: dict[str, Callable[[], object]] = {
        "/v1/none": lambda: client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h"
        ),
        "completion_window|48h": lambda: create(client, jsonl(line("a")), "48h"),
        "metadata|17": lambda: create(
            client, jsonl(line("a")), metadata={f"{number}": "" for number in range(17)}
        ),
        "limit|101": lambda: client.batches.list(limit=101),
        "after|batch_none": lambda: client.batches.list(after="batch_none"),
        "purpose|none": lambda: client.files.create(file=b"{}", purpose=purpose),
        "Batch API": lambda: client.files.create(file=b"", purpose="batch"),
    }
    for texts, call in refused.items():
        error = refusal(openai.BadRequestError, call)
        assert all(text in str(error) for text in texts.split("|")), str(error)
        assert (error.type, error.status_code) == ("invalid_request_error", 400)


STEPS: Mapping[str, Step] = MappingProxyType(
    {
        step.__name__: step
        for step in (
            upload_bytes_a_path_and_a_stream,
            upload_with_an_expiry_of_its_own,
            wait_for_processing_returns_at_once,
            content_as_text_bytes_stream_and_range,
            retrieve_content_though_deprecated,
            list_files_one_by_one_while_deleting_them,
            a_deleted_file_is_gone,
            a_batch_from_create_to_its_results,
            list_batches_one_by_one,
            cancel_a_batch_that_is_validating,
            cancel_a_batch_that_runs_and_again,
            cancel_a_batch_that_is_finalizing,
            cancel_what_has_ended,
            a_failed_batch_names_line_and_parameter,
            models_with_a_slash_in_the_name,
            every_answer_has_a_request_id,
            refusals_name_parameter_and_value,
        )
    }
)


def main(base_url: str, directory: str) -> None:
    sys.stdout.write(json.dumps({"openai": openai.__version__}) + "\n")
    with OpenAI(base_url=base_url, api_key="any", _strict_response_validation=True) as client:
        for name, step in STEPS.items():
            fault = None
            try:
                step(client, Path(directory))
            except (AssertionError, LookupError, openai.OpenAIError):
                fault = traceback.format_exc()
            sys.stdout.write(json.dumps({"step": name, "fault": fault}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
