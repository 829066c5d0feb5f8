"""What several routes take or answer, and what is too long to stand among them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchd.api.route import Answer, Header, Parameter, Place
from batchd.errors import InvalidRequest, RequestTimeout, TooLarge
from batchd.wire.objects import ListObject
from batchd.wire.requests import BatchRequestOutput
from batchd.wire.wishes import MAX_KEY

READS_BODY = (InvalidRequest, RequestTimeout, TooLarge)


def json_of(kind: type[msgspec.Struct], description: str) -> tuple[Answer, ...]:
    """The answers of a route that succeeds with one kind of JSON object."""
    return (Answer(description=description, media_types=("application/json",), kind=kind),)


def text(description: str, *media_types: str) -> tuple[Answer, ...]:
    """The answers of a route that succeeds with text that is not one of our objects."""
    return (Answer(description=description, media_types=media_types, kind=None),)


def page_of(kind: type[msgspec.Struct], name: str) -> type[msgspec.Struct]:
    """``ListObject`` with members of one kind."""
    fields = [
        (field.name, list[kind] if field.name == "data" else field.type, field.default)
        for field in msgspec.structs.fields(ListObject)
    ]
    return msgspec.defstruct(name, fields, kw_only=True)


def parameter(place: Place, name: str, kind: object, description: str) -> Parameter:
    return Parameter(name=name, place=place, kind=kind, description=description)


def limit(most: int, default: int) -> Parameter:
    kind = Annotated[int, Meta(ge=1, le=most, extra_json_schema={"default": default})]
    return parameter("query", "limit", kind, "How many there may be in the answer.")


FILE = parameter("path", "file_id", str, "The id of a file.")
BATCH = parameter("path", "batch_id", str, "The id of a batch.")
AFTER = parameter("query", "after", str, "The id of the last object of the page before: `last_id`.")
# What a header can carry of ``IdempotencyKey``.
_KEY = Annotated[str, Meta(max_length=MAX_KEY, pattern="^[!-~]([ -~]*[!-~])?$")]
KEY = parameter(
    "header",
    "Idempotency-Key",
    _KEY,
    "As `idempotency_key` in the body. Without a key, a request with an `x-stainless-retry-count` "
    "above 0, as SDKs send it after a lost answer, is taken for an equal one of the last minute.",
)

_BYTES = ("application/jsonl", "application/octet-stream")
_DISPOSITION = Header(
    name="Content-Disposition",
    kind=str,
    description="An attachment, and the name of the file.",
    is_certain=True,
)
_RANGE = Header(
    name="Content-Range", kind=str, description="Which part of the file it is.", is_certain=True
)
_ETAG = Header(
    name="ETag", kind=str, description="For If-None-Match and If-Range.", is_certain=True
)
CONTENT = (
    Answer(
        description="All of it; as application/jsonl if its purpose is a batch's.",
        media_types=_BYTES,
        kind=None,
        headers=(_DISPOSITION, _ETAG),
    ),
    Answer(
        status=206,
        description="The part that was asked for.",
        media_types=_BYTES,
        kind=None,
        headers=(_DISPOSITION, _ETAG, _RANGE),
    ),
    Answer(
        status=304,
        description="The client has it already.",
        media_types=(),
        kind=None,
        headers=(_DISPOSITION, _ETAG),
    ),
)

_NEXT = Header(
    name="x-next-cursor",
    kind=str,
    description="What to send as `after` next time.",
    is_certain=True,
)
_MORE = Header(
    name="x-has-more",
    kind=Literal["true", "false"],
    description="`true` until the batch has ended.",
    is_certain=True,
)
JSON_LINES = (
    Answer(
        description="The lines, which are on disk for good.",
        media_types=("application/jsonl",),
        kind=None,
        lines=BatchRequestOutput,
        headers=(_NEXT, _MORE),
    ),
)
