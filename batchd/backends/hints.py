"""What a model server says about waiting: one parser for every header that gives a hint.

``retry-after-ms`` before ``retry-after`` (seconds or an HTTP date) before ``x-ratelimit-reset-*``
(OpenAI's "1m30s", "250ms", "2s" or plain seconds). The value is not clamped here.
"""

import email.utils
import math
import re
from collections.abc import Mapping

_GO_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?"
)
_REMAINING_RESETS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
)
_MAX_DIGITS = 32


def wait_hint(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the backend asks to wait; None if it says nothing that can be understood."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    after = headers.get("retry-after")
    if after is not None:
        seconds = _number(after)
        return seconds if seconds is not None else _date(after, now)
    resets = [
        _duration(headers.get(reset))
        for remaining, reset in _REMAINING_RESETS
        if headers.get(remaining, "0").strip() == "0"
    ]
    return max((wait for wait in resets if wait is not None), default=None)


def _number(text: str | None) -> float | None:
    if text is None or len(text) > _MAX_DIGITS:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(text: str, now: float) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _duration(text: str | None) -> float | None:
    if text is None:
        return None
    number = _number(text)
    if number is not None:
        return number
    match = _GO_DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
