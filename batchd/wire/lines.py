"""Lines of input and result files (contract sections 5 and 7).

A result line is

    {"id":"batch_req_<tag><index><crc>","custom_id":…,"response":…,"error":…}\\n

with 8 hex digits each: the last eight of the batch's id, the line's 0-based index, and a CRC32
over everything else in the line. The id is opaque to clients; to us it makes the line check itself
at fixed offsets, without a JSON parser. A line is compared as bytes, never as numbers: ``A`` for
``a`` in the hex is damage too.
"""

import re
import struct
import zlib
from binascii import hexlify, unhexlify
from collections.abc import Iterator, Sequence

import msgspec

from batchd.model import NO_USAGE, Failure, FailureKind, LineFile, Reply, RequestLine, Usage

_HEAD = b'{"id":"batch_req_'
_TAG_END = len(_HEAD) + 8
_INDEX_END = _TAG_END + 8
_CRC_END = _INDEX_END + 8
_AFTER_ID = b'","custom_id":'
_END = b"}\n"
_is_hex = re.compile(rb"[0-9a-f]*").fullmatch

EXPIRED = b'{"code":"batch_expired","message":"This request could not be executed before the completion window expired."}'  # noqa: E501 - bytes of the contract
CANCELLED = b'{"code":"batch_cancelled","message":"The batch was cancelled before this request was executed."}'  # noqa: E501 - one literal, compared with file bytes
INPUT_LOST = (
    b'{"code":"server_error","message":"The input file was lost before this request was executed."}'
)

_NEVER_RUN = tuple(b',"response":null,"error":' + error + b"}\n" for error in (EXPIRED, CANCELLED))

_FAILURES = {
    FailureKind.UNREACHABLE: (b"server_error", b"The model server could not be reached."),
    FailureKind.TIMEOUT: (b"request_timeout", b"The model server did not answer in time."),
    FailureKind.RESET: (b"server_error", b"The model server broke the connection off."),
    FailureKind.NOT_HTTP: (b"server_error", b"The model server's answer was not valid HTTP."),
    FailureKind.NOT_JSON: (b"server_error", b"The model server's answer was not a JSON object."),
    FailureKind.TOO_LARGE: (b"server_error", b"The model server's answer was too large."),
}

# The line separators of Unicode, in UTF-8. A byte sequence of one character never stands inside
# another, so replacing bytes is exact.
_SEPARATORS = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def one_line(body: bytes) -> bytes:
    """``body``, valid JSON, without a character that cuts lines; otherwise untouched.

    A raw newline in JSON is whitespace between tokens; the Unicode separators stand in strings.
    """
    if b"\n" in body or b"\r" in body:
        body = body.replace(b"\n", b" ").replace(b"\r", b" ")
    if not body.isascii():
        for separator, escape in _SEPARATORS:
            body = body.replace(separator, escape)
    return body.strip(b" \t")


def reply_line(tag: bytes, line: RequestLine, reply: Reply) -> bytes:
    """The result line for an HTTP answer, whatever its status; ``error`` is null."""
    response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (
        reply.status_code,
        msgspec.json.encode(reply.request_id),
        reply.body,
    )
    return _result_line(tag, line.index, line.custom_id, response, b"null")


def failure_line(tag: bytes, line: RequestLine, failure: Failure) -> bytes:
    """The error line for a request that brought no usable HTTP answer."""
    code, message = _FAILURES[failure.kind]
    error = b'{"code":"%b","message":"%b"}' % (code, message)
    return _result_line(tag, line.index, line.custom_id, b"null", error)


def never_run_line(tag: bytes, index: int, custom_id: str, error: bytes) -> bytes:
    """The error line for a request that was not executed: EXPIRED, CANCELLED or INPUT_LOST."""
    return _result_line(tag, index, custom_id, b"null", error)


def _result_line(tag: bytes, index: int, custom_id: str, response: bytes, error: bytes) -> bytes:
    head = b"%b%b%08x" % (_HEAD, tag, index)
    rest = b'%b%b,"response":%b,"error":%b}\n' % (
        _AFTER_ID,
        one_line(msgspec.json.encode(custom_id)),
        response,
        error,
    )
    return b"%b%08x%b" % (head, zlib.crc32(rest, zlib.crc32(head)), rest)


def check_result_line(tag: bytes, line: bytes) -> int | None:
    """The index of an undamaged result line of this batch, newline included; else None."""
    head = line[:_INDEX_END]
    if not head.startswith(_HEAD) or head[len(_HEAD) : _TAG_END] != tag:
        return None
    rest = line[_CRC_END:]
    if not rest.startswith(_AFTER_ID) or not rest.endswith(_END):
        return None
    if line[_INDEX_END:_CRC_END] != b"%08x" % zlib.crc32(rest, zlib.crc32(head)):
        return None
    index = head[_TAG_END:]
    return int(index, 16) if _is_hex(index) else None


def check_result_lines(tag: bytes, lines: Sequence[bytes]) -> list[int | None]:
    """``check_result_line`` of each: at twice the speed if none is bad."""
    start = _HEAD + tag
    if all(
        line.startswith(start) and line.startswith(_AFTER_ID, _CRC_END) and line.endswith(_END)
        for line in lines
    ):
        crc32, numbers = zlib.crc32, struct.Struct(f">{len(lines)}I")
        sums = [crc32(line[_CRC_END:], crc32(line[:_INDEX_END])) for line in lines]
        indexes = b"".join([line[_TAG_END:_INDEX_END] for line in lines])
        found = b"".join([line[_INDEX_END:_CRC_END] for line in lines])
        if found == hexlify(numbers.pack(*sums)) and _is_hex(indexes):
            return list(numbers.unpack(unhexlify(indexes)))
    return [check_result_line(tag, line) for line in lines]


def check_long_result_line(tag: bytes, pieces: Iterator[bytes]) -> int | None:
    """``check_result_line`` of a line in pieces of at least 64 bytes, never whole in memory."""
    first = next(pieces)
    crc, end = zlib.crc32(first[_CRC_END:], zlib.crc32(first[:_INDEX_END])), first[-2:]
    for piece in pieces:
        crc, end = zlib.crc32(piece, crc), (end + piece[-2:])[-2:]
    if not first.startswith(_HEAD + tag) or not first.startswith(_AFTER_ID, _CRC_END):
        return None
    if end != _END or first[_INDEX_END:_CRC_END] != b"%08x" % crc:
        return None
    index = first[_TAG_END:_INDEX_END]
    return int(index, 16) if _is_hex(index) else None


def is_never_run(line: bytes) -> bool:
    """Whether an error line stands for a request that was not executed, told by its fixed tail."""
    return line.endswith(_NEVER_RUN)


def file_of(reply: Reply) -> LineFile:
    return LineFile.OUTPUT if reply.ok else LineFile.ERROR


class _Body(msgspec.Struct, frozen=True):
    model: str


class _Request(msgspec.Struct, frozen=True):
    custom_id: str
    body: msgspec.Raw


class _CustomId(msgspec.Struct, frozen=True):
    custom_id: str


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_model = msgspec.json.Decoder(_Body).decode
_decode_custom_id = msgspec.json.Decoder(_CustomId).decode


def request_line(index: int, line: bytes) -> RequestLine:
    """A validated line of an input file, its body still the client's bytes."""
    request = _decode_request(line)
    body = bytes(request.body)
    return RequestLine(index, request.custom_id, _decode_model(body).model, body)


def custom_id(line: bytes) -> str:
    return _decode_custom_id(line).custom_id


# Some servers send null for what they do not count.
Count = int | None


class _Details(msgspec.Struct, frozen=True, gc=False):
    cached_tokens: Count = 0
    reasoning_tokens: Count = 0


class _Tokens(msgspec.Struct, frozen=True, gc=False):
    """Both spellings of usage: chat completions' and /v1/responses'."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    total_tokens: Count = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


_ABSENT = msgspec.Raw(b"null")


class _Answer(msgspec.Struct, frozen=True):
    usage: msgspec.Raw = _ABSENT


class _Response(msgspec.Struct, frozen=True):
    body: _Answer


class _ResultLine(msgspec.Struct, frozen=True):
    response: _Response


class _CountedAnswer(msgspec.Struct, frozen=True, gc=False):
    usage: _Tokens | None = None


class _CountedResponse(msgspec.Struct, frozen=True, gc=False):
    body: _CountedAnswer


class _CountedLine(msgspec.Struct, frozen=True, gc=False):
    """A result line whose usage is as it should be."""

    response: _CountedResponse


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_result = msgspec.json.Decoder(_ResultLine).decode
_decode_tokens = msgspec.json.Decoder(_Tokens).decode
_decode_counted = msgspec.json.Decoder(_CountedLine).decode_lines

NO_DETAILS = _Details()


def answer_usage(body: bytes) -> Usage:
    """The usage of a model server's answer, missing numbers as 0.

    Raises ``msgspec.MsgspecError`` or ``RecursionError`` unless ``body`` is one JSON object.
    """
    return _usage(_decode_answer(body).usage)


def result_usage(line: bytes) -> Usage:
    """The usage of the answer in a line of an output file; none of one too deep to read again."""
    try:
        return _usage(_decode_result(line).response.body.usage)
    except (msgspec.MsgspecError, RecursionError):
        return NO_USAGE  # the line stands: it was an object when it came, and its checksum is right


def summed_usage(lines: Sequence[bytes]) -> Usage:
    """The sum of ``result_usage`` of each, at twice the speed if all is as it should be."""
    try:
        found = _decode_counted(b"".join(lines))
    except (msgspec.MsgspecError, RecursionError):
        found = []
    if len(found) != len(lines):
        return sum(map(result_usage, lines), NO_USAGE)
    tokens = [line.response.body.usage for line in found]
    counts = [_counts(one) for one in tokens if one is not None]
    return Usage(*map(sum, zip(*counts, strict=True)))


def _usage(raw: msgspec.Raw) -> Usage:
    if raw is _ABSENT:
        return NO_USAGE
    try:
        return Usage(*_counts(_decode_tokens(raw)))
    except msgspec.MsgspecError:
        return NO_USAGE  # a server's own idea of usage is no reason to fail an answer


def _counts(tokens: _Tokens) -> tuple[int, int, int, int, int]:
    """What ``Usage`` holds, in its order."""
    sent = tokens.prompt_tokens_details or tokens.input_tokens_details or NO_DETAILS
    made = tokens.completion_tokens_details or tokens.output_tokens_details or NO_DETAILS
    input_tokens = _whole(tokens.prompt_tokens) or _whole(tokens.input_tokens)
    output_tokens = _whole(tokens.completion_tokens) or _whole(tokens.output_tokens)
    return (
        input_tokens,
        _whole(sent.cached_tokens),
        output_tokens,
        _whole(made.reasoning_tokens),
        _whole(tokens.total_tokens) or input_tokens + output_tokens,
    )


def _whole(count: Count) -> int:
    """A count as one that sums may hold; a number below zero would make them go back."""
    return count if count and count > 0 else 0
