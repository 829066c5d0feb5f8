"""What an answer is, and what a well-behaved model server says: OpenAI's JSON over HTTP/1.1."""

import enum
from http import HTTPStatus
from typing import cast

import msgspec

from tests.support.nonce import RequestBody, nonce_of

CREATED = 1_700_000_000

_encode = msgspec.json.Encoder().encode
_REASONS = {int(status): status.phrase for status in HTTPStatus}


class After(enum.Enum):
    """What becomes of the connection once the bytes are out."""

    KEEP = enum.auto()
    CLOSE = enum.auto()
    RESET = enum.auto()
    SILENCE = enum.auto()  # never a further byte; the client has to hang up


class Flood(msgspec.Struct, frozen=True):
    """Bytes too many to hold: ``block`` again and again (-1: for ever), then ``tail``."""

    block: bytes
    times: int
    tail: bytes = b""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``usable`` is said of a whole 2xx with a JSON object that any client must accept."""

    status: int
    wire: bytes
    after: After = After.KEEP
    usable: bool = False
    delay: float = 0
    drip: float = 0  # seconds between single bytes
    flood: Flood | None = None


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer may depend on."""

    path: str
    body: RequestBody
    number: int  # of this request at this server
    served: int = 0  # requests answered before on the same connection
    size: int = 0
    arg: str = ""

    @property
    def nonce(self) -> str:
        return nonce_of(self.body)

    @property
    def headers(self) -> dict[str, str]:
        return {"x-request-id": f"up-{self.number}"}

    def good(self) -> dict[str, object]:
        return good(self.path, self.body, number=self.number, size=self.size)

    def good_json(self) -> bytes:
        return _encode(self.good())

    def good_wire(self) -> bytes:
        return http(200, self.good_json(), headers=self.headers)


def http(
    status: int,
    body: bytes,
    *,
    kind: str = "application/json",
    headers: dict[str, str] | None = None,
) -> bytes:
    """A whole HTTP answer."""
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n"
        f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n"
    )
    for name, value in (headers or {}).items():
        head += f"{name}: {value}\r\n"
    return head.encode("latin-1") + b"\r\n" + body


def good(path: str, body: RequestBody, *, number: int, size: int = 0) -> dict[str, object]:
    """The answer to a request: echoes model and nonce; ``size`` is how many characters it adds."""
    nonce = nonce_of(body)
    answer: dict[str, object] = {
        "object": "chat.completion",
        "created": CREATED,
        "model": body.model,
    }
    if path.endswith("/embeddings"):
        answer = {"object": "list", "model": body.model, "data": _vectors(body)}
        answer["usage"] = {"prompt_tokens": len(nonce), "total_tokens": len(nonce)}
    elif path.endswith("/chat/completions"):
        message = {"role": "assistant", "content": nonce + "." * size}
        answer |= {"id": f"chatcmpl-{number}", "choices": [_choice(message=message)]}
        answer["usage"] = _usage(nonce, size)
    else:
        answer |= {"id": f"cmpl-{number}", "object": "text_completion"}
        answer |= {"choices": [_choice(text=nonce + "." * size)], "usage": _usage(nonce, size)}
    answer["nonce"] = nonce
    return answer


def error(
    status: int, nonce: str, *, code: str | None = None, headers: dict[str, str] | None = None
) -> bytes:
    """A whole HTTP answer with OpenAI's error object."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    fault = {
        "message": f"The script asks for {status}.",
        "type": kind,
        "param": None,
        "code": code,
    }
    return http(status, _encode({"error": fault, "nonce": nonce}), headers=headers)


def models(names: tuple[str, ...]) -> bytes:
    data = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "tests"} for name in names
    ]
    return http(200, _encode({"object": "list", "data": data}))


def _choice(**said: object) -> dict[str, object]:
    return {"index": 0, **said, "logprobs": None, "finish_reason": "stop"}


def _vectors(body: RequestBody) -> list[dict[str, object]]:
    inputs = cast("list[object]", body.input) if isinstance(body.input, list) else [body.input]
    count = 1 if isinstance(inputs[0] if inputs else "", int) else len(inputs)
    return [
        {"object": "embedding", "index": index, "embedding": [0.25, -0.5, 1.0]}
        for index in range(count)
    ]


def _usage(nonce: str, size: int) -> dict[str, object]:
    prompt, completion = 1 + len(nonce) // 4, 1 + (len(nonce) + size) // 4
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": prompt // 2},
        "completion_tokens_details": {"reasoning_tokens": completion // 2},
    }
