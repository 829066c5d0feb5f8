"""How a model server can behave: every good and bad answer, as bytes and how they end.

A step is a function from what was asked to an Answer; STEPS gives each its name. This module knows
what is sent; ``script`` knows when, ``model_protocol`` how.
"""

import functools
import gzip
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from tests.support import answers
from tests.support.answers import After, Answer, Ask, Flood
from tests.support.nonce import RequestBody

_BLOCK = b"x" * 65536
_encode = msgspec.json.Encoder().encode

Step = Callable[[Ask], Answer]


# -- good answers in unusual clothes


def _ok(ask: Ask) -> Answer:
    return Answer(status=200, wire=ask.good_wire(), usable=True)


def _slow(ask: Ask) -> Answer:
    return msgspec.structs.replace(_ok(ask), delay=float(ask.arg))


def _drip(ask: Ask) -> Answer:
    """One byte at a time: no wait between two bytes is ever long."""
    return Answer(status=200, wire=ask.good_wire(), drip=float(ask.arg or 0.05))


def _close_after(ask: Ask) -> Answer:
    return msgspec.structs.replace(_ok(ask), after=After.CLOSE)


def _stale(ask: Ask) -> Answer:
    """A kept connection dies just as it is used again; a new one works."""
    return Answer(status=0, wire=b"", after=After.RESET) if ask.served else _ok(ask)


def _pretty(ask: Ask) -> Answer:
    lines = json.dumps(ask.good(), indent=2).split("\n")
    text = "".join(line + ("\n", "\r\n")[number % 2] for number, line in enumerate(lines))
    return _json(ask, text.encode(), usable=True)


def _u2028(ask: Ask) -> Answer:
    return _json(ask, _encode({**ask.good(), "cut": "a\u2028b\u2029c\u0085d"}), usable=True)


def _chunked(ask: Ask) -> Answer:
    body = ask.good_json()
    chunks = b"".join(_chunk(body[at : at + 7]) for at in range(0, len(body), 7))
    return Answer(status=200, wire=_CHUNKED_HEAD + chunks + b"0\r\n\r\n", usable=True)


def _no_length(ask: Ask) -> Answer:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    return Answer(status=200, wire=head + ask.good_json(), after=After.CLOSE, usable=True)


def _continue(ask: Ask) -> Answer:
    wire = b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + ask.good_wire()
    return Answer(status=200, wire=wire, usable=True)


def _gzip(ask: Ask) -> Answer:
    return _json(ask, gzip.compress(ask.good_json()), headers={"content-encoding": "gzip"})


# -- a status, mostly a refusal


def plain(status: int, ask: Ask) -> Answer:
    """That status and what belongs to it: an answer, nothing, or an error object."""
    if status == 204:
        return Answer(status=204, wire=b"HTTP/1.1 204 No Content\r\n\r\n")
    if status < 300:
        wire = answers.http(status, ask.good_json(), headers=ask.headers)
        return Answer(status=status, wire=wire, usable=True)
    wire = answers.error(status, ask.nonce, headers=ask.headers)
    return Answer(status=status, wire=wire)


def refuse_in_text(status: int, ask: Ask) -> Answer:
    body = f"No: {ask.nonce}\n".encode()
    return Answer(status=status, wire=answers.http(status, body, kind="text/plain"))


def _hint(header: str, ask: Ask) -> Answer:
    wire = answers.error(429, ask.nonce, headers={**ask.headers, header: ask.arg})
    return Answer(status=429, wire=wire)


def _quota(ask: Ask) -> Answer:
    wire = answers.error(429, ask.nonce, code="insufficient_quota", headers=ask.headers)
    return Answer(status=429, wire=wire)


def _error_string(ask: Ask) -> Answer:
    status = int(ask.arg or 401)
    return Answer(status=status, wire=answers.http(status, b'{"error":"Unauthorized"}'))


def _redirect(ask: Ask) -> Answer:
    headers = {"location": ask.arg or "/elsewhere" + ask.path}
    return Answer(status=307, wire=answers.http(307, b"", headers=headers))


def _switch(_: Ask) -> Answer:
    wire = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: none\r\nconnection: upgrade\r\n\r\n"
    return Answer(status=101, wire=wire)


# -- a 200 that is no answer


def _json(ask: Ask, body: bytes, *, usable: bool = False, **more: Any) -> Answer:
    headers = {**ask.headers, **more.pop("headers", {})}
    wire = answers.http(200, body, headers=headers, **more)
    return Answer(status=200, wire=wire, usable=usable)


def _html(ask: Ask) -> Answer:
    return _json(ask, b"<html><body>Welcome to nginx!</body></html>", kind="text/html")


def _deep(ask: Ask) -> Answer:
    return _json(ask, b'{"nonce":' + b"[" * 200_000 + b"]" * 200_000 + b"}")


def _spoilt(ask: Ask, tail: bytes) -> Answer:
    """A good object with one more key, raw."""
    return _json(ask, ask.good_json()[:-1] + tail)


# -- an answer that never comes, or not whole


def _nothing(after: After, _: Ask) -> Answer:
    return Answer(status=0, wire=b"", after=after)


def _cut(ask: Ask, after: After = After.CLOSE) -> Answer:
    return Answer(status=200, wire=ask.good_wire()[:-9], after=after)


def _cut_chunked(ask: Ask) -> Answer:
    body = ask.good_json()
    wire = _CHUNKED_HEAD + _chunk(body[:20]) + _chunk(body[20:])[:-9]
    return Answer(status=200, wire=wire, after=After.CLOSE)


def _garbage(_: Ask) -> Answer:
    return Answer(status=0, wire=b"\x15\x03\x01 this is not HTTP\r\n\r\n", after=After.CLOSE)


def _twice(ask: Ask) -> Answer:
    """Two answers to one request: the second must not become the next line's."""
    second = msgspec.structs.replace(ask, body=RequestBody(nonce="nobody asked for this"))
    return Answer(status=200, wire=ask.good_wire() + second.good_wire(), after=After.CLOSE)


def _both_lengths(ask: Ask) -> Answer:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
    return Answer(status=200, wire=head + _chunk(ask.good_json()) + b"0\r\n\r\n", after=After.CLOSE)


# -- too much


def _big_header(ask: Ask) -> Answer:
    return _json(ask, ask.good_json(), headers={"x-big": "x" * 200_000})


def _many_headers(ask: Ask) -> Answer:
    headers = {f"x-{number}": "y" for number in range(20_000)}
    return _json(ask, ask.good_json(), headers=headers)


def _huge(ask: Ask) -> Answer:
    """A valid JSON object of more than ``arg`` bytes."""
    size = int(ask.arg or 64 * 1024 * 1024)
    head, tail, blocks = ask.good_json()[:-1] + b',"huge":"', b'"}', -(-size // len(_BLOCK))
    length = len(head) + blocks * len(_BLOCK) + len(tail)
    wire = answers.http(200, head).replace(
        b"content-length: %d" % len(head), b"content-length: %d" % length, 1
    )
    return Answer(status=200, wire=wire, flood=Flood(_BLOCK, blocks, tail))


def _infinite(_: Ask) -> Answer:
    return Answer(status=200, wire=_CHUNKED_HEAD, flood=Flood(_chunk(_BLOCK), -1))


def _gzip_bomb(ask: Ask) -> Answer:
    size = int(ask.arg or 64 * 1024 * 1024)
    return _json(ask, gzip.compress(b"0" * size, 9), headers={"content-encoding": "gzip"})


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_CHUNKED_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
)

STEPS: Mapping[str, Step] = MappingProxyType(
    {
        "ok": _ok,
        "slow": _slow,
        "drip": _drip,
        "close-after": _close_after,
        "stale": _stale,
        "pretty": _pretty,
        "u2028": _u2028,
        "chunked": _chunked,
        "no-length": _no_length,
        "continue": _continue,
        "gzip": _gzip,
        "retry-after": functools.partial(_hint, "retry-after"),
        "retry-after-ms": functools.partial(_hint, "retry-after-ms"),
        "reset-requests": functools.partial(_hint, "x-ratelimit-reset-requests"),
        "reset-tokens": functools.partial(_hint, "x-ratelimit-reset-tokens"),
        "quota": _quota,
        "error-string": _error_string,
        "redirect": _redirect,
        "switch": _switch,
        "html": _html,
        "empty": lambda ask: _json(ask, b""),
        "array": lambda ask: _json(ask, b"[" + ask.good_json() + b"]"),
        "deep": _deep,
        "nan": lambda ask: _spoilt(ask, b',"spoilt":NaN}'),
        "badutf8": lambda ask: _spoilt(ask, b',"spoilt":"\xff\xfe"}'),
        "surrogate": lambda ask: _spoilt(ask, b',"spoilt":"\\ud800"}'),
        "trailing": lambda ask: _json(ask, ask.good_json() + b"\0\0\0"),
        "timeout": functools.partial(_nothing, After.SILENCE),
        "reset": functools.partial(_nothing, After.RESET),
        "close": functools.partial(_nothing, After.CLOSE),
        "stall": functools.partial(_cut, after=After.SILENCE),
        "cut": _cut,
        "cut-reset": functools.partial(_cut, after=After.RESET),
        "cut-chunked": _cut_chunked,
        "garbage": _garbage,
        "twice": _twice,
        "both-lengths": _both_lengths,
        "big-header": _big_header,
        "many-headers": _many_headers,
        "huge": _huge,
        "infinite": _infinite,
        "gzip-bomb": _gzip_bomb,
    }
)
