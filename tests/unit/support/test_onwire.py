"""The contract's schemas are applied to what they are for, and they bite."""

import json
from typing import Any

import openai
import pytest

from tests.support import onwire
from tests.support.model_process import ModelProcess

BATCH: dict[str, Any] = {
    "id": "batch_6553f100" + "0" * 24,
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "model": None,
    "errors": None,
    "input_file_id": "file-" + "a" * 22,
    "completion_window": "24h",
    "status": "validating",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1_700_000_000,
    "in_progress_at": None,
    "expires_at": 1_700_086_400,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "usage": None,
    "metadata": None,
    "batchd": {"priority": 0, "paused_at": None, "parent_id": None, "notes": []},
}
COMPLETED = BATCH | {
    "status": "completed",
    "in_progress_at": 1_700_000_001,
    "finalizing_at": 1_700_000_002,
    "completed_at": 1_700_000_003,
    "output_file_id": "file-" + "b" * 22,
    "request_counts": {"total": 2, "completed": 2, "failed": 0},
}
FILE: dict[str, Any] = {
    "id": "file-" + "a" * 22,
    "object": "file",
    "bytes": 1,
    "created_at": 1_700_000_000,
    "expires_at": None,
    "filename": "x.jsonl",
    "purpose": "batch",
    "status": "processed",
    "status_details": None,
}
ERROR: dict[str, Any] = {
    "error": {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}
}
MODEL: dict[str, Any] = {"id": "m/x", "object": "model", "created": 1, "owned_by": "o"}
LINE: dict[str, Any] = {"id": "batch_req_0", "custom_id": "a"}
ANSWER: dict[str, Any] = {"status_code": 200, "request_id": "up-1", "body": {}}


def page(*members: dict[str, Any]) -> dict[str, Any]:
    ends = [member["id"] for member in members] or [None]
    return {
        "object": "list",
        "data": list(members),
        "first_id": ends[0],
        "last_id": ends[-1],
        "has_more": False,
    }


ACCEPTED: list[tuple[str, str, int, dict[str, Any], str | None]] = [
    ("POST", "/v1/files", 200, FILE, "check_file"),
    ("GET", "/v1/files", 200, page(FILE), "check_file_list"),
    ("GET", "/v1/files/file-a", 200, FILE, "check_file"),
    (
        "DELETE",
        "/v1/files/file-a",
        200,
        {"id": "file-a", "object": "file", "deleted": True},
        "check_deleted_file",
    ),
    ("GET", "/v1/files/file-a/content", 200, {}, None),
    ("POST", "/v1/batches", 200, BATCH, "check_batch"),
    ("GET", "/v1/batches", 200, page(), "check_batch_list"),
    ("GET", "/v1/batches/batch_a", 200, COMPLETED, "check_batch"),
    ("POST", "/v1/batches/batch_a/retry", 200, BATCH, "check_batch"),
    ("GET", "/v1/batches/batch_a/events", 200, {}, None),
    ("GET", "/v1/models", 200, {"object": "list", "data": [MODEL]}, "check_models"),
    ("GET", "/v1/models/m/x", 200, MODEL, "check_model"),
    ("GET", "/v1/nowhere", 404, ERROR, "check_error_envelope"),
    ("GET", "/healthz", 200, {"status": "ok"}, None),
]


@pytest.mark.parametrize(("method", "path", "status", "body", "name"), ACCEPTED)
def test_the_check_follows_from_the_url(
    method: str, path: str, status: int, body: dict[str, Any], name: str | None
) -> None:
    assert onwire.check_response(method, path, status, body) == name
    assert onwire.check_response(method, path, status, json.dumps(body).encode()) == name


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "batch_1"},
        {"id": "batch_" + "0" * 32},
        {"created_at": 1_700_000_000.0},
        {"status": "queued"},
        {"errors": []},
        {"output_file_id": "file-" + "b" * 22},
        {"completed_at": 1_700_000_001},
        {"request_counts": {"total": 2, "completed": 0, "failed": 0}},
        {"usage": {"input_tokens": 1}},
        {"metadata": {"a": 1}},
    ],
)
def test_a_wrong_batch_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        onwire.check_batch(BATCH | changes)


@pytest.mark.parametrize("key", sorted(set(BATCH) - {"batchd"}))
def test_every_key_of_a_batch_is_always_there(key: str) -> None:
    with pytest.raises(AssertionError):
        onwire.check_batch({name: value for name, value in BATCH.items() if name != key})


@pytest.mark.parametrize(
    "changes",
    [
        {"completed_at": None},
        {"failed_at": 1_700_000_003},
        {"request_counts": {"total": 3, "completed": 2, "failed": 0}},
        {"request_counts": {"total": 2, "completed": 2, "failed": 1}},
        {"errors": {"object": "list", "data": []}},
    ],
)
def test_a_wrong_end_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        onwire.check_batch(COMPLETED | changes)


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("POST", "/v1/files", 201, FILE),
        ("POST", "/v1/files", 200, FILE | {"id": "file_1"}),
        ("POST", "/v1/files", 200, FILE | {"purpose": "batch-output"}),
        ("GET", "/v1/files", 200, page(FILE) | {"last_id": None}),
        ("GET", "/v1/files", 200, page(FILE, FILE)),
        ("GET", "/v1/files", 200, page() | {"has_more": True}),
        ("GET", "/v1/batches", 200, page(BATCH | {"status": "completed"})),
        ("GET", "/v1/batches/x", 404, {"detail": "Not Found"}),
        ("GET", "/v1/batches/x", 404, {"error": {"message": "No.", "type": "x"}}),
        ("GET", "/v1/unknown", 200, {}),
        ("GET", "/v1/models", 200, {"object": "list", "data": [MODEL | {"created": 1.5}]}),
    ],
)
def test_a_wrong_answer_is_refused(
    method: str, path: str, status: int, body: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError):
        onwire.check_response(method, path, status, body)


def test_result_lines_are_told_apart() -> None:
    good = LINE | {"response": ANSWER, "error": None}
    bad = LINE | {"response": ANSWER | {"status_code": 400}, "error": None}
    late = LINE | {"response": None, "error": {"code": "batch_expired", "message": "Late."}}
    onwire.check_output_line(good)
    onwire.check_error_line(bad)
    onwire.check_error_line(late)
    for check, line in (
        (onwire.check_output_line, bad),
        (onwire.check_output_line, late),
        (onwire.check_error_line, good),
        (onwire.check_error_line, LINE | {"response": None, "error": None}),
    ):
        with pytest.raises(AssertionError):
            check(line)


def test_the_watch_of_a_client_keeps_every_fault(model_process: ModelProcess) -> None:
    # A model server is not batchd: its answers lack the x-request-id that ours must have.
    watch = onwire.WireWatch()
    http_client = openai.DefaultHttpxClient(event_hooks={"response": [watch]})
    with openai.OpenAI(
        base_url=model_process.base_url, api_key="k", http_client=http_client
    ) as client:
        assert [model.id for model in client.models.list()] == ["test-model"]
    assert watch.faults == [f"GET /v1/models -> 200: {fault}" for fault in ["x-request-id: ''"]]


class Answer:
    """An answer of the API, as far as the watch looks at it."""

    class Request:
        method = "GET"

        class Url:
            path = "/v1/batches/batch_1"

        url = Url()

    def __init__(self, body: dict[str, Any], **headers: str) -> None:
        self.status_code = 200
        self.request = Answer.Request()
        self.headers = {"x-request-id": "req_" + "0" * 32, "content-type": "application/json"}
        self.headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        self._body = body

    def read(self) -> bytes:
        return json.dumps(self._body).encode()


def test_the_watch_looks_at_headers_and_body() -> None:
    watch = onwire.WireWatch()
    watch(Answer(BATCH))
    assert (watch.faults, watch.checked) == ([], {"check_batch": 1})
    watch(Answer(BATCH, content_type="text/plain"))
    watch(Answer(BATCH, x_request_id="1"))
    watch(Answer(BATCH | {"status": "queued"}))
    assert len(watch.faults) == 3
