"""What clients may ask for beyond OpenAI's API: a key for a wish, a retry, another priority."""

from collections.abc import Mapping

import msgspec

from batchd.errors import InvalidRequest
from batchd.model import NewBatch
from batchd.wire import params
from batchd.wire.checks import in_range, integer, invalid_type, missing

MAX_KEY = 255
MAX_CODES = 100
MAX_CODE = 255  # characters


class RetryWish(msgspec.Struct, frozen=True, kw_only=True):
    """How lines are to be run again. ``codes``: only what failed with one of these.

    None stands for what the first batch had; an empty ``metadata`` for none.
    """

    codes: frozenset[str] | None = None
    completion_window: str | None = None
    metadata: dict[str, str] | None = None
    priority: int | None = None
    idempotency_key: str | None = None
    is_repeated: bool = False


def repeatable(wish: NewBatch, headers: Mapping[str, str], body: Mapping[str, object]) -> NewBatch:
    """The wish with the name that its sender gives it, and whether it was perhaps sent before."""
    return msgspec.structs.replace(
        wish, idempotency_key=_key(headers, body), is_repeated=_is_repeated(headers)
    )


def retry(headers: Mapping[str, str], body: Mapping[str, object]) -> RetryWish:
    """What the body of ``POST /v1/batches/{id}/retry`` asks for; it may be empty."""
    window = body.get("completion_window")
    if window is not None and not isinstance(window, str):
        raise invalid_type("completion_window", "a string", window)
    priority = body.get("priority")
    return RetryWish(
        codes=_codes(body.get("codes")),
        completion_window=window,
        metadata=params.metadata(body.get("metadata")),
        priority=None if priority is None else priority_of(body),
        idempotency_key=_key(headers, body),
        is_repeated=_is_repeated(headers),
    )


def priority_of(body: Mapping[str, object]) -> int:
    """The body's ``priority``, which must be there."""
    value = body.get("priority")
    if value is None:
        raise missing("priority")
    number = integer("priority", value)
    return in_range("priority", number, params.MIN_PRIORITY, params.MAX_PRIORITY)


def _codes(value: object) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise invalid_type("codes", "an array", value)
    items = msgspec.convert(value, list[object])
    if not 0 < len(items) <= MAX_CODES:
        raise InvalidRequest(
            f"Invalid 'codes': expected 1 to {MAX_CODES} codes, but got {len(items)} instead.",
            param="codes",
            code="invalid_value",
        )
    return frozenset(_code(number, item) for number, item in enumerate(items))


def _code(number: int, item: object) -> str:
    if isinstance(item, int) and not isinstance(item, bool):
        return str(item)  # a status
    if not isinstance(item, str):
        raise invalid_type(f"codes[{number}]", "a string", item)
    if len(item) > MAX_CODE:
        raise InvalidRequest(
            f"Invalid 'codes[{number}]': string too long. Expected a string with maximum length "
            f"{MAX_CODE}, but got a string with length {len(item)} instead.",
            param=f"codes[{number}]",
            code="string_above_max_length",
        )
    return item


def _key(headers: Mapping[str, str], body: Mapping[str, object]) -> str | None:
    """From the header ``Idempotency-Key``, else from the body's ``idempotency_key``."""
    of_body, of_header = (
        _checked_key(value)
        for value in (body.get("idempotency_key"), headers.get("Idempotency-Key"))
    )
    return of_body if of_header is None else of_header


def _checked_key(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid_type("idempotency_key", "a string", value)
    if not 0 < len(value) <= MAX_KEY or not value.isprintable():
        raise InvalidRequest(
            f"Invalid 'idempotency_key': expected 1 to {MAX_KEY} printable characters, but got "
            f"{len(value)} instead.",
            param="idempotency_key",
            code="invalid_value",
        )
    return value


def _is_repeated(headers: Mapping[str, str]) -> bool:
    """Whether an SDK sends this again, having got no answer (contract 1.2)."""
    count = headers.get("x-stainless-retry-count", "0")
    return count.isascii() and count.isdigit() and count.strip("0") != ""
