"""What servers say about waiting, in every spelling that is in use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.backends.hints import quota, wait_hint
from batchd.model import Quota, Window

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "Fri, 15 Jan 2027 08:01:00 GMT"}, 60),
        ({"retry-after": "Fri, 15 Jan 2027 07:59:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Fri, 15 Jan 99999 08:01:00 GMT"}, None),
        ({"retry-after": "1e300"}, None),
        ({"retry-after": "2s"}, 2),
        ({"retry-after": "9000"}, 9000),
        ({"retry-after-ms": "-1"}, 0),
        ({"retry-after-ms": "1e300"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7),
        ({"retry-after": "7", "x-ratelimit-reset-requests": "1m"}, 7),
        ({"x-ratelimit-reset-requests": "1m30s"}, 90),
        ({"x-ratelimit-reset-requests": "250ms"}, 0.25),
        ({"x-ratelimit-reset-requests": "2h"}, 7200),
        ({"x-ratelimit-reset-requests": "1h2m3.5s4ms"}, 3723.504),
        ({"x-ratelimit-reset-tokens": "12"}, 12),
        ({"x-ratelimit-reset-tokens": "12", "x-ratelimit-reset-requests": "20s"}, 20),
        ({"x-ratelimit-reset-tokens": "12s", "x-ratelimit-remaining-tokens": "9"}, None),
        (
            {
                "x-ratelimit-reset-tokens": "12s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-requests": "60s",
                "x-ratelimit-remaining-requests": "5",
            },
            12,
        ),
        ({"x-ratelimit-reset-requests": "12.5ms310\u00b5s"}, 0.0125),
        ({"x-ratelimit-reset": "1800000030"}, 30),
        ({"x-ratelimit-reset": "1800000030500"}, 30.5),
        ({"x-ratelimit-reset": "1799999000"}, 0),
        ({"x-ratelimit-reset": "2027-01-15T08:00:05Z"}, 5),
        ({"x-ratelimit-reset": "2027-01-15T08:00:05"}, 5),
        ({"x-ratelimit-reset": "9e20"}, None),
        ({"x-ratelimit-reset": "4", "x-ratelimit-remaining": "3"}, None),
        ({"x-ratelimit-reset": "4", "x-ratelimit-remaining": "0.0"}, 4),
        ({"ratelimit-reset": "4"}, 4),
        ({"x-ratelimit-reset-tokens": ""}, None),
        ({"x-ratelimit-reset-tokens": "whenever"}, None),
    ],
)
def test_a_hint_is_understood_or_none(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_hint(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"content-type": "application/json", "retry-after": "3"}, None),
        (
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-limit-tokens": "150000",
                "x-ratelimit-remaining-tokens": "149984",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            Quota(Window(60, 59, 1), Window(150_000, 149_984, 360)),
        ),
        ({"x-ratelimit-remaining-tokens": "0"}, Quota(None, Window(None, 0, None))),
        (
            {
                "x-ratelimit-limit": "100",
                "x-ratelimit-remaining": "7",
                "x-ratelimit-reset": "1800000012",
            },
            Quota(Window(100, 7, 12)),
        ),
        (
            {
                "ratelimit-limit": "100, 100;w=60",
                "ratelimit-remaining": "5",
                "ratelimit-reset": "9",
            },
            Quota(Window(100, 5, 9)),
        ),
        ({"x-ratelimit-limit": "-5", "x-ratelimit-remaining": "nan"}, Quota(Window())),
        ({"x-ratelimit-limit": "many", "x-ratelimit-reset": "soon"}, Quota(Window())),
        ({"x-ratelimit-limit": "0"}, Quota(Window(limit=0))),
    ],
)
def test_a_quota_is_understood_in_every_spelling(
    headers: dict[str, str], found: Quota | None
) -> None:
    assert quota(headers, NOW) == found


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "retry-after",
                "retry-after-ms",
                "x-ratelimit-reset-requests",
                "x-ratelimit-remaining-requests",
                "x-ratelimit-limit",
                "x-ratelimit-reset",
            ]
        ),
        st.text(alphabet="0123456789.smh-+eE xMon,JanGT:\u0661\u00b5", max_size=50),
    )
)
def test_nothing_that_a_server_sends_is_an_error(headers: dict[str, str]) -> None:
    found = wait_hint(headers, NOW)
    assert found is None or 0 <= found <= 1e8
    quota(headers, NOW)
