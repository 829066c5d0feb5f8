"""What clients ask for: the body of a create, the query of a list, ``expires_after``.

Each fault is answered with the code, param and message of contract section 1.3; unknown keys are
ignored, since proxies add some.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from batchd.errors import InvalidRequest, NotFound
from batchd.model import NewBatch

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

_NAMES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}

_INTEGER = re.compile(r"-?[0-9]{1,18}")

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
    input_file_id = _string(body, "input_file_id")
    endpoint = _one_of(_string(body, "endpoint"), endpoints, "endpoint")
    window = _one_of(_string(body, "completion_window"), list(windows), "completion_window")
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
    if not isinstance(value, dict):
        raise _invalid_type("metadata", "an object", value)
    pairs = msgspec.convert(value, dict[str, object])
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
        raise _invalid_type(f"metadata.{key}", "a string", value)
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
    if not isinstance(value, dict):
        raise _invalid_type("output_expires_after", "an object", value)
    members = msgspec.convert(value, dict[str, object])
    anchor = members.get("anchor", "created_at")
    if not isinstance(anchor, str):
        raise _invalid_type("output_expires_after.anchor", "a string", anchor)
    seconds = members.get("seconds", DEFAULT_EXPIRES_AFTER)
    return _expires_after(
        "output_expires_after", anchor, _integer("output_expires_after.seconds", seconds)
    )


def _priority(value: object) -> int:
    """Ours, not OpenAI's: which batch goes first."""
    if value is None:
        return 0
    return _in_range("priority", _integer("priority", value), MIN_PRIORITY, MAX_PRIORITY)


def file_expires_after(anchor: str | None, seconds: str | None) -> int | None:
    """The two form fields ``expires_after[…]`` of an upload; None if neither was sent."""
    if anchor is None and seconds is None:
        return None
    number = DEFAULT_EXPIRES_AFTER
    if seconds is not None:
        number = _decimal("expires_after.seconds", seconds)
    return _expires_after("expires_after", "created_at" if anchor is None else anchor, number)


def _expires_after(name: str, anchor: str, seconds: int) -> int:
    _one_of(anchor, ["created_at"], f"{name}.anchor")
    return _in_range(f"{name}.seconds", seconds, MIN_EXPIRES_AFTER, MAX_EXPIRES_AFTER)


def limit(query: Mapping[str, str], *, default: int, maximum: int) -> int:
    """The ``limit`` of a list, 1 … ``maximum``."""
    text = query.get("limit")
    if text is None:
        return default
    return _in_range("limit", _decimal("limit", text), 1, maximum)


def order(query: Mapping[str, str]) -> str:
    return _one_of(query.get("order", "desc"), ["asc", "desc"], "order")


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


def _string(body: Mapping[str, object], field: str) -> str:
    value = body.get(field)
    if value is None:
        raise InvalidRequest(
            f"Missing required parameter: '{field}'.",
            param=field,
            code="missing_required_parameter",
        )
    if not isinstance(value, str):
        raise _invalid_type(field, "a string", value)
    return value


def _one_of(value: str, supported: Sequence[str], param: str) -> str:
    if value in supported:
        return value
    quoted = [f"'{item}'" for item in supported]
    if len(quoted) == 1:
        listed = quoted[0]
    else:
        comma = "," if len(quoted) > 2 else ""  # noqa: PLR2004 - the comma of a list of three
        listed = ", ".join(quoted[:-1]) + f"{comma} and {quoted[-1]}"
    # OpenAI's text names no parameter here except through ``param``; older SDKs print the
    # message alone, so completion_window is named in it (contract 3).
    name = f" for '{param}'" if param == "completion_window" else ""
    raise InvalidRequest(
        f"Invalid value{name}: '{value}'. Supported values are: {listed}.",
        param=param,
        code="invalid_value",
    )


def _integer(param: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid_type(param, "an integer", value)
    return value


def _decimal(param: str, text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise InvalidRequest(
            f"Invalid type for '{param}': expected an integer, but got '{text[:64]}' instead.",
            param=param,
            code="invalid_type",
        )
    return int(text)


def _in_range(param: str, value: int, low: int, high: int) -> int:
    if value > high:
        raise InvalidRequest(
            f"Invalid '{param}': integer above maximum value. Expected a value <= {high}, but "
            f"got {value} instead.",
            param=param,
            code="integer_above_max_value",
        )
    if value < low:
        raise InvalidRequest(
            f"Invalid '{param}': integer below minimum value. Expected a value >= {low}, but "
            f"got {value} instead.",
            param=param,
            code="integer_below_min_value",
        )
    return value


def _invalid_type(param: str, expected: str, value: object) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {type_name(value)} instead.",
        param=param,
        code="invalid_type",
    )


def type_name(value: object) -> str:
    """What people call the type of a decoded JSON value."""
    return _NAMES.get(type(value), "something else")
