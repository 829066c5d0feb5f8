"""Lines of input files, good and bad, and what their batch must say of them."""

import json
from typing import Any

from tests.integration.api.harness import CHAT

EMBEDDINGS = "/v1/embeddings"
COMPLETIONS = "/v1/completions"
INVALID_JSON = "This line is not parseable as valid JSON."
BODY: dict[str, object] = {"model": "m", "messages": []}

Error = dict[str, object]


def line(custom_id: str = "a", **changed: object) -> bytes:
    """A good line, with these fields in its place; a field of None is left out."""
    fields = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": BODY, **changed}
    kept = {name: value for name, value in fields.items() if value is not ...}
    return json.dumps(kept, ensure_ascii=False).encode() + b"\n"


def body(**changed: object) -> dict[str, object]:
    return {name: value for name, value in {**BODY, **changed}.items() if value is not ...}


def error(code: str, message: str, param: str | None, number: int | None) -> Error:
    return {"code": code, "message": message, "param": param, "line": number}


def invalid_json(number: int) -> Error:
    return error("invalid_json_line", INVALID_JSON, None, number)


def duplicate(custom_id: str, number: int) -> Error:
    text = (
        f"The custom_id '{custom_id}' for this request is a duplicate of another request. The "
        "custom_id parameter must be unique for each request in a batch."
    )
    return error("duplicate_custom_id", text, "custom_id", number)


def wrong_type(name: str, expected: str, got: str) -> tuple[str, str, str]:
    text = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return "invalid_type", text, name


def missing(name: str) -> tuple[str, str, str]:
    return "missing_required_parameter", f"Missing required parameter: '{name}'.", name


def errors_of(batch: dict[str, Any]) -> list[Error]:
    """The errors of a batch that failed, and of nothing else that it shows."""
    assert batch["status"] == "failed"
    assert batch["errors"]["object"] == "list"
    assert (batch["output_file_id"], batch["error_file_id"], batch["model"]) == (None, None, None)
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    return batch["errors"]["data"]


def started(batch: dict[str, Any], total: int) -> None:
    """The batch was found good, and has this many requests."""
    assert (batch["status"], batch["errors"]) == ("in_progress", None)
    assert batch["request_counts"] == {"total": total, "completed": 0, "failed": 0}
