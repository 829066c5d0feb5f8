"""The kinds of values that settings have."""

import math
from pathlib import Path

import pytest

from batchd.settings import (
    Duration,
    Size,
    at_least,
    converted,
    is_duration,
    more_than_zero,
    parse_address,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0),
        (1.5, 1.5),
        ("250ms", 0.25),
        ("90s", 90),
        ("10m", 600),
        (" 24h ", 86400),
        ("1.5d", 129600),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert Duration.parse(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        -1,
        math.inf,
        math.nan,
        1e12,
        "",
        "10",
        "-1s",
        "1w",
        "9" * 400 + "d",
        "9" * 400 + "ms",
        "1000000000000s",
        None,
        True,
    ],
)
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        Duration.parse(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 0), ("10B", 10), ("2KB", 2000), ("1.5KiB", 1536), ("200MiB", 209715200), ("1GB", 10**9)],
)
def test_sizes(value: object, size: int) -> None:
    assert Size.parse(value) == size


@pytest.mark.parametrize(
    "value",
    [
        -1,
        1.5,
        1 << 60,
        "",
        "10",
        "1TB",
        "9" * 400 + "B",
        "9" * 20 + "GiB",
        None,
        True,
    ],
)
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        Size.parse(value)


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:8400", ("::1", 8400)),
        ("localhost:80", ("localhost", 80)),
        ("unix:/run/batchd.sock", Path("/run/batchd.sock")),
    ],
)
def test_addresses(address: str, parsed: Path | tuple[str, int]) -> None:
    assert parse_address(address) == parsed


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.1:65536", "::1:80", "unix:run", "unix:", ":80", "a/b:80", ""]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="write 'host:port' or 'unix:/path'"):
        parse_address(address)


def test_a_string_with_a_unit_is_a_duration() -> None:
    assert [is_duration(text) for text in ("24h", " 1.5d ", "10", "h", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("value", [0.9, -math.inf, math.nan])
def test_less_than_the_least_is_named(value: float) -> None:
    at_least(1, good=1, more=math.inf)
    with pytest.raises(ValueError, match="bad must be at least 1"):
        at_least(1, good=1, bad=value)


@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_nothing_is_named_where_something_must_be(value: float) -> None:
    more_than_zero(good=0.001)
    with pytest.raises(ValueError, match="bad must be more than 0"):
        more_than_zero(good=1, bad=value)


def test_values_are_converted_to_the_kind_of_their_setting() -> None:
    assert converted(Duration, "1m") == 60
    assert converted(Size, "1KiB") == 1024
    assert converted(Path, "/x") == Path("/x")
    for nothing in ("", 3, None):
        with pytest.raises(ValueError, match="is not a path"):
            converted(Path, nothing)
    with pytest.raises(NotImplementedError):
        converted(complex, 1)
