"""What a user of openai-python writes around its calls: lines, polling, reading results.

Works with any openai package from 1.109 on.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import openai
from openai import OpenAI
from openai.types import Batch

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
Refusal = TypeVar("Refusal", bound=openai.APIStatusError)


def line(custom_id: str, **body: object) -> dict[str, object]:
    messages = [{"role": "user", "content": f"say {custom_id}"}]
    body = {"model": "test-model", "messages": messages, **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def jsonl(*lines: Mapping[str, object]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in lines)


def create(client: OpenAI, content: bytes, window: Any = "24h", **more: Any) -> Batch:
    file = client.files.create(file=content, purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window=window, **more
    )


def ask(client: OpenAI, **more: Any) -> Batch:
    """A create with whatever arguments, the wrong ones too."""
    given: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h", **more}
    if "input_file_id" not in given:
        given["input_file_id"] = client.files.create(file=jsonl(line("a")), purpose="batch").id
    return client.batches.create(**given)


def poll(client: OpenAI, batch: Batch, *statuses: str) -> Batch:
    """The batch once it has one of these statuses, or, without any, has ended."""
    deadline = time.monotonic() + 10
    while batch.status not in (statuses or ENDED):
        assert batch.status not in ENDED, f"it ended as {batch.status}: {batch.errors}"
        assert time.monotonic() < deadline, f"still {batch.status}"
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def completed(client: OpenAI, batch: Batch) -> int:
    """How many lines are answered by now."""
    counts = client.batches.retrieve(batch.id).request_counts
    return 0 if counts is None else counts.completed


def results(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    """The lines of a result file by custom_id."""
    assert file_id is not None
    lines = [json.loads(text) for text in client.files.content(file_id).text.splitlines()]
    return {entry["custom_id"]: entry for entry in lines}


def error_codes(batch: Batch) -> list[str | None]:
    assert batch.errors is not None
    return [error.code for error in batch.errors.data or []]


def refusal(kind: type[Refusal], call: Callable[[], object]) -> Refusal:
    """The error of this kind that ``call`` has to raise."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"it raised no {kind.__name__}")
