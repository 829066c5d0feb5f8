"""What a client may be shown: every JSON object, held against the contract's schemas.

The schemas are the contract's; on top stand the few rules that a schema cannot say. A fault is an
AssertionError that names the place. ``WireWatch`` looks at the answers a client receives.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from jsonschema import Draft202012Validator, TypeChecker
from jsonschema.validators import extend  # pyright: ignore[reportUnknownVariableType] - untyped
from referencing import Registry
from referencing.jsonschema import DRAFT202012

CONTRACT = Path(__file__).parents[1] / "contract" / "openapi-batch-files.json"
JsonObject = Mapping[str, Any]
Check = Callable[[JsonObject], None]

ENDS = {
    "completed": "completed_at",
    "failed": "failed_at",
    "expired": "expired_at",
    "cancelled": "cancelled_at",
}
USAGE_DETAILS = {"input_tokens_details", "output_tokens_details"}


def check_batch(batch: JsonObject) -> None:
    _check("BatchOnWire", batch)
    _batch_rules(batch)


def check_file(file: JsonObject) -> None:
    _check("OpenAIFileOnWire", file)


def check_deleted_file(answer: JsonObject) -> None:
    _check("DeleteFileResponse", answer)
    _rule(answer["deleted"] is True, "a deleted file says so", answer)


def check_batch_list(page: JsonObject) -> None:
    _check("ListBatchesOnWire", page)
    _page_rules(page)
    for batch in page["data"]:
        _batch_rules(batch)


def check_file_list(page: JsonObject) -> None:
    _check("ListFilesOnWire", page)
    _page_rules(page)


def check_output_line(line: JsonObject) -> None:
    _check("BatchOutputLineOnWire", line)


def check_error_line(line: JsonObject) -> None:
    _check("BatchErrorLineOnWire", line)


def check_error_envelope(answer: JsonObject) -> None:
    _check("ErrorResponse", answer)
    _rule(answer["error"]["message"] != "", "an error says what is wrong", answer)


def check_model(model: JsonObject) -> None:
    _check("Model", model)


def check_models(answer: JsonObject) -> None:
    _check("ListModelsResponse", answer)


def check_response(method: str, path: str, status: int, body: bytes | JsonObject) -> str | None:
    """Check one answer of the API; the name of the check, or None where there is no JSON object.

    Success is 200 and nothing else. Every refusal carries the error envelope.
    """
    check: Check | None = check_error_envelope
    if status < 400:
        _rule(status == 200, f"success is 200, not {status}", {})
        check = _check_for(method, path)
    if check is None:
        return None
    read = cast("object", json.loads(body)) if isinstance(body, bytes) else body
    _rule(isinstance(read, Mapping), f"{method} {path} answers with an object", {"body": read})
    check(cast("JsonObject", read))
    return check.__name__


class Answered(Protocol):
    """The part of an httpx response that is looked at; properties, so that any version fits."""

    @property
    def status_code(self) -> int: ...
    @property
    def request(self) -> Any: ...
    @property
    def headers(self) -> Any: ...
    def read(self) -> bytes: ...


class WireWatch:
    """Checks every answer of an HTTP client and keeps the faults for the end of the test.

    It does not raise at once: clients take an exception in a hook for a broken connection.
    Use ``http_client=httpx.Client(event_hooks={"response": [watch]})``.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.checked: dict[str, int] = {}

    def __call__(self, response: Answered) -> None:
        method, path = str(response.request.method), str(response.request.url.path)
        try:
            self._look(method, path, response)
        except (AssertionError, ValueError) as fault:
            self.faults.append(f"{method} {path} -> {response.status_code}: {fault}")

    def _look(self, method: str, path: str, response: Answered) -> None:
        headers = response.headers
        request_id = str(headers.get("x-request-id", ""))
        well_formed = re.fullmatch(r"req_[0-9a-f]{32}", request_id) is not None
        _rule(well_formed, "x-request-id", repr(request_id))
        if response.status_code < 400 and _check_for(method, path) is None:
            return
        kind = str(headers.get("content-type", ""))
        _rule(kind.startswith("application/json"), f"JSON is called JSON, not {kind!r}", headers)
        name = check_response(method, path, response.status_code, response.read())
        if name is not None:
            self.checked[name] = self.checked.get(name, 0) + 1


_ID = r"[^/]+"
_ROUTES: tuple[tuple[str, str, Check | None], ...] = (
    ("POST", r"/v1/files", check_file),
    ("GET", r"/v1/files", check_file_list),
    ("GET", rf"/v1/files/{_ID}", check_file),
    ("DELETE", rf"/v1/files/{_ID}", check_deleted_file),
    ("GET", rf"/v1/files/{_ID}/content", None),
    ("POST", r"/v1/batches", check_batch),
    ("GET", r"/v1/batches", check_batch_list),
    ("GET", rf"/v1/batches/{_ID}", check_batch),
    ("POST", rf"/v1/batches/{_ID}/(cancel|pause|resume|retry|priority)", check_batch),
    ("GET", rf"/v1/batches/{_ID}/(attempts|results|events)", None),
    ("GET", r"/v1/backends", None),
    ("GET", r"/v1/limits", None),
    ("POST", rf"/v1/backends/{_ID}/resume", None),
    ("GET", r"/v1/events", None),
    ("GET", r"/v1/models", check_models),
    ("GET", r"/v1/models/.+", check_model),
)


def _check_for(method: str, path: str) -> Check | None:
    if not path.startswith("/v1/"):
        return None
    for known, pattern, check in _ROUTES:
        if method == known and re.fullmatch(pattern, path):
            return check
    raise AssertionError(f"No schema is known for {method} {path}.")


def _rule(holds: bool, rule: str, thing: object) -> None:
    if not holds:
        raise AssertionError(f"{rule}: {thing}")


def _page_rules(page: JsonObject) -> None:
    ids = [member["id"] for member in page["data"]]
    ends = (ids[0], ids[-1]) if ids else (None, None)
    _rule((page["first_id"], page["last_id"]) == ends, "first_id and last_id are data's", ids)
    _rule(len(set(ids)) == len(ids), "a page has nothing twice", ids)
    _rule(bool(ids) or not page["has_more"], "an empty page is the last", page)


def _batch_rules(batch: JsonObject) -> None:
    status, counts = batch["status"], batch["request_counts"]
    for end, instant in ENDS.items():
        _rule((batch[instant] is not None) == (status == end), f"{instant} in {status}", batch)
    if status not in ENDS:
        files = (batch["output_file_id"], batch["error_file_id"])
        _rule(files == (None, None), "no file before the end", batch)
    if status != "failed":
        _rule(batch["errors"] is None, "errors only in failed", batch)
    if status in ("validating", "failed"):
        _rule(set(counts.values()) == {0}, "no counts before validation", batch)
    done = counts["completed"] + counts["failed"]
    _rule(done <= counts["total"], "counts within the total", batch)
    _rule(status != "completed" or done == counts["total"], "completed means all", batch)
    _rule(int(batch["id"][6:14], 16) == batch["created_at"], "id begins with created_at", batch)


def _is_integer(_: TypeChecker, value: object) -> bool:
    """JSON Schema takes 1.0 for an integer; strict clients do not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _validators() -> Callable[[str, object], list[str]]:
    schemas = DRAFT202012.create_resource(json.loads(CONTRACT.read_text()))
    registry = cast("Any", Registry)().with_resource("urn:contract", schemas)
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    strict = cast("Any", extend(Draft202012Validator, type_checker=types))
    made: dict[str, Any] = {}

    def faults(schema: str, value: object) -> list[str]:
        if schema not in made:
            made[schema] = strict(
                {"$ref": f"urn:contract#/components/schemas/{schema}"}, registry=registry
            )
        return [f"{fault.json_path}: {fault.message}" for fault in made[schema].iter_errors(value)]

    return faults


_faults = _validators()


def _check(schema: str, value: JsonObject) -> None:
    faults = _faults(schema, value)
    if faults:
        raise AssertionError(f"not a {schema}: " + "; ".join(faults[:5]))
