"""What is wrong with one line of an input file: contract section 5's codes, params and messages.

Two steps: a typed decode, which is fast and passes nearly every line, and, for a line that it does
not pass, a look at everything to name every fault.
"""

import re
from collections.abc import Container

import msgspec

from batchd import prefix
from batchd.model import LineError
from batchd.wire.checks import type_name

_CHAT = "/v1/chat/completions"
_EMBEDDINGS = "/v1/embeddings"
_ENDPOINT_NAMES = {_CHAT: "Chat Completions", "/v1/completions": "Completions"}
_EMPTY = msgspec.Raw(b"")

MAX_DEPTH = 100  # far below what a decoder stands, wherever it is called from
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')

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


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_any = msgspec.json.Decoder().decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
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
            value: object = _decode_any(line)
        except _NOT_JSON:
            return _faulty(LineError("invalid_json_line", _INVALID_JSON, None, line_no))
        if not isinstance(value, dict):
            text = f"Each line must be a JSON object, but this one is {type_name(value)}."
            return _faulty(LineError("invalid_request", text, None, line_no))
        request = msgspec.convert(value, dict[str, object])
        # Both looks must agree: what the first did not pass is never sent.
        found = self._faults(request) or [("invalid_json_line", _INVALID_JSON, None)]
        errors = [LineError(code, text, param, line_no) for code, text, param in found]
        custom_id = request.get("custom_id")
        return Checked(custom_id if isinstance(custom_id, str) else None, None, 0, errors)

    def _faults(self, request: dict[str, object]) -> list[Fault]:
        """Every fault of a line that is a JSON object: code, message, param."""
        faults: list[Fault] = []
        for name in ("custom_id", "method", "url"):
            value = request.get(name)
            if value is None:
                faults.append(_missing(name))
            elif not isinstance(value, str):
                faults.append(_wrong_type(name, "a string", value))
            else:
                faults.extend(self._field_faults(name, value))
        body = request.get("body")
        if body is None:
            faults.append(_missing("body"))
        elif not isinstance(body, dict):
            faults.append(_wrong_type("body", "an object", body))
        else:
            faults.extend(self._body_faults(msgspec.convert(body, dict[str, object])))
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

    def _body_faults(self, body: dict[str, object]) -> list[Fault]:
        faults = self._model_faults(body.get("model"))
        if self._needs_messages and "messages" not in body:
            text = "Messages parameter is required."
            faults.append(("invalid_request", text, "body.messages"))
        stream = body.get("stream")
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
            text = f"The provided model '{model}' is not supported by the Batch API."
            return [("model_not_found", text, "body.model")]
        return []


def _too_deep(line: bytes) -> bool:
    """Whether arrays and objects are nested deeper than ``MAX_DEPTH``."""
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKETS.findall(line):
        if bracket in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif bracket in b"]}":
            depth -= 1
    return False


def _faulty(error: LineError) -> Checked:
    return Checked(None, None, 0, [error])


def _missing(name: str) -> Fault:
    return ("missing_required_parameter", f"Missing required parameter: '{name}'.", name)


def _wrong_type(name: str, expected: str, value: object) -> Fault:
    text = f"Invalid type for '{name}': expected {expected}, but got {type_name(value)} instead."
    return ("invalid_type", text, name)


def _count_inputs(raw: msgspec.Raw) -> int:
    """Embedding inputs of one request: a list counts its length, a token array counts one."""
    text = bytes(raw)
    if not text.startswith(b"["):
        return 1
    items = _decode_list(text)
    if items and bytes(items[0])[:1] not in (b'"', b"["):
        return 1
    return len(items)
