"""The bytes of an input file and of result files, read the way a stranger would read them."""

import zlib
from collections.abc import Callable
from typing import Never

import msgspec

from tests.support.nonce import nonce_of, read_body

Fail = Callable[[str], Never]


class InputLine(msgspec.Struct, frozen=True):
    """``crc`` is of the body's bytes, which the model server must receive unchanged."""

    custom_id: str
    nonce: str
    crc: int


class Answered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    status_code: int
    request_id: str
    body: dict[str, object]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: str
    message: str


class ResultLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All four keys, always, and no other."""

    id: str
    custom_id: str
    response: Answered | None
    error: Fault | None


class _WrittenLine(msgspec.Struct, frozen=True):
    custom_id: str
    body: msgspec.Raw


_read_written = msgspec.json.Decoder(_WrittenLine).decode
_read_result = msgspec.json.Decoder(ResultLine).decode


def read_input(data: bytes) -> dict[str, InputLine]:
    """By custom_id, in the input's order."""
    lines: dict[str, InputLine] = {}
    for text in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if text.strip():
            written = _read_written(text)
            body = bytes(written.body)
            line = InputLine(written.custom_id, nonce_of(read_body(body)), zlib.crc32(body))
            lines[line.custom_id] = line
    return lines


def read_results(data: bytes | None, name: str, fail: Fail) -> list[ResultLine]:
    """Every line of a result file, if each way of cutting it finds the same lines."""
    if not data:
        return []
    try:
        text = data.decode()
    except UnicodeDecodeError:
        fail(f"the {name} is not UTF-8")
    if not data.endswith(b"\n"):
        fail(f"the {name} does not end with a newline")
    count = data.count(b"\n")
    if len(text.splitlines()) != count:
        fail(f"the {name} has {count} lines, but splitlines() makes {len(text.splitlines())}")
    return [_read(line, number, name, fail) for number, line in enumerate(data.split(b"\n")[:-1])]


def _read(line: bytes, number: int, name: str, fail: Fail) -> ResultLine:
    try:
        return _read_result(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        fail(f"line {number + 1} of the {name} is not a result line: {fault}")
