"""One large batch, as a client sees it: its input, its upload, its creation, its results.

Whatever the size, only a piece at a time is in memory.
"""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import msgspec

_PIECE = 1 << 18
_BOUNDARY = "----batchd-benchmark"
_WAIT = 600.0


class Results(msgspec.Struct, frozen=True):
    """What the result files hold: lines, and how many requests stand there exactly once."""

    lines: int
    once: int
    bytes: int


def write_input(path: Path, *, count: int, line_size: int) -> int:
    """Write ``count`` chat requests, ``line_size`` bytes each with newline; the file's size."""
    with path.open("wb") as file:
        for number in range(count):
            file.write(_request(number, line_size))
    return path.stat().st_size


def _request(number: int, size: int) -> bytes:
    head = (
        f'{{"custom_id":"line-{number:08d}","method":"POST","url":"/v1/chat/completions",'
        f'"body":{{"model":"test-model","nonce":"{number:08d}","messages":'
        f'[{{"role":"user","content":"'
    )
    tail = '"}]}}\n'
    words = f"Tell me about number {number}. "
    room = size - len(head) - len(tail)
    if room < 1:
        raise ValueError(f"a request line needs at least {len(head) + len(tail) + 1} bytes")
    text = (words * (room // len(words) + 1))[:room]
    return (head + text + tail).encode()


class Client:
    """Files and batches of one daemon."""

    def __init__(self, port: int) -> None:
        self._port = port

    def upload(self, path: Path) -> str:
        """Stream a file from disk; its id."""
        envelope = _envelope(path.name)
        size = len(envelope[0]) + path.stat().st_size + len(envelope[1])
        headers = {
            "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
            "Content-Length": str(size),
        }
        return str(self._call("POST", "/v1/files", _body(path, *envelope), headers)["id"])

    def create(self, file_id: str) -> str:
        """A batch over an uploaded file; its id."""
        wish = {
            "input_file_id": file_id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        headers = {"Content-Type": "application/json"}
        return str(self._call("POST", "/v1/batches", json.dumps(wish).encode(), headers)["id"])

    def batch(self, batch_id: str) -> dict[str, object]:
        return self._call("GET", f"/v1/batches/{batch_id}", None, {})

    def results(self, batch_id: str, count: int) -> Results:
        """Read both result files and look for each of ``count`` requests."""
        batch = self.batch(batch_id)
        seen = bytearray(count)
        lines = size = 0
        for key in ("output_file_id", "error_file_id"):
            file_id = batch[key]
            if file_id is None:
                continue
            for line in self._lines(str(file_id)):
                lines += 1
                size += len(line)
                _see(line, seen)
        return Results(lines, seen.count(1), size)

    def _lines(self, file_id: str) -> Iterator[bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_WAIT)
        connection.request("GET", f"/v1/files/{file_id}/content")
        with connection.getresponse() as response:
            yield from response
        connection.close()

    def _call(
        self, method: str, path: str, body: Iterator[bytes] | bytes | None, headers: dict[str, str]
    ) -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_WAIT)
        connection.request(method, path, body, headers)
        with connection.getresponse() as response:
            text = response.read()
        connection.close()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode()}")
        return cast("dict[str, object]", json.loads(text))


class _ResultLine(msgspec.Struct):
    custom_id: str


_decode = msgspec.json.Decoder(_ResultLine).decode


def _see(line: bytes, seen: bytearray) -> None:
    number = int(_decode(line).custom_id.removeprefix("line-"))
    seen[number] = min(2, seen[number] + 1)


def _envelope(filename: str) -> tuple[bytes, bytes]:
    disposition = "Content-Disposition: form-data; name="
    head = (
        f'--{_BOUNDARY}\r\n{disposition}"purpose"\r\n\r\nbatch\r\n'
        f'--{_BOUNDARY}\r\n{disposition}"file"; filename="{filename}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()


def _body(path: Path, head: bytes, tail: bytes) -> Iterator[bytes]:
    yield head
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
    yield tail
