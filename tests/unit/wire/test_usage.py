"""Tokens as servers spell them, one answer at a time and many."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.model import NO_USAGE, Reply, Usage
from batchd.wire.lines import reply_line
from batchd.wire.usage import answer_usage, result_usage, summed_usage
from tests.unit.wire.test_lines import GOLDEN, LINE, TAG

HUGE = b"9" * 401


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}', Usage(3, 0, 4, 0, 7)),
        (b'{"prompt_tokens":3,"completion_tokens":4}', Usage(3, 0, 4, 0, 7)),
        (b'{"prompt_tokens":3,"total_tokens":3}', Usage(3, 0, 0, 0, 3)),
        (
            (
                b'{"prompt_tokens":3,"completion_tokens":4,"total_tokens":9,"prompt_tokens_details":'
                b'{"cached_tokens":2,"audio_tokens":0},"completion_tokens_details":'
                b'{"reasoning_tokens":1}}'
            ),
            Usage(3, 2, 4, 1, 9),
        ),
        (
            (
                b'{"input_tokens":3,"output_tokens":4,"input_tokens_details":{"cached_tokens":2},'
                b'"output_tokens_details":{"reasoning_tokens":1}}'
            ),
            Usage(3, 2, 4, 1, 7),
        ),
        (b'{"prompt_tokens":3,"prompt_tokens_details":null}', Usage(3, 0, 0, 0, 3)),
        (b'{"prompt_tokens":-3,"input_tokens":2,"total_tokens":-1}', Usage(2, 0, 0, 0, 2)),
        (
            b'{"prompt_tokens":1000000000000,"total_tokens":1000000000001}',
            Usage(10**12, 0, 0, 0, 10**12),
        ),
        (
            b'{"prompt_tokens":3,"completion_tokens":%b,"total_tokens":7}' % HUGE,
            Usage(3, 0, 0, 0, 7),
        ),
        (
            b'{"prompt_tokens":3,"completion_tokens":4,"total_tokens":%b}' % HUGE,
            Usage(3, 0, 4, 0, 7),
        ),
        (b'{"input_tokens":3,"prompt_tokens":%b}' % HUGE, Usage(3, 0, 0, 0, 3)),
        (
            b'{"total_tokens":7,"prompt_tokens_details":{"cached_tokens":%b}}' % HUGE,
            Usage(0, 0, 0, 0, 7),
        ),
        (b'{"total_tokens":1e999}', NO_USAGE),
        (b'{"total_tokens":%b}' % (b"9" * 5000), NO_USAGE),
        (b"{}", NO_USAGE),
        (b"null", NO_USAGE),
        (b'{"prompt_tokens":"many"}', NO_USAGE),
        (b'{"prompt_tokens":1.5}', NO_USAGE),
        (b"[1]", NO_USAGE),
    ],
)
def test_spellings_of_usage(usage: bytes, expected: Usage) -> None:
    body = b'{"id":"x","usage":' + usage + b"}"
    assert answer_usage(body) == expected
    reply = Reply(status_code=200, request_id="r", body=body)
    line = reply_line(TAG, LINE, reply)
    assert result_usage(line) == expected
    assert summed_usage([line]) == expected


def test_a_null_among_the_numbers_leaves_the_others() -> None:
    usage = (
        b'{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":null}}'
    )
    assert answer_usage(b'{"usage":' + usage + b"}") == Usage(3, 0, 4, 0, 7)


NUMBERS = st.sampled_from(
    [b"0", b"3", b"7", b"-2", b"null", b"1.5", b"2.0", b"1e2", b'"5"', b"true", b"9" * 25, HUGE]
)
DETAILS = st.one_of(
    st.sampled_from([b"null", b"{}", b"[]", b"{"]),
    NUMBERS.map(lambda number: b'{"cached_tokens":%b,"audio_tokens":1}' % number),
    NUMBERS.map(lambda number: b'{"reasoning_tokens":%b}' % number),
)
COUNTED = st.dictionaries(
    st.sampled_from(
        [
            b"prompt_tokens",
            b"completion_tokens",
            b"input_tokens",
            b"output_tokens",
            b"total_tokens",
            b"queue_time",
        ]
    ),
    NUMBERS,
)
DETAILED = st.dictionaries(
    st.sampled_from(
        [
            b"prompt_tokens_details",
            b"completion_tokens_details",
            b"input_tokens_details",
            b"output_tokens_details",
        ]
    ),
    DETAILS,
)


def usage_object(counted: dict[bytes, bytes], detailed: dict[bytes, bytes]) -> bytes:
    fields = [*counted.items(), *detailed.items()]
    return b"{%b}" % b",".join(b'"%b":%b' % field for field in fields)


USAGES = st.one_of(
    st.sampled_from([b"null", b"{}", b"[1]", b'"many"', b"7", b"[" * 2000 + b"]" * 2000]),
    st.builds(usage_object, COUNTED, DETAILED),
)
BODIES = st.one_of(
    st.sampled_from([b"{}", b"null", b"[]", b'{"x":"\xff"}', b"{", b"{}}{"]),
    USAGES.map(lambda usage: b'{"id":"x","usage":%b}' % usage),
    USAGES.map(lambda usage: b'{"\\u0075sage":%b,"usage":{"prompt_tokens":4}}' % usage),
    USAGES.map(lambda usage: b'{"usage":{"output_tokens":4},"usage":%b}' % usage),
)


def counted_line(body: bytes) -> bytes:
    return reply_line(TAG, LINE, Reply(status_code=200, request_id="r", body=body))


USUAL = counted_line(b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}')


@given(st.lists(BODIES.map(counted_line), max_size=3), st.integers(0, 3))
def test_the_usage_of_many_lines_is_the_sum_of_each_alone(lines: list[bytes], usual: int) -> None:
    lines = [*lines, *[USUAL] * usual, *[line for line, _ in GOLDEN[: usual // 2]]]
    expected = sum(map(result_usage, lines), NO_USAGE)
    assert summed_usage(lines) == expected


def test_the_usage_of_a_line_that_no_answer_came_for_is_none_of_many() -> None:
    assert summed_usage([USUAL, GOLDEN[1][0], USUAL]) == Usage(6, 0, 8, 0, 14)
    assert summed_usage([]) == NO_USAGE


def test_an_answer_without_usage_has_none() -> None:
    assert answer_usage(b"{}") is NO_USAGE
    assert result_usage(GOLDEN[0][0]) is NO_USAGE


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"text"', b"{", b"{}\0", b"{} {}", b'{"a":NaN}', b"null", b"\xef\xbb\xbf{}"],
)
def test_what_is_no_json_object_is_an_error(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        answer_usage(body)
