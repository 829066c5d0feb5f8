"""The signature of a prompt's beginning: lines with the same one profit from each other's answers.

A model server keeps what it has computed for the beginning of a prompt, as rendered: tools first,
then messages or text. The signature is a u32: level 1 in the high 16 bits, level 2 in the low ones,
0 for none. Level 1 is the first of at least two messages (the system prompt, as a rule) with the
tools before it, else the first ``_SHORT`` bytes; level 2 the ``_LONG`` bytes behind that (the
document that several questions are about). Raw JSON is compared, not text; a collision costs
nothing but hits in the server's cache. Pure.
"""

import zlib
from collections.abc import Sequence

import msgspec

_SHORT = 256
_LONG = 1024

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_ABSENT = msgspec.Raw(b"")
_MANY = 1 << 20  # commas; a list takes many times the bytes of very small items


class Prompt(msgspec.Struct, frozen=True):
    """What is read of a body: the model, and the raw parts that a prompt is rendered from."""

    model: str
    tools: msgspec.Raw = _ABSENT
    messages: msgspec.Raw = _ABSENT
    prompt: msgspec.Raw = _ABSENT


class Request(msgspec.Struct, frozen=True):
    """What is read of a request line that was found good before."""

    url: str
    body: Prompt


decode = msgspec.json.Decoder(Request).decode  # ValueError if the line is not what it was
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


def signature(body: Prompt, endpoint: str) -> int:
    """The signature of a prompt; 0 for endpoints whose answers share nothing, as embeddings."""
    if endpoint == _CHAT:
        return _of_messages(body)
    if endpoint == _COMPLETIONS:
        return _of_text([body.prompt])
    return 0


def _of_messages(body: Prompt) -> int:
    if bytes(body.messages).count(b",") > _MANY:
        return 0
    try:
        messages = _decode_list(body.messages)
    except msgspec.DecodeError:
        return 0  # not a list: the model server will say so
    if len(messages) < 2:  # noqa: PLR2004 - a first one and another
        return _of_text([body.tools, *messages])
    first = zlib.crc32(messages[0], zlib.crc32(body.tools))
    behind = _start(messages[1:], _LONG)
    return _folded(first) << 16 | _long_hash(behind)


def _of_text(parts: Sequence[msgspec.Raw]) -> int:
    text = _start(parts, _SHORT + _LONG)
    if len(text) < _SHORT:
        return 0
    return _folded(zlib.crc32(text[:_SHORT])) << 16 | _long_hash(text[_SHORT:])


def _start(parts: Sequence[msgspec.Raw], size: int) -> bytes:
    """The first ``size`` bytes of the parts one behind the other, or as many as there are."""
    found = b""
    for part in parts:
        found += memoryview(part)[: size - len(found)]
        if len(found) == size:
            break
    return found


def _long_hash(text: bytes) -> int:
    return _folded(zlib.crc32(text)) if len(text) == _LONG else 0


def _folded(checksum: int) -> int:
    """16 bits of 32; never 0, which is for none."""
    return (checksum ^ checksum >> 16) & 0xFFFF or 1
