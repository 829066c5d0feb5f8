"""What a model server says about waiting and about its limits: one parser for all such headers.

``wait_hint``: ``retry-after-ms`` before ``retry-after`` (seconds, a duration or an HTTP date)
before ``x-ratelimit-reset-*`` of what is used up. ``quota``: ``x-ratelimit-limit-*``,
``-remaining-*`` and ``-reset-*`` of requests and tokens, and the bare spellings. Resets come as
Go's durations ("1m30s", "250ms"), plain seconds, seconds or milliseconds since the epoch, or ISO
dates. What has gone by is 0; what cannot be meant (NaN, years) is as if it were not there.
Nothing is clamped here: who obeys decides how far.
"""

import email.utils
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from batchd.model import Quota, Window

_GO_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
    r"(?:\d+(?:\.\d+)?(?:[uµμ]s|ns))?"  # less than anyone can wait
)
_MAX_DIGITS = 40
_MAX_WAIT = 1e8  # seconds, three years
_EPOCH = 1e9  # what is more than this is an instant
_EPOCH_MS = 1e11

_Spelling = tuple[str, str, str]
_REQUESTS: tuple[_Spelling, ...] = (
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
)
_TOKENS: tuple[_Spelling, ...] = (
    ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
)


def wait_hint(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the backend asks to wait; None if it says nothing that can be understood."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _wait(milliseconds / 1000)
    after = headers.get("retry-after")
    if after is not None:
        seconds = _duration(after)
        return _wait(seconds) if seconds is not None else _date(after, now)
    resets = [
        _reset(headers.get(reset), now)
        for _, remaining, reset in (*_REQUESTS, *_TOKENS)
        if reset in headers and not _amount(headers.get(remaining))
    ]
    return max((wait for wait in resets if wait is not None), default=None)


def quota(headers: Mapping[str, str], now: float) -> Quota | None:
    """What the backend says of its limits; None if nothing. ``now``: seconds since the epoch."""
    requests = _window(headers, _REQUESTS, now)
    tokens = _window(headers, _TOKENS, now)
    if requests is None and tokens is None:
        return None
    return Quota(requests, tokens)


def _window(
    headers: Mapping[str, str], spellings: tuple[_Spelling, ...], now: float
) -> Window | None:
    for limit, remaining, reset in spellings:
        if limit in headers or remaining in headers:
            return Window(
                limit=_amount(headers.get(limit)),
                remaining=_amount(headers.get(remaining)),
                reset=_reset(headers.get(reset), now),
            )
    return None


def _amount(text: str | None) -> float | None:
    """A number that is not negative; of a list or of one with parameters, the first."""
    if text is None:
        return None
    number = _number(re.split("[,;]", text, maxsplit=1)[0])
    return number if number is not None and number >= 0 else None


def _number(text: str | None) -> float | None:
    if text is None or len(text) > _MAX_DIGITS:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _wait(seconds: float) -> float | None:
    return max(seconds, 0.0) if seconds <= _MAX_WAIT else None


def _date(text: str, now: float) -> float | None:
    try:
        return _wait(email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _reset(text: str | None, now: float) -> float | None:
    if text is None:
        return None
    seconds = _duration(text)
    if seconds is None:
        return _iso_date(text, now)
    if seconds >= _EPOCH_MS:
        return _wait(seconds / 1000 - now)
    return _wait(seconds - now if seconds >= _EPOCH else seconds)


def _iso_date(text: str, now: float) -> float | None:
    try:
        instant = datetime.fromisoformat(text.strip())
        if instant.tzinfo is None:
            instant = instant.replace(tzinfo=UTC)
        return _wait(instant.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _duration(text: str) -> float | None:
    number = _number(text)
    if number is not None:
        return number
    match = _GO_DURATION.fullmatch(text.strip()) if len(text) <= _MAX_DIGITS else None
    if match is None or not match[0]:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
