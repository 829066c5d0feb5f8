"""The objects clients see: every key always there, and nothing but what the schemas allow."""

import json
from typing import Any

import msgspec
import pytest

from batchd.errors import (
    BatchdError,
    Busy,
    Conflict,
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    NoRoom,
    NotFound,
    RequestTimeout,
    TooLarge,
    Unauthorized,
    UnsupportedEncoding,
)
from batchd.model import (
    BatchRecord,
    Counts,
    FileRecord,
    LineError,
    Progress,
    Purpose,
    Retrying,
    Usage,
)
from batchd.states import BatchStatus
from batchd.wire.objects import (
    BatchObject,
    ErrorObject,
    FileDeleted,
    FileObject,
    ListObject,
    ModelList,
    ModelObject,
    encode,
)
from tests.support import onwire

FILE = FileRecord(
    id="file-" + "a" * 22,
    owner="local",
    filename="in.jsonl",
    purpose=Purpose.BATCH,
    bytes=3,
    sha256="0" * 64,
    created_at=1,
    expires_at=None,
)
BATCH = BatchRecord(
    id="batch_00000001" + "0" * 24,
    owner="local",
    status=BatchStatus.IN_PROGRESS,
    endpoint="/v1/a",
    input_file_id="file-x",
    completion_window="24h",
    output_expires_after=1,
    created_at=1,
    expires_at=2,
    in_progress_at=1,
    counts=Counts(9, 1, 0),
    output_file_id="file-" + "o" * 22,
    error_file_id="file-" + "e" * 22,
)


def wire(value: msgspec.Struct) -> dict[str, Any]:
    return json.loads(encode(value))


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_file_of_any_purpose_keeps_to_the_schema(purpose: Purpose) -> None:
    shown = wire(FileObject.of(msgspec.structs.replace(FILE, purpose=purpose)))
    onwire.check_file(shown)
    assert shown["status"] == "processed"
    assert "owner" not in shown
    assert "sha256" not in shown


def test_a_deleted_file_says_so() -> None:
    onwire.check_deleted_file(wire(FileDeleted(id="file-x")))


def test_the_files_of_an_unfinished_batch_are_hidden() -> None:
    shown = wire(BatchObject.of(BATCH))
    onwire.check_batch(shown)
    assert (shown["output_file_id"], shown["error_file_id"]) == (None, None)


def test_the_files_of_a_finished_batch_are_shown() -> None:
    done = msgspec.structs.replace(
        BATCH,
        status=BatchStatus.COMPLETED,
        finalizing_at=2,
        completed_at=2,
        counts=Counts(1, 1, 0),
    )
    shown = wire(BatchObject.of(done))
    onwire.check_batch(shown)
    assert (shown["output_file_id"], shown["error_file_id"]) == (
        BATCH.output_file_id,
        BATCH.error_file_id,
    )


def test_progress_is_laid_over_the_row() -> None:
    noted = msgspec.structs.replace(BATCH, notes=["from the row"])
    progress = Progress(Counts(9, 3, 2), Usage(1, 2, 3, 4, 5), "waiting")
    shown = wire(BatchObject.of(noted, progress))
    onwire.check_batch(shown)
    assert shown["request_counts"] == {"total": 9, "completed": 3, "failed": 2}
    assert shown["usage"] == {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 5,
    }
    assert shown["batchd"]["notes"] == ["from the row", "waiting"]


def test_lines_that_are_tried_again_are_counted_beside_openais_fields() -> None:
    assert wire(BatchObject.of(BATCH))["batchd"]["retrying"] is None
    progress = Progress(Counts(9, 1), retrying=Retrying(3, {"http_503": 2, "timeout": 1}))
    shown = wire(BatchObject.of(BATCH, progress))
    onwire.check_batch(shown)
    assert shown["batchd"]["retrying"] == {"lines": 3, "kinds": {"http_503": 2, "timeout": 1}}


def test_the_errors_of_a_failed_batch_are_a_list_object() -> None:
    failed = msgspec.structs.replace(
        BATCH,
        status=BatchStatus.FAILED,
        failed_at=1,
        in_progress_at=None,
        counts=Counts(),
        errors=[LineError("c", "m", None, 3), LineError("c", "m", "url")],
    )
    shown = wire(BatchObject.of(failed))
    onwire.check_batch(shown)
    assert [entry["line"] for entry in shown["errors"]["data"]] == [3, None]


def test_lists_name_their_ends() -> None:
    file = FileObject.of(FILE)
    other = msgspec.structs.replace(file, id="file-" + "z" * 22)
    onwire.check_file_list(wire(ListObject.of([file, other], has_more=True)))
    onwire.check_file_list(wire(ListObject.of([], has_more=False)))
    onwire.check_batch_list(wire(ListObject.of([BatchObject.of(BATCH)], has_more=False)))


def test_models_keep_to_the_schema() -> None:
    model = ModelObject(id="a/b", created=0, owned_by="x")
    onwire.check_model(wire(model))
    onwire.check_models(wire(ModelList(data=[model])))


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (BatchdError("x"), 500, "server_error"),
        (NoRoom(), 503, "server_error"),
        (Busy(), 503, "server_error"),
        (InvalidRequest("x", param="p", code="c"), 400, "invalid_request_error"),
        (Unauthorized(), 401, "invalid_request_error"),
        (Forbidden(), 403, "invalid_request_error"),
        (NotFound("x"), 404, "invalid_request_error"),
        (MethodNotAllowed(), 405, "invalid_request_error"),
        (RequestTimeout(), 408, "invalid_request_error"),
        (Conflict("x"), 409, "invalid_request_error"),
        (TooLarge(), 413, "invalid_request_error"),
        (UnsupportedEncoding(), 415, "invalid_request_error"),
    ],
)
def test_every_error_has_all_four_keys(error: BatchdError, status: int, kind: str) -> None:
    shown = wire(ErrorObject.of(error))
    onwire.check_error_envelope(shown)
    assert (error.http_status, shown["error"]["type"]) == (status, kind)
    assert (shown["error"]["param"], shown["error"]["code"]) == (error.param, error.code)


def test_what_is_not_utf8_in_an_error_is_replaced() -> None:
    shown = wire(ErrorObject.of(InvalidRequest("host \udcff", param="\udcfe", code="c")))
    assert shown["error"] == {
        "message": "host ?",
        "type": "invalid_request_error",
        "param": "?",
        "code": "c",
    }
