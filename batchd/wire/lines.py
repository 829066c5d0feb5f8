"""Lines of input and result files (contract sections 5 and 7).

A result line is

    {"id":"batch_req_<tag><index><crc>","custom_id":…,"response":…,"error":…}\\n

with 8 hex digits each: the last eight of the batch's id, the line's 0-based index, and a CRC32
over everything else in the line. The id is opaque to clients; to us it makes the line check itself
at fixed offsets, without a JSON parser. A line is compared as bytes, never as numbers: ``A`` for
``a`` in the hex is damage too.
"""

import contextlib
import re
import struct
import zlib
from binascii import hexlify, unhexlify
from collections.abc import Iterator, Sequence

import msgspec

from batchd.model import Failure, FailureKind, LineFile, Reply, RequestLine

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


_ABSENT = msgspec.Raw(b"")
_is_count = re.compile(rb"[0-9]{1,9}").fullmatch


class _Body(msgspec.Struct, frozen=True):
    """What is read of a body. A decoder would refuse numbers that are out of its range."""

    model: str
    max_tokens: msgspec.Raw = _ABSENT
    max_completion_tokens: msgspec.Raw = _ABSENT

    @property
    def most_tokens(self) -> int | None:
        """Of the answer; what is no such number is the model server's to refuse."""
        for most in (self.max_completion_tokens, self.max_tokens):
            if _is_count(most):
                return int(bytes(most))
        return None


class _Request(msgspec.Struct, frozen=True):
    custom_id: str
    body: msgspec.Raw


class _CustomId(msgspec.Struct, frozen=True):
    custom_id: str


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_custom_id = msgspec.json.Decoder(_CustomId).decode


def request_line(index: int, line: bytes) -> RequestLine:
    """A validated line of an input file, its body still the client's bytes."""
    request = _decode_request(line)
    body = bytes(request.body)
    read = _decode_body(body)
    return RequestLine(index, request.custom_id, read.model, body, read.most_tokens)


def custom_id(line: bytes) -> str:
    return _decode_custom_id(line).custom_id


class _Coded(msgspec.Struct, frozen=True):
    code: object = None


class _Answered(msgspec.Struct, frozen=True):
    status_code: int
    body: msgspec.Raw


class _Failed(msgspec.Struct, frozen=True):
    response: _Answered | None
    error: _Coded | None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Coded | None = None


_decode_failed = msgspec.json.Decoder(_Failed).decode
_decode_error_body = msgspec.json.Decoder(_ErrorBody).decode


def failure_codes(line: bytes) -> set[str]:
    """What a line of an error file can be picked by.

    That is its ``error.code``; or, if the server answered, the status, and the code in its error.
    """
    failed = _decode_failed(line)
    found: list[object] = [failed.error.code] if failed.error else []
    if failed.response is not None:
        found.append(failed.response.status_code)
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):  # a body of another shape
            body = _decode_error_body(failed.response.body)
            found.append(body.error.code if body.error else None)
    return {str(code) for code in found if code is not None}


def with_input(line: bytes, request: bytes) -> bytes:
    """A result line that carries its request line, as a fifth key."""
    return b'%b,"input":%b}\n' % (line.removesuffix(_END), one_line(request))
