"""The JSON objects a client sees (contract sections 1.1, 2, 3, 4 and 10).

Every documented key is always there, with an explicit null; times are integer seconds.
"""

from typing import Literal

import msgspec

from batchd.errors import BatchdError
from batchd.model import (
    BatchRecord,
    FileRecord,
    LineError,
    Progress,
    Purpose,
    Retrying,
    TroubledLine,
    Usage,
)
from batchd.pausing import PAUSABLE
from batchd.states import UNFINISHED, BatchStatus

encode = msgspec.json.encode


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: None = None

    @classmethod
    def of(cls, record: FileRecord) -> "FileObject":
        return cls(
            id=record.id,
            bytes=record.bytes,
            created_at=record.created_at,
            expires_at=record.expires_at,
            filename=record.filename,
            purpose=record.purpose,
        )


class FileDeleted(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[LineError]


class RequestCounts(msgspec.Struct, frozen=True):
    total: int
    completed: int
    failed: int


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int


class ReasoningTokens(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class UsageObject(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> "UsageObject":
        return cls(
            input_tokens=usage.input_tokens,
            input_tokens_details=CachedTokens(usage.cached_tokens),
            output_tokens=usage.output_tokens,
            output_tokens_details=ReasoningTokens(usage.reasoning_tokens),
            total_tokens=usage.total_tokens,
        )


class Extensions(msgspec.Struct, frozen=True, kw_only=True):
    """What batchd says beyond OpenAI, in one key that OpenAI does not have."""

    priority: int
    paused_at: int | None
    parent_id: str | None
    notes: list[str]
    retrying: Retrying | None


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: UsageObject
    metadata: dict[str, str] | None
    batchd: Extensions

    @classmethod
    def of(cls, record: BatchRecord, progress: Progress | None = None) -> "BatchObject":
        """The object for a row, with what its running lines have come to since it was written."""
        unfinished = record.status in UNFINISHED
        counts = progress.counts if progress else record.counts
        notes = [*record.notes, progress.note] if progress and progress.note else record.notes
        return cls(
            id=record.id,
            endpoint=record.endpoint,
            model=record.model,
            errors=BatchErrors(data=record.errors) if record.errors else None,
            input_file_id=record.input_file_id,
            completion_window=record.completion_window,
            status=record.status,
            output_file_id=None if unfinished else record.output_file_id,
            error_file_id=None if unfinished else record.error_file_id,
            created_at=record.created_at,
            in_progress_at=record.in_progress_at,
            expires_at=record.expires_at,
            finalizing_at=record.finalizing_at,
            completed_at=record.completed_at,
            failed_at=record.failed_at,
            expired_at=record.expired_at,
            cancelling_at=record.cancelling_at,
            cancelled_at=record.cancelled_at,
            request_counts=RequestCounts(counts.total, counts.completed, counts.failed),
            usage=UsageObject.of(progress.usage if progress else record.usage),
            metadata=record.metadata,
            batchd=Extensions(
                priority=record.priority,
                paused_at=record.paused_at if record.status in PAUSABLE else None,
                parent_id=record.parent_id,
                notes=notes,
                retrying=progress.retrying if progress else None,
            ),
        )


class ListObject(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[FileObject] | list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: list[FileObject] | list[BatchObject], *, has_more: bool) -> "ListObject":
        return cls(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=has_more,
        )


class TroubledLines(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[TroubledLine]
    has_more: bool


class ModelObject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(msgspec.Struct, frozen=True):
    error: ErrorDetail

    @classmethod
    def of(cls, error: BatchdError) -> "ErrorObject":
        param = None if error.param is None else _sound(error.param)
        return cls(ErrorDetail(_sound(str(error)), error.error_type, param, error.code))


def _sound(text: str) -> str:
    """Text that can be UTF-8: what a client sent in a header may not have been."""
    return text.encode(errors="replace").decode()
