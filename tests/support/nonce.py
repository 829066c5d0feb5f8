"""The nonce of a line: the text by which an answer is traced back to its request.

It is the string under the body's key ``nonce``, else the last thing the user said (chat), the
``prompt`` or the ``input``. The model server echoes it and the checker looks for it, so both take
it from here.
"""

from collections.abc import Mapping
from typing import cast

import msgspec


class RequestBody(msgspec.Struct):
    """The keys of a line's body that the model server looks at. Anything may stand in them."""

    model: object = None
    nonce: object = None
    behave: object = None
    messages: object = None
    prompt: object = None
    input: object = None


read_body = msgspec.json.Decoder(RequestBody).decode


def nonce_of(body: RequestBody) -> str:
    if isinstance(body.nonce, str):
        return body.nonce
    if isinstance(body.messages, list):
        return _last_user_text(cast("list[object]", body.messages))
    for given in (body.prompt, body.input):
        if given is not None:
            return given if isinstance(given, str) else msgspec.json.encode(given).decode()
    return ""


def answer_nonce(answer: Mapping[str, object]) -> str | None:
    """The nonce that an answer echoes; None for an answer that has no place for one."""
    nonce = answer.get("nonce")
    if isinstance(nonce, str):
        return nonce
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return None
    first = cast("dict[str, object]", choices[0])
    message = first.get("message")
    if isinstance(message, dict):
        return _text(cast("dict[str, object]", message).get("content"))
    text = first.get("text")
    return text if isinstance(text, str) else None


def _last_user_text(messages: list[object]) -> str:
    for message in reversed(messages):
        if isinstance(message, dict):
            said = cast("dict[str, object]", message)
            if said.get("role") == "user":
                return _text(said.get("content"))
    return ""


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [
        cast("dict[str, object]", part)
        for part in cast("list[object]", content)
        if isinstance(part, dict)
    ]
    return "".join(str(part.get("text", "")) for part in parts)
