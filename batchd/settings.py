"""The kinds of values that settings have, and the faults they are refused with. Pure.

Durations are numbers of seconds or strings such as "10m", sizes numbers of bytes or "200MiB".
"""

import re
from pathlib import Path

import msgspec

_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:\[\]/]+):(?P<port>\d{1,5})")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)")
_MOST_SECONDS = 1e12  # what is more, infinity or NaN is no number to reckon with
_MOST_BYTES = 1 << 60
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}


class Duration(float):
    """Seconds; in the file a number or a string such as "90s", "10m", "24h", "30d"."""

    @classmethod
    def parse(cls, value: object) -> "Duration":
        seconds = value
        if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
            seconds = float(match[1]) * _SECONDS[match[2]]
        if (
            isinstance(seconds, int | float)
            and not isinstance(seconds, bool)
            and 0 <= seconds < _MOST_SECONDS
        ):
            return cls(seconds)
        raise ValueError(f"{value!r} is not a duration (write a number of seconds, or '10m')")


class Size(int):
    """Bytes; in the file a number or a string such as "200MiB"."""

    @classmethod
    def parse(cls, value: object) -> "Size":
        size: object = value
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
            exact = float(match[1]) * _BYTES[match[2]]
            size = int(exact) if exact < _MOST_BYTES else None
        if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < _MOST_BYTES:
            return cls(size)
        raise ValueError(f"{value!r} is not a size (write a number of bytes, or '200MiB')")


def is_duration(text: str) -> bool:
    """Whether a string is one with a unit, as "24h"."""
    return _DURATION.fullmatch(text.strip()) is not None


def parse_address(address: str) -> Path | tuple[str, int]:
    """A listen address: ``host:port`` as a pair, ``unix:/path`` as a path."""
    if address.startswith("unix:/"):
        return Path(address.removeprefix("unix:"))
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:  # noqa: PLR2004 - the largest port
        raise ValueError(f"listen has {address!r}: write 'host:port' or 'unix:/path'")
    return match["host"].strip("[]"), int(match["port"])


def at_least(low: int, **settings: float) -> None:
    for name, value in settings.items():
        if not value >= low:  # NaN is not
            raise ValueError(f"{name} must be at least {low}")


def more_than_zero(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} must be more than 0")


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common settings of every section: immutable, and an unknown key is an error."""


def converted(kind: type, value: object) -> object:
    """``value`` as one of these kinds or a path, for msgspec's ``dec_hook``."""
    if kind is Duration:
        return Duration.parse(value)
    if kind is Size:
        return Size.parse(value)
    if kind is Path:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{value!r} is not a path")
        return Path(value)
    raise NotImplementedError
