"""What a batch has at its end: its counts, its files, or why it could not start. Pure."""

import msgspec

from batchd.model import (
    BatchRecord,
    Counts,
    FileRecord,
    LineError,
    Progress,
    Purpose,
    Usage,
)


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch came to, for its terminal transaction. Sizes of 0 mean no file."""

    counts: Counts
    usage: Usage
    output_bytes: int
    error_bytes: int

    @property
    def progress(self) -> Progress:
        return Progress(
            self.counts, self.usage, output_end=self.output_bytes, error_end=self.error_bytes
        )


def missing_input(record: BatchRecord) -> LineError:
    """Why a batch whose input file is unknown, deleted or expired cannot start."""
    return LineError(
        "invalid_request",
        f"Cannot find file {record.input_file_id}, or organization {record.owner} does not have "
        "access to it.",
        "file_id",
    )


def without_files(record: BatchRecord) -> BatchRecord:
    """A batch that ends with no result files."""
    return msgspec.structs.replace(record, output_file_id=None, error_file_id=None)


def result_files(record: BatchRecord, now: int) -> list[FileRecord]:
    """The rows of the result files that a batch ends with."""
    sizes = [
        (record.output_file_id, record.output_end, "output"),
        (record.error_file_id, record.error_end, "error"),
    ]
    return [
        FileRecord(
            id=file_id,
            owner=record.owner,
            filename=f"{record.id}_{name}.jsonl",
            purpose=Purpose.BATCH_OUTPUT,
            bytes=size,
            sha256=None,
            created_at=now,
            expires_at=now + record.output_expires_after,
        )
        for file_id, size, name in sizes
        if file_id is not None
    ]
