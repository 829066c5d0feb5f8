"""What is wrong with one line of an input file: contract section 5's codes, params and messages.

Two steps: a typed decode, which is fast and passes nearly every line, and, for a line that it does
not pass, a look at everything to name every fault.
"""

import re
from collections.abc import Container, Iterator

import msgspec

from batchd import prefix
from batchd.model import LineError
from batchd.wire.checks import type_name

_CHAT = "/v1/chat/completions"
_EMBEDDINGS = "/v1/embeddings"
_ENDPOINT_NAMES = {_CHAT: "Chat Completions", "/v1/completions": "Completions"}
_EMPTY = msgspec.Raw(b"")
_OBJECT: dict[str, object] = {}
_LIST: list[object] = []
_COMMA = ord(",")

MAX_DEPTH = 100  # far below what a decoder stands, wherever it is called from
_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BUT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_FIRST_ITEM = re.compile(rb"\[\s*(.)", re.DOTALL)
_SHOWN = 200  # characters of a client's value in a message

_INVALID_JSON = "This line is not parseable as valid JSON."
_INVALID_URL = "The URL provided for this request does not match the batch endpoint."
Fault = tuple[str, str, str | None]  # code, message, param


class _Body(prefix.Prompt, frozen=True):
    stream: bool | None = None
    input: msgspec.Raw = _EMPTY


class _Line(msgspec.Struct, frozen=True):
    custom_id: str
    method: str
    url: str
    body: _Body


class _BodyParts(msgspec.Struct, frozen=True):
    model: msgspec.Raw = _EMPTY
    messages: msgspec.Raw = _EMPTY
    stream: msgspec.Raw = _EMPTY


class _Parts(msgspec.Struct, frozen=True):
    """A line as it stands: its parts are not decoded, since they may be of any kind and size."""

    custom_id: msgspec.Raw = _EMPTY
    method: msgspec.Raw = _EMPTY
    url: msgspec.Raw = _EMPTY
    body: msgspec.Raw = _EMPTY


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_parts = msgspec.json.Decoder(_Parts).decode
_decode_body = msgspec.json.Decoder(_BodyParts).decode
_decode_value = msgspec.json.Decoder().decode
_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Checked(msgspec.Struct, frozen=True):
    """A line that was looked at; ``errors`` is empty for a good one."""

    custom_id: str | None
    model: str | None
    inputs: int
    errors: list[LineError]
    signature: int = 0


class LineChecker:
    """The rules for the lines of one batch. ``models``: those the backend has, None if unknown.

    ``signs``: whether good lines get the signature of their prompt (``prefix``).
    """

    def __init__(
        self, endpoint: str, models: Container[str] | None, *, signs: bool = False
    ) -> None:
        self._endpoint = endpoint
        self._models = models
        self._needs_messages = endpoint == _CHAT
        self._counts_inputs = endpoint == _EMBEDDINGS
        self._signs = signs

    def check(self, line: bytes, line_no: int) -> Checked:
        """Look at one line that is not blank."""
        if _too_deep(line):
            return _faulty(LineError("invalid_json_line", _INVALID_JSON, None, line_no))
        try:
            request = _decode_line(line)
        except _NOT_JSON:
            return self._diagnose(line, line_no)
        body = request.body
        if (
            not request.custom_id
            or request.method != "POST"
            or request.url != self._endpoint
            or not body.model
            or body.stream
            or (self._needs_messages and not body.messages)
            or (self._models is not None and body.model not in self._models)
        ):
            return self._diagnose(line, line_no)
        inputs = _count_inputs(body.input) if self._counts_inputs else 0
        signature = prefix.signature(body, self._endpoint) if self._signs else 0
        return Checked(request.custom_id, body.model, inputs, [], signature)

    def _diagnose(self, line: bytes, line_no: int) -> Checked:
        try:
            value = _value(_decode_raw(line))
            if not isinstance(value, dict):
                text = f"Each line must be a JSON object, but this one is {type_name(value)}."
                return _faulty(LineError("invalid_request", text, None, line_no))
            parts = _decode_parts(line)
            found = self._faults(parts)
            custom_id = _value(parts.custom_id)
        except _NOT_JSON:
            return _faulty(LineError("invalid_json_line", _INVALID_JSON, None, line_no))
        # Both looks must agree: what the first did not pass is never sent.
        found = found or [("invalid_json_line", _INVALID_JSON, None)]
        errors = [LineError(code, text, param, line_no) for code, text, param in found]
        return Checked(custom_id if isinstance(custom_id, str) else None, None, 0, errors)

    def _faults(self, parts: _Parts) -> list[Fault]:
        """Every fault of a line that is a JSON object: code, message, param."""
        faults: list[Fault] = []
        for name, raw in (
            ("custom_id", parts.custom_id),
            ("method", parts.method),
            ("url", parts.url),
        ):
            value = _value(raw)
            if value is None:
                faults.append(_missing(name))
            elif not isinstance(value, str):
                faults.append(_wrong_type(name, "a string", value))
            else:
                faults.extend(self._field_faults(name, value))
        body = _value(parts.body)
        if body is None:
            faults.append(_missing("body"))
        elif not isinstance(body, dict):
            faults.append(_wrong_type("body", "an object", body))
        else:
            faults.extend(self._body_faults(_decode_body(parts.body)))
        return faults

    def _field_faults(self, name: str, value: str) -> list[Fault]:
        if name == "custom_id" and not value:
            text = "Invalid 'custom_id': empty string. Expected a string with minimum length 1."
            return [("invalid_value", text, name)]
        if name == "method" and value != "POST":
            text = f"Invalid value: '{value[:64]}'. Supported values are: 'POST'."
            return [("invalid_value", text, name)]
        if name == "url" and value != self._endpoint:
            return [("invalid_url", _INVALID_URL, name)]
        return []

    def _body_faults(self, body: _BodyParts) -> list[Fault]:
        faults = self._model_faults(_value(body.model))
        if self._needs_messages and not body.messages:
            text = "Messages parameter is required."
            faults.append(("invalid_request", text, "body.messages"))
        stream = _value(body.stream)
        if stream is True:
            name = _ENDPOINT_NAMES.get(self._endpoint, self._endpoint)
            text = f"{name}: Streaming is not supported in the Batch API."
            faults.append(("streaming_unsupported", text, "body.stream"))
        elif stream is not None and stream is not False:
            faults.append(_wrong_type("body.stream", "a boolean", stream))
        return faults

    def _model_faults(self, model: object) -> list[Fault]:
        if model is None or model == "":
            return [("invalid_request", "Model parameter is required.", "body.model")]
        if not isinstance(model, str):
            return [_wrong_type("body.model", "a string", model)]
        if self._models is not None and model not in self._models:
            text = f"The provided model '{shown(model)}' is not supported by the Batch API."
            return [("model_not_found", text, "body.model")]
        return []


def _too_deep(line: bytes) -> bool:
    """Whether arrays and objects are nested deeper than ``MAX_DEPTH``."""
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for piece in _between_strings(line):
        for bracket in piece.translate(None, _BUT_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            if depth > MAX_DEPTH:
                return True
    return False


def _between_strings(line: bytes) -> Iterator[bytes]:
    """What stands outside strings, in time linear in the line, whatever is in it."""
    at = 0
    while (opening := line.find(b'"', at)) >= 0:
        yield line[at:opening]
        at = _string_end(line, opening + 1)
    yield line[at:]


def _string_end(line: bytes, at: int) -> int:
    """Where the string that has begun before ``at`` is over: the line's end if it is never."""
    while (quote := line.find(b'"', at)) >= 0:
        backslashes = quote - at - len(line[at:quote].rstrip(b"\\"))
        at = quote + 1
        if backslashes % 2 == 0:
            return at
    return len(line)


def shown(text: str) -> str:
    """A client's text in a message: the batch keeps it, and it may be as long as an upload."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _faulty(error: LineError) -> Checked:
    return Checked(None, None, 0, [error])


def _missing(name: str) -> Fault:
    return ("missing_required_parameter", f"Missing required parameter: '{name}'.", name)


def _wrong_type(name: str, expected: str, value: object) -> Fault:
    text = f"Invalid type for '{name}': expected {expected}, but got {type_name(value)} instead."
    return ("invalid_type", text, name)


def _value(raw: msgspec.Raw) -> object:
    """A value as far as faults need it: strings whole, of lists and objects the kind only.

    None for null, and where there is none. ``ValueError`` if a string or number is none.
    """
    match bytes(memoryview(raw)[:1]):
        case b"":
            return None
        case b"{":
            return _OBJECT
        case b"[":
            return _LIST
        case _:
            return _decode_value(raw)


def _count_inputs(raw: msgspec.Raw) -> int:
    """Embedding inputs of one request: a list counts its length, a token array counts one."""
    text = bytes(raw)
    first = _FIRST_ITEM.match(text)
    if first is None:
        return 1
    if first[1] == b"]":
        return 0
    return 1 + _commas(text) if first[1] in b'"[' else 1


def _commas(text: bytes) -> int:
    """Those between the items of a list, however large it is."""
    depth = count = 0
    for piece in _between_strings(text):
        for mark in piece.translate(None, _BUT_STRUCTURE):
            if mark == _COMMA:
                count += depth == 1
            else:
                depth += 1 if mark in b"[{" else -1
    return count
