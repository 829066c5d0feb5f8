"""What servers say about waiting, in every spelling that is in use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.backends.hints import wait_hint

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, -3),
        ({"retry-after": "Fri, 15 Jan 2027 08:01:00 GMT"}, 60),
        ({"retry-after": "Fri, 15 Jan 2027 07:59:00 GMT"}, -60),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Fri, 15 Jan 99999 08:01:00 GMT"}, None),
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
        ({"x-ratelimit-reset-tokens": ""}, None),
        ({"x-ratelimit-reset-tokens": "whenever"}, None),
    ],
)
def test_a_hint_is_understood_or_none(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_hint(headers, NOW) == (None if seconds is None else pytest.approx(seconds))


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "retry-after",
                "retry-after-ms",
                "x-ratelimit-reset-requests",
                "x-ratelimit-remaining-requests",
            ]
        ),
        st.text(alphabet="0123456789.smh-+eE xMon,JanGT:\u0661", max_size=40),
    )
)
def test_nothing_that_a_server_sends_is_an_error(headers: dict[str, str]) -> None:
    found = wait_hint(headers, NOW)
    assert found is None or isinstance(found, float)
