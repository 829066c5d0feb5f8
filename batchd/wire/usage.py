"""How many tokens an answer came to, as the model server says it (contract section 3).

Both spellings, chat completions' and ``/v1/responses``'; what is missing or makes no sense is 0.
"""

from collections.abc import Sequence

import msgspec

from batchd.model import NO_USAGE, Usage

_MOST = 10**12  # of one answer: sums of millions of them fit into the database's 64 bits

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
    return count if count and 0 < count <= _MOST else 0
