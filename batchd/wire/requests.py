"""What clients send, as types: what people and programs are told of it.

What is accepted is decided in ``params`` and ``wishes``, where each fault has its answer. These
types say the same beforehand, with the same numbers, and a test holds the two against each other.
They are never decoded into.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from batchd.wire.params import (
    DEFAULT_EXPIRES_AFTER,
    MAX_EXPIRES_AFTER,
    MAX_METADATA_KEY,
    MAX_METADATA_PAIRS,
    MAX_METADATA_VALUE,
    MAX_PRIORITY,
    MIN_EXPIRES_AFTER,
    MIN_PRIORITY,
)
from batchd.wire.wishes import MAX_CODES, MAX_KEY


class Endpoint(str):
    """One of ``batches.endpoints`` of the configuration."""

    __slots__ = ()


class CompletionWindow(str):
    """One of ``batches.completion_windows`` of the configuration."""

    __slots__ = ()


class UploadPurpose(str):
    """A purpose that an upload can have."""

    __slots__ = ()


class FileBytes(str):
    """The bytes of an upload."""

    __slots__ = ()


Priority = Annotated[
    int,
    Meta(
        ge=MIN_PRIORITY,
        le=MAX_PRIORITY,
        description="Which batch goes first: 10 more is 32 times the turns.",
    ),
]
Metadata = Annotated[
    dict[
        Annotated[str, Meta(max_length=MAX_METADATA_KEY)],
        Annotated[str, Meta(max_length=MAX_METADATA_VALUE)],
    ],
    Meta(max_length=MAX_METADATA_PAIRS, description="Kept with the batch and shown with it."),
]
# ``str.isprintable`` as a pattern; Python's own patterns do not know the categories.
_PRINTABLE = {"pattern": r"^( |[^\p{C}\p{Z}])+$"}
IdempotencyKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_KEY,
        extra_json_schema=_PRINTABLE,
        description=(
            "A name for this wish, so that it is granted once however often it is sent: with the "
            "same parameters the answer is the batch that it became, with others 409. The header "
            "Idempotency-Key goes before it."
        ),
    ),
]
Anchor = Annotated[Literal["created_at"], Meta(description="Counted from the file's creation.")]
ExpiresAfter = Annotated[int, Meta(ge=MIN_EXPIRES_AFTER, le=MAX_EXPIRES_AFTER)]


class UploadFile(Struct, frozen=True, kw_only=True):
    """The parts of an upload, in any order; parts with other names are ignored."""

    file: Annotated[
        FileBytes,
        Meta(
            description=(
                "The file, with a filename. With purpose `batch`: UTF-8, one JSON object a line, "
                "as in the schema BatchRequestInput."
            )
        ),
    ]
    purpose: UploadPurpose
    anchor: Anchor | UnsetType = field(name="expires_after[anchor]", default=UNSET)
    seconds: Annotated[
        ExpiresAfter | UnsetType,
        Meta(
            description=(
                "How long the file is kept. Input files of batches are kept for 30 days if nothing "
                "else is configured, other files for good."
            )
        ),
    ] = field(name="expires_after[seconds]", default=UNSET)


class OutputExpiresAfter(Struct, frozen=True, kw_only=True):
    """How long the output and the error file are kept."""

    anchor: Anchor = "created_at"
    seconds: ExpiresAfter = DEFAULT_EXPIRES_AFTER


class CreateBatch(Struct, frozen=True, kw_only=True):
    """Unknown members are ignored."""

    input_file_id: Annotated[
        str,
        Meta(
            description="A file uploaded with purpose `batch`. If there is none, the batch fails."
        ),
    ]
    endpoint: Endpoint
    completion_window: CompletionWindow
    metadata: Metadata | None = None
    output_expires_after: OutputExpiresAfter | None = None
    priority: Annotated[Priority | None, Meta(description="0 if it is left out.")] = None
    idempotency_key: IdempotencyKey | None = None


class SetPriority(Struct, frozen=True, kw_only=True):
    """Unknown members are ignored."""

    priority: Priority


class RetryBatch(Struct, frozen=True, kw_only=True):
    """Unknown members are ignored; what is left out or null is as in the first batch.

    Its window may be used again even where the configuration has it no more.
    """

    codes: (
        Annotated[
            list[str | int],
            Meta(
                min_length=1,
                max_length=MAX_CODES,
                description=(
                    "Only lines that failed with one of these: `error.code` of their line, or the "
                    "status that the model server answered, or the code of its error."
                ),
            ),
        ]
        | None
    ) = None
    completion_window: CompletionWindow | None = None
    metadata: Metadata | None = None
    priority: Priority | None = None
    idempotency_key: IdempotencyKey | None = None


class BatchRequestInput(Struct, frozen=True, kw_only=True):
    """One line of an input file."""

    custom_id: Annotated[str, Meta(min_length=1, description="Unique in its batch.")]
    method: Literal["POST"]
    url: Annotated[Endpoint, Meta(description="The endpoint of the batch.")]
    body: Annotated[
        dict[str, Any], Meta(description="Goes to the model server as it is; names the model.")
    ]


class OutputResponse(Struct, frozen=True):
    """What the model server answered."""

    status_code: int
    request_id: str
    body: dict[str, Any]


class OutputError(Struct, frozen=True):
    """Why there is no answer: `batch_expired`, `batch_cancelled`, `request_timeout` or others."""

    code: str
    message: str


class BatchRequestOutput(Struct, frozen=True, kw_only=True):
    """One line of an output or error file; their order is not that of the input.

    A line of the output file has a response with a status of 2xx. ``input`` is there only where it
    was asked for.
    """

    id: str
    custom_id: str
    response: OutputResponse | None
    error: OutputError | None
    input: BatchRequestInput | UnsetType = UNSET
