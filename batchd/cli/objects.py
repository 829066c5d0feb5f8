"""The API's objects as the command line reads them: plain JSON with types.

Only the keys that are shown or used are named; ``--json`` prints what the daemon sent, whole.
(``wire`` describes the same objects for the daemon, at the price of importing msgspec.)
"""

from typing import NotRequired, TypedDict

from batchd.states import TERMINAL


class Counts(TypedDict):
    total: int
    completed: int
    failed: int


class BatchError(TypedDict):
    """Why the input is not valid: one entry for each faulty line, or one for the whole file."""

    code: str | None
    message: str
    param: str | None
    line: int | None


class BatchErrors(TypedDict):
    data: list[BatchError]


class Usage(TypedDict):
    input_tokens: int
    output_tokens: int


class Retrying(TypedDict):
    """Lines that have failed before and have no result yet; ``kinds``: what they came to last."""

    lines: int
    kinds: dict[str, int]


class Extension(TypedDict):
    """What batchd adds to OpenAI's object."""

    notes: NotRequired[list[str]]
    priority: NotRequired[int]
    paused_at: NotRequired[int | None]
    parent_id: NotRequired[str | None]
    retrying: NotRequired[Retrying | None]


class Batch(TypedDict):
    id: str
    status: str
    endpoint: str
    model: NotRequired[str | None]
    errors: BatchErrors | None
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: NotRequired[int | None]
    completed_at: NotRequired[int | None]
    failed_at: NotRequired[int | None]
    expired_at: NotRequired[int | None]
    cancelled_at: NotRequired[int | None]
    expires_at: NotRequired[int | None]
    request_counts: Counts
    usage: NotRequired[Usage | None]
    metadata: NotRequired[dict[str, str] | None]
    batchd: NotRequired[Extension]


class Lane(TypedDict):
    """One model on one backend. ``throughput``: answers a second."""

    model: str
    in_flight: int
    limit: int
    throughput: float


class Backend(TypedDict):
    name: str
    base_url: str
    state: str
    note: str | None
    tries_again_in: float | None
    in_flight: int
    models: list[str] | None
    lanes: list[Lane]


class Limits(TypedDict):
    """How much the daemon takes at once: lines and embedding inputs in a batch, bytes in a file."""

    max_requests: int
    max_embedding_inputs: int
    max_upload_size: int


class File(TypedDict):
    id: str
    bytes: int
    created_at: int
    expires_at: NotRequired[int | None]
    filename: str
    purpose: str


def is_finished(batch: Batch) -> bool:
    return batch["status"] in TERMINAL


def done(batch: Batch) -> int:
    """Lines that have their result."""
    return batch["request_counts"]["completed"] + batch["request_counts"]["failed"]


def finished_at(batch: Batch) -> int | None:
    return (
        batch.get("completed_at")
        or batch.get("failed_at")
        or batch.get("expired_at")
        or batch.get("cancelled_at")
    )


def notes(batch: Batch) -> list[str]:
    extension = batch.get("batchd")
    return extension.get("notes", []) if extension else []


def retrying(batch: Batch) -> Retrying | None:
    extension = batch.get("batchd")
    return extension.get("retrying") if extension else None


def priority(batch: Batch) -> int:
    extension = batch.get("batchd")
    return extension.get("priority", 0) if extension else 0


def paused_at(batch: Batch) -> int | None:
    extension = batch.get("batchd")
    return extension.get("paused_at") if extension else None


def parent_id(batch: Batch) -> str | None:
    extension = batch.get("batchd")
    return extension.get("parent_id") if extension else None
