"""What a decoded JSON value, or a text of a form or query, must be: with the answer if it is not.

Each fault has the code, param and message of contract section 1.3.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from batchd.errors import InvalidRequest

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


def type_name(value: object) -> str:
    """What people call the type of a decoded JSON value."""
    return _NAMES.get(type(value), "something else")


def invalid_type(param: str, expected: str, value: object) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for '{param}': expected {expected}, but got {type_name(value)} instead.",
        param=param,
        code="invalid_type",
    )


def missing(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def string(body: Mapping[str, object], field: str) -> str:
    """The string of that name, which must be there."""
    value = body.get(field)
    if value is None:
        raise missing(field)
    if not isinstance(value, str):
        raise invalid_type(field, "a string", value)
    return value


def mapping(param: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    return msgspec.convert(value, dict[str, object])


def integer(param: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid_type(param, "an integer", value)
    return value


def decimal(param: str, text: str) -> int:
    """The integer that a text spells."""
    if _INTEGER.fullmatch(text) is None:
        raise InvalidRequest(
            f"Invalid type for '{param}': expected an integer, but got '{text[:64]}' instead.",
            param=param,
            code="invalid_type",
        )
    return int(text)


def in_range(param: str, value: int, low: int, high: int) -> int:
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


def one_of(value: str, supported: Sequence[str], param: str) -> str:
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
