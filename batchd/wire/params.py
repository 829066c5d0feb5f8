"""What clients ask for: the body of a create, the query of a list, ``expires_after``.

Each fault is answered with the code, param and message of contract section 1.3; unknown keys are
ignored, since proxies add some.
"""

from collections.abc import Mapping, Sequence

import msgspec

from batchd.errors import InvalidRequest, NotFound
from batchd.model import NewBatch
from batchd.wire.checks import (
    decimal,
    in_range,
    integer,
    invalid_type,
    mapping,
    one_of,
    string,
    type_name,
)

MIN_EXPIRES_AFTER = 3600
MAX_EXPIRES_AFTER = 2592000
DEFAULT_EXPIRES_AFTER = 2592000

# A batch of priority 10 gets 32 times the turns of one of priority 0, which gets 32 times those of
# one of priority -10.
MIN_PRIORITY = -10
MAX_PRIORITY = 10

MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512

_decode = msgspec.json.Decoder().decode


def json_object(body: bytes) -> dict[str, object]:
    """The request's body. ``InvalidRequest`` unless it is one JSON object."""
    try:
        value: object = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you "
            "aren't using your HTTP library correctly. The API expects a JSON payload.)"
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(
            "We could not parse the JSON body of your request. (HINT: The API expects a JSON "
            f"object, but got {type_name(value)} instead.)"
        )
    return msgspec.convert(value, dict[str, object])


def new_batch(
    body: Mapping[str, object], *, endpoints: Sequence[str], windows: Mapping[str, int]
) -> NewBatch:
    """The batch that the body of ``POST /v1/batches`` asks for."""
    input_file_id = string(body, "input_file_id")
    endpoint = one_of(string(body, "endpoint"), endpoints, "endpoint")
    window = one_of(string(body, "completion_window"), list(windows), "completion_window")
    return NewBatch(
        input_file_id=input_file_id,
        endpoint=endpoint,
        completion_window=window,
        window=windows[window],
        metadata=metadata(body.get("metadata")),
        output_expires_after=_output_expires_after(body.get("output_expires_after")),
        priority=_priority(body.get("priority")),
    )


def metadata(value: object) -> dict[str, str] | None:
    """At most 16 pairs of strings; a key has up to 64 characters, a value up to 512."""
    if value is None:
        return None
    pairs = mapping("metadata", value)
    if len(pairs) > MAX_METADATA_PAIRS:
        raise InvalidRequest(
            f"Invalid 'metadata': too many properties. Expected an object with at most "
            f"{MAX_METADATA_PAIRS} properties, but got an object with {len(pairs)} properties "
            "instead.",
            param="metadata",
            code="object_above_max_properties",
        )
    return {key: _metadata_value(key, text) for key, text in pairs.items()}


def _metadata_value(key: str, value: object) -> str:
    if len(key) > MAX_METADATA_KEY:
        raise InvalidRequest(
            f"Invalid 'metadata': property name '{key[:MAX_METADATA_KEY]}…' too long. Expected a "
            f"property name with maximum length {MAX_METADATA_KEY}, but got one with length "
            f"{len(key)} instead.",
            param="metadata",
            code="property_name_above_max_length",
        )
    if not isinstance(value, str):
        raise invalid_type(f"metadata.{key}", "a string", value)
    if len(value) > MAX_METADATA_VALUE:
        raise InvalidRequest(
            f"Invalid 'metadata.{key}': string too long. Expected a string with maximum length "
            f"{MAX_METADATA_VALUE}, but got a string with length {len(value)} instead.",
            param=f"metadata.{key}",
            code="string_above_max_length",
        )
    return value


def _output_expires_after(value: object) -> int:
    if value is None:
        return DEFAULT_EXPIRES_AFTER
    members = mapping("output_expires_after", value)
    anchor = members.get("anchor", "created_at")
    if not isinstance(anchor, str):
        raise invalid_type("output_expires_after.anchor", "a string", anchor)
    seconds = members.get("seconds", DEFAULT_EXPIRES_AFTER)
    return _expires_after(
        "output_expires_after", anchor, integer("output_expires_after.seconds", seconds)
    )


def _priority(value: object) -> int:
    """Ours, not OpenAI's: which batch goes first."""
    if value is None:
        return 0
    return in_range("priority", integer("priority", value), MIN_PRIORITY, MAX_PRIORITY)


def file_expires_after(anchor: str | None, seconds: str | None) -> int | None:
    """The two form fields ``expires_after[…]`` of an upload; None if neither was sent."""
    if anchor is None and seconds is None:
        return None
    number = DEFAULT_EXPIRES_AFTER
    if seconds is not None:
        number = decimal("expires_after.seconds", seconds)
    return _expires_after("expires_after", "created_at" if anchor is None else anchor, number)


def _expires_after(name: str, anchor: str, seconds: int) -> int:
    one_of(anchor, ["created_at"], f"{name}.anchor")
    return in_range(f"{name}.seconds", seconds, MIN_EXPIRES_AFTER, MAX_EXPIRES_AFTER)


def limit(query: Mapping[str, str], *, default: int, maximum: int) -> int:
    """The ``limit`` of a list, 1 … ``maximum``."""
    text = query.get("limit")
    if text is None:
        return default
    return in_range("limit", decimal("limit", text), 1, maximum)


def order(query: Mapping[str, str]) -> str:
    return one_of(query.get("order", "desc"), ["asc", "desc"], "order")


def unknown_cursor(after: str) -> InvalidRequest:
    """A cursor that never was an id; the first page instead would make SDKs page for ever."""
    return InvalidRequest(
        f"Invalid 'after': no object with id '{after}' was ever listed here.",
        param="after",
        code="invalid_value",
    )


def no_such_file(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id}", param="id")


def no_such_batch(batch_id: str) -> NotFound:
    return NotFound(f"No batch found with id '{batch_id}'.")
