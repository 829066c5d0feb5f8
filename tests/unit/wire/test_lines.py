"""Lines of input and result files, byte for byte."""

import json
import zlib
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.engine.linecheck import LineChecker
from batchd.model import Failure, FailureKind, LineFile, Reply, RequestLine
from batchd.wire.lines import (
    CANCELLED,
    EXPIRED,
    INPUT_LOST,
    check_result_line,
    check_result_lines,
    custom_id,
    failure_line,
    file_of,
    is_never_run,
    never_run_line,
    one_line,
    reply_line,
    request_line,
)

TAG = b"0123abcd"
LINE = RequestLine(10, "my-id", "m", b"{}")
OK = Reply(status_code=200, request_id="req_1", body=b'{"a":1.50}')

# Written down by hand but for the checksum: if these change, older files are no longer read.
GOLDEN = [
    (
        reply_line(TAG, LINE, OK),
        (
            b'{"id":"batch_req_0123abcd0000000a38ff878c","custom_id":"my-id","response":{"status_code":'
            b'200,"request_id":"req_1","body":{"a":1.50}},"error":null}\n'
        ),
    ),
    (
        failure_line(TAG, LINE, Failure(FailureKind.TIMEOUT)),
        (
            b'{"id":"batch_req_0123abcd0000000af3593c49","custom_id":"my-id","response":null,"error":{"'
            b'code":"request_timeout","message":"The model server did not answer in time."}}\n'
        ),
    ),
    (
        never_run_line(TAG, 10, "my-id", EXPIRED),
        (
            b'{"id":"batch_req_0123abcd0000000a6ed9a2d0","custom_id":"my-id","response":null,"error":{"'
            b'code":"batch_expired","message":"This request could not be executed before the '
            b'completion window expired."}}\n'
        ),
    ),
    (
        never_run_line(TAG, 10, "my-id", CANCELLED),
        (
            b'{"id":"batch_req_0123abcd0000000ac478ea5d","custom_id":"my-id","response":null,"error":{"'
            b'code":"batch_cancelled","message":"The batch was cancelled before this request was '
            b'executed."}}\n'
        ),
    ),
]


@pytest.mark.parametrize(("line", "golden"), GOLDEN)
def test_golden_lines(line: bytes, golden: bytes) -> None:
    assert line == golden
    assert check_result_line(TAG, line) == 10


@pytest.mark.parametrize("kind", FailureKind)
def test_a_failure_has_a_documented_code(kind: FailureKind) -> None:
    line = json.loads(failure_line(TAG, LINE, Failure(kind)))
    assert list(line) == ["id", "custom_id", "response", "error"]
    assert line["response"] is None
    expected = "request_timeout" if kind is FailureKind.TIMEOUT else "server_error"
    assert line["error"]["code"] == expected
    assert set(line["error"]) == {"code", "message"}


def test_lines_never_run_are_told_by_their_tail() -> None:
    for error in (EXPIRED, CANCELLED):
        assert is_never_run(never_run_line(TAG, 3, '"response":null', error))
    assert not is_never_run(never_run_line(TAG, 3, "a", INPUT_LOST))  # counts as failed
    for kind in FailureKind:
        assert not is_never_run(failure_line(TAG, LINE, Failure(kind)))
    # An answer that looks like one of ours is an answer.
    body = b'{"response":null,"error":' + EXPIRED + b"}"
    assert not is_never_run(
        reply_line(TAG, LINE, Reply(status_code=400, request_id="r", body=body))
    )


def test_a_result_goes_where_its_status_says() -> None:
    for status, which in ((200, LineFile.OUTPUT), (299, LineFile.OUTPUT), (300, LineFile.ERROR)):
        assert file_of(Reply(status_code=status, request_id="r", body=b"{}")) is which
    assert file_of(Reply(status_code=199, request_id="r", body=b"{}")) is LineFile.ERROR


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'{"a":1}', b'{"a":1}'),
        (b' \t{"a" : 1.0e5}\t ', b'{"a" : 1.0e5}'),
        (b'{\n  "a": 1\r\n}\n', b'{   "a": 1  }'),
        ('{"a":"x\u2028y\u2029z\x85é"}'.encode(), '{"a":"x\\u2028y\\u2029z\\u0085é"}'.encode()),
        ('{"a":"\u2027\u202a\u0084\u0086"}'.encode(), '{"a":"\u2027\u202a\u0084\u0086"}'.encode()),
        (b'{"a":"\\n\\u2028"}', b'{"a":"\\n\\u2028"}'),
    ],
)
def test_an_answer_is_made_one_line_and_else_untouched(body: bytes, line: bytes) -> None:
    assert one_line(body) == line
    assert json.loads(one_line(body)) == json.loads(body)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.text(), st.booleans())
def test_no_answer_and_no_name_cuts_a_line(
    value: dict[str, object], name: str, pretty: bool
) -> None:
    body = json.dumps(value, ensure_ascii=False, indent=2 if pretty else None)
    line = RequestLine(0, name, "m", b"{}")
    reply = Reply(status_code=200, request_id="r", body=one_line(body.encode()))
    text = reply_line(TAG, line, reply).decode()
    assert text.splitlines() == [text[:-1]]
    read = json.loads(text)
    assert (read["custom_id"], read["response"]["body"]) == (name, value)
    assert check_result_line(TAG, text.encode()) == 0


def spoilt_lines() -> list[bytes]:
    good = GOLDEN[0][0]
    return [
        b"",
        b"\n",
        good[:-1],
        good[:40],
        good + b"\n",
        b" " + good,
        good.replace(b"1.50", b"1.51"),
        good.replace(b"my-id", b"my-Id"),
        good.replace(b"0000000a", b"0000000A"),
        good.replace(b"0000000a", b"0000000b"),
        good.replace(b"38ff878c", b"38FF878C"),
        good.replace(b"0123abcd", b"0123abce"),
        good.replace(b"custom_id", b"Custom_id"),
        b'{"id":"batch_req_0123abcd',
    ]


def test_a_line_that_is_damaged_or_not_ours_is_none() -> None:
    for line in spoilt_lines():
        assert check_result_line(TAG, line) is None
    assert check_result_line(b"ffffffff", GOLDEN[0][0]) is None


def with_right_checksum(index: bytes, rest: bytes) -> bytes:
    head = b'{"id":"batch_req_' + TAG + index
    return b"%b%08x%b" % (head, zlib.crc32(rest, zlib.crc32(head)), rest)


REST = GOLDEN[0][0][41:]
FORGED = [
    *(
        with_right_checksum(index, REST)
        for index in (b"0000000A", b"+000000a", b" 000000a", b"0000_00a", bytes(8))
    ),
    with_right_checksum(b"0000000a", b""),
    with_right_checksum(b"0000000a", b"}\n"),
    with_right_checksum(b"0000000a", REST[:14]),
    with_right_checksum(b"0000000a", REST[:-1]),
    with_right_checksum(b"0000000a", REST[:-2] + b"]\n"),
    with_right_checksum(b"0000000a", REST.replace(b"custom_id", b"Custom_id")),
]


@pytest.mark.parametrize("forged", FORGED)
def test_a_line_we_never_write_is_none_even_with_a_right_checksum(forged: bytes) -> None:
    good = GOLDEN[0][0]
    assert check_result_line(TAG, forged) is None
    assert check_result_lines(TAG, [good, forged, good]) == [10, None, 10]
    assert check_result_lines(TAG, [forged]) == [None]


def good_line(index: int) -> bytes:
    return never_run_line(TAG, index, f"line-{index}", EXPIRED)


def changed(line: bytes, at: int, flip: int) -> bytes:
    at %= len(line)
    return line[:at] + bytes([line[at] ^ flip]) + line[at + 1 :]


def cut_short(line: bytes, at: int) -> bytes:
    return line[:at]


GOOD_LINES = st.one_of(
    st.sampled_from([line for line, _ in GOLDEN]), st.integers(0, 0xFFFFFFFF).map(good_line)
)
ANY_LINES = st.one_of(
    GOOD_LINES,
    st.builds(changed, GOOD_LINES, st.integers(0, 400), st.integers(0, 255)),
    st.builds(cut_short, GOOD_LINES, st.integers(0, 400)),
    st.sampled_from(spoilt_lines()),
    st.sampled_from(FORGED),
    st.builds(with_right_checksum, st.binary(min_size=8, max_size=8), st.just(REST)),
)


@given(st.lists(GOOD_LINES, max_size=20), st.lists(ANY_LINES, max_size=3), st.randoms())
def test_many_lines_are_judged_as_each_alone(
    good: list[bytes], other: list[bytes], shuffled: Random
) -> None:
    lines = good + other
    shuffled.shuffle(lines)
    for tag in (TAG, b"ffffffff"):
        assert check_result_lines(tag, lines) == [check_result_line(tag, line) for line in lines]
    assert None not in check_result_lines(TAG, good)


def test_the_largest_index_fits() -> None:
    line = never_run_line(TAG, 0xFFFFFFFF, "", EXPIRED)
    assert check_result_line(TAG, line) == 0xFFFFFFFF


def test_a_request_keeps_the_client_s_bytes() -> None:
    body = b'{ "model":"m",  "n":1.0000000000000000001, "t":"\\u00e9" }'
    text = b'{"url":"/v1/x","custom_id":"\\u0061\\n","body":' + body + b',"more":[]}'
    assert request_line(7, text) == RequestLine(7, "a\n", "m", body)
    assert custom_id(text) == "a\n"


@pytest.mark.parametrize("text", [b"{}", b"[]", b"", b'{"custom_id":1,"body":{"model":"m"}}'])
def test_what_is_no_request_is_an_error(text: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        request_line(0, text)


# What a decoder of numbers takes offence at.
ODD_NUMBERS = [
    b"1" + b"0" * 400,
    b"-1" + b"0" * 400,
    b"9" * 5000,
    b"1e999",
    b"-1e999",
    b"[1e999]",
    b'{"a":[-1e999]}',
    b"1" * 400 + b".5",
]


@pytest.mark.parametrize(
    ("body", "most"),
    [
        (b'{"model":"m"}', None),
        (b'{"model":"m","max_tokens":7}', 7),
        (b'{"model":"m","max_tokens":7,"max_completion_tokens":9}', 9),
        (b'{"model":"m","max_tokens":null}', None),
        (b'{"model":"m","max_tokens":"many"}', None),
        (b'{"model":"m","max_tokens":true}', None),
        (b'{"model":"m","max_tokens":1.5}', None),
        (b'{"model":"m","max_tokens":0}', 0),
        (b'{"model":"m","max_tokens":-1}', None),  # as llama.cpp spells "as many as you like"
        (b'{"model":"m","max_tokens": 999999999 }', 999_999_999),
        (b'{"model":"m","max_tokens":9999999999}', None),
        (b'{"model":"m","max_tokens":7,"max_completion_tokens":null}', 7),
        (b'{"model":"m","max_tokens":7,"max_completion_tokens":1e999}', 7),
        *((b'{"model":"m","max_tokens":%b}' % odd, None) for odd in ODD_NUMBERS),
    ],
)
def test_a_request_tells_how_long_its_answer_may_be(body: bytes, most: int | None) -> None:
    text = b'{"custom_id":"a","body":' + body + b"}"
    assert request_line(0, text).max_tokens == most


ODD_VALUES = st.one_of(
    st.sampled_from([*ODD_NUMBERS, b'"\xff"', b'"\\u0000"', b"true", b'""', b"[]", b"{}"]),
    st.integers().map(lambda number: b"%d" % number),
    VALUES.map(lambda value: json.dumps(value).encode()),
)
# Of two fields of one name the last counts, whoever reads them.
FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"max_tokens", b"max_completion_tokens", b"messages", b"n", b"stream"]),
        ODD_VALUES,
    )
)
SPACES = st.sampled_from([b"", b" ", b"\t", b"\r"])


@given(FIELDS, st.text(), SPACES, SPACES, st.randoms())
def test_whatever_passes_validation_can_be_sent_as_it_stands(
    odd: list[tuple[bytes, bytes]], name: str, space: bytes, other: bytes, shuffled: Random
) -> None:
    named = [(b"model", b'"m"'), (b"messages", b"[]"), *odd]
    shuffled.shuffle(named)
    fields = [b'"%b"%b:%b%b' % (field, space, other, value) for field, value in named]
    body = b"{%b%b}" % (space, b",".join(fields))
    line = b'{"custom_id":%b,"method":"POST","url":"/v1/chat/completions","body":%b%b%b}' % (
        json.dumps(name).encode(),
        other,
        body,
        space,
    )
    checked = LineChecker("/v1/chat/completions", None).check(line, 1)
    if checked.errors:
        return
    found = request_line(3, line)
    assert (found.custom_id, found.model) == (checked.custom_id, checked.model)
    assert found.body == body
    assert found.max_tokens is None or 0 <= found.max_tokens < 10**9
