"""Inputs of the flow benchmarks: short chat lines, each with a nonce of its own."""

import json
from pathlib import Path


def write_lines(path: Path, count: int, *, tag: str = "", max_tokens: int | None = None) -> None:
    """Nonces are ``tag`` and the line's number, which also names its service time."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(_line(number, tag, max_tokens) + "\n")


def nonces(count: int, *, tag: str = "") -> list[str]:
    """Those of the same lines, in order."""
    return [f"{tag}{number}" for number in range(count)]


def _line(number: int, tag: str, max_tokens: int | None) -> str:
    body: dict[str, object] = {
        "model": "test-model",
        "nonce": f"{tag}{number}",
        "messages": [
            {"role": "user", "content": f"Tell me about number {number}, in a few words."}
        ],
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return json.dumps(
        {
            "custom_id": f"line-{number:08d}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body,
        }
    )
