"""A Files and Batch API in memory, for the command line to talk to.

Each look at a batch takes the next of ``steps`` (what to change in it), and stays at the last. A
batch has the ``results`` that a test gives it; a cursor is how many lines of each file were read.
"""

import json
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

Json = dict[str, Any]

ALWAYS: dict[str, Json] = {
    "/healthz": {"status": "ok"},
    "/v1/models": {"object": "list", "data": []},
}
RUNNING: Json = {
    "status": "in_progress",
    "request_counts": {"total": 4, "completed": 1, "failed": 0},
}
COMPLETED: Json = {
    "status": "completed",
    "request_counts": {"total": 4, "completed": 3, "failed": 1},
    "output_file_id": "file-out",
    "error_file_id": "file-err",
    "completed_at": 1_700_000_060,
}
FAILED: Json = {
    "status": "failed",
    "errors": {
        "object": "list",
        "data": [
            {
                "code": "invalid_json_line",
                "message": "This line is not parseable as valid JSON.",
                "param": None,
                "line": 3,
            }
        ],
    },
}
ALL_FAILED: Json = {
    "status": "completed",
    "request_counts": {"total": 4, "completed": 0, "failed": 4},
    "error_file_id": "file-err",
}


BACKENDS: list[Json] = [
    {
        "object": "backend",
        "name": "gpu",
        "base_url": "http://gpu/v1",
        "state": "ok",
        "note": None,
        "tries_again_in": None,
        "in_flight": 40,
        "models": ["small", "large"],
        "lanes": [
            {"model": "small", "in_flight": 8, "limit": 24, "throughput": 3.21},
            {"model": "large", "in_flight": 32, "limit": 1000, "throughput": 0.5},
        ],
    },
    {
        "object": "backend",
        "name": "hosted",
        "base_url": "http://hosted/v1",
        "state": "waiting",
        "note": "the quota is used up",
        "tries_again_in": 3480.0,
        "in_flight": 0,
        "models": ["small"],
        "lanes": [],
    },
]


class FakeResults:
    """The result lines of one batch so far; ``more``: it runs still."""

    def __init__(self, completed: list[bytes], failed: list[bytes], *, more: bool) -> None:
        self.lines = {"completed": completed, "failed": failed}
        self.more = more
        self.broken = ""  # answers with this status break off
        self.interrupted = ""  # the person presses Ctrl-C when these are asked for
        self.asked: list[Json] = []

    def answer(self, query: dict[str, list[str]]) -> tuple[bytes, str]:
        self.asked.append({name: values[0] for name, values in query.items()})
        status = query["status"][0]
        at = dict(zip(self.lines, map(int, query.get("after", ["0-0"])[0].split("-")), strict=True))
        found = self.lines[status][at[status] :]
        at[status] += len(found)
        return b"".join(found), "-".join(map(str, at.values()))


class FakeApi:
    """What the API has, and how it answers; change it at will."""

    def __init__(self) -> None:
        self.files: dict[str, Json] = {}
        self.contents = {"file-out": b'{"custom_id":"a"}\n', "file-err": b'{"custom_id":"b"}\n'}
        self.batches: dict[str, Json] = {}
        self.backends = BACKENDS
        self.steps: list[Json] = [COMPLETED]
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.refusals: list[tuple[str, int, str]] = []
        self.cut_downloads = 0
        self.refuse_after: int | None = None  # so many batches are made
        self.interrupted_at = ""  # the person presses Ctrl-C when this is asked for
        self.lost_answers = 0  # creates that are done, and whose answer never arrives
        self.lost_after: int | None = None  # so many batches are made, and all later answers lost
        self.limits: Json | None = None
        self.results: dict[str, FakeResults] = {}
        self._keys: dict[str, Json] = {}
        self._seen: dict[str, int] = {}

    def refuse(self, route: str, status: int, message: str) -> None:
        """Answer ``METHOD /path…`` with an error, once."""
        self.refusals.append((route, status, message))

    def refusal(self, method: str, path: str) -> tuple[int, str] | None:
        if (method, path) == ("POST", "/v1/batches") and len(self.batches) == self.refuse_after:
            return 400, "Enough."
        for route, status, message in self.refusals:
            if f"{method} {path}".startswith(route):
                self.refusals.remove((route, status, message))
                return status, message
        return None

    def add_file(self, filename: str, content: bytes) -> Json:
        file_id = f"file-{len(self.files) + 1}"
        self.contents[file_id] = content
        self.files[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": 1_700_000_000,
            "expires_at": None,
            "filename": filename,
            "purpose": "batch",
            "status": "processed",
        }
        return self.files[file_id]

    def created(self, asked: Json, key: str | None) -> Json:
        """The batch of this key, made if there is none."""
        if key is None or key not in self._keys:
            batch = self.add_batch(asked)
            self._keys[key or batch["id"]] = batch
            return batch
        return self._keys[key]

    def add_batch(self, asked: Json) -> Json:
        batch_id = f"batch_{len(self.batches) + 1}"
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "model": "small",
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": 1_700_000_000 + len(self.batches),
            "expires_at": 1_700_086_400,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "usage": {"input_tokens": 12, "output_tokens": 34},
            "metadata": asked.get("metadata"),
            "batchd": {
                "priority": asked.get("priority", 0),
                "paused_at": None,
                "parent_id": asked.get("parent_id"),
                "notes": [],
                "retrying": None,
            },
        }
        return self.batches[batch_id]

    def look(self, batch_id: str) -> Json:
        step = self._seen.get(batch_id, 0)
        self._seen[batch_id] = step + 1
        self.batches[batch_id] |= self.steps[min(step, len(self.steps) - 1)]
        return self.batches[batch_id]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ClassVar[FakeApi]

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing: the tests look at ``requests``."""

    def address_string(self) -> str:
        return "client"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.api.requests.append((self.command, path))
        self.api.headers.append(dict(self.headers.items()))
        if f"{self.command} {path}" == self.api.interrupted_at:
            self.api.interrupted_at = ""
            os.kill(os.getpid(), signal.SIGINT)
        if refusal := self.api.refusal(self.command, path):
            self._error(*refusal)
        elif path == "/v1/limits" and self.api.limits:
            self._json({"object": "limits"} | self.api.limits)
        elif path in ALWAYS:
            self._json(ALWAYS[path])
        else:
            self._route(path, parse_qs(parts.query), body)

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        match (self.command, *path.strip("/").split("/")):
            case ("POST", "v1", "files"):
                self._json(self.api.add_file(*self._form(body)))
            case ("POST", "v1", "batches"):
                self._made(json.loads(body))
            case ("GET", "v1", "backends"):
                self._json({"object": "list", "data": self.api.backends})
            case ("POST", "v1", "backends", name, "resume"):
                self._backend(name)
            case ("GET", "v1", "files" | "batches" as kind):
                self._page(list(getattr(self.api, kind).values())[::-1], query)
            case (_, "v1", "batches", batch_id, *verb) if batch_id in self.api.batches:
                self._batch(batch_id, verb, json.loads(body or b"{}"), query)
            case (_, "v1", "files", file_id, *verb) if file_id in self.api.contents:
                self._file(file_id, verb)
            case _:
                self._unknown(path)

    def _backend(self, name: str) -> None:
        found = [backend for backend in self.api.backends if backend["name"] == name]
        if found:
            self._json(found[0])
        else:
            self._error(404, f"No such backend: {name}")

    def _unknown(self, path: str) -> None:
        kind, _, name = path.removeprefix("/v1/").partition("/")
        said = {
            "batches": f"No batch found with id '{name}'.",
            "files": f"No such File object: {name}",
        }
        self._error(404, said.get(kind, f"Invalid URL ({self.command} {path})"))

    def _batch(
        self, batch_id: str, verb: list[str], asked: Json, query: dict[str, list[str]]
    ) -> None:
        batch = self.api.batches[batch_id]
        match verb:
            case ["cancel"]:
                self.api.steps = [{"status": "cancelling"}]
            case ["pause"]:
                batch["batchd"]["paused_at"] = 1_700_000_030
            case ["resume"]:
                batch["batchd"]["paused_at"] = None
            case ["priority"]:
                batch["batchd"]["priority"] = asked["priority"]
            case ["retry"]:
                self._made(batch | {"retried": asked, "parent_id": batch_id})
                return
            case ["results"]:
                self._results(self.api.results[batch_id], query)
                return
            case _:
                pass
        self._json(self.api.look(batch_id))

    def _made(self, asked: Json) -> None:
        batch = self.api.created(asked, self.headers["Idempotency-Key"])
        batch["retried"] = asked.get("retried")
        made = len(self.api.batches)
        if self.api.lost_after is not None and made > self.api.lost_after:
            self.api.lost_answers = 1
        if self.api.lost_answers:
            self.api.lost_answers -= 1
            self.close_connection = True
        else:
            self._json(batch)

    def _results(self, results: FakeResults, query: dict[str, list[str]]) -> None:
        status = query["status"][0]
        if status == results.interrupted:
            results.interrupted = ""
            os.kill(os.getpid(), signal.SIGINT)
        self.api.cut_downloads += status == results.broken
        content, cursor = results.answer(query)
        more = "true" if results.more else "false"
        self._send(200, content, headers={"x-next-cursor": cursor, "x-has-more": more})

    def _file(self, file_id: str, verb: list[str]) -> None:
        if self.command == "DELETE":
            del self.api.contents[file_id]
            self.api.files.pop(file_id, None)
            self._json({"id": file_id, "object": "file", "deleted": True})
        elif verb == ["content"]:
            content = self.api.contents[file_id]
            self._send(200, content)
        else:
            self._json(self.api.files[file_id])

    def _form(self, body: bytes) -> tuple[str, bytes]:
        boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
        _, _, file, end = body.split(b"--" + boundary)
        assert end == b"--\r\n"
        head, _, content = file.partition(b"\r\n\r\n")
        name = head.decode(errors="replace").partition('filename="')[2].partition('"')[0]
        return name, content.removesuffix(b"\r\n")

    def _page(self, objects: list[Json], query: dict[str, list[str]]) -> None:
        ids = [each["id"] for each in objects]
        first = ids.index(query["after"][0]) + 1 if "after" in query else 0
        found = objects[first : first + int(query["limit"][0])]
        more = first + len(found) < len(objects)
        self._json({"object": "list", "data": found, "has_more": more})

    def _error(self, status: int, message: str) -> None:
        envelope = {"message": message, "type": "x", "param": None, "code": None}
        self._send(status, json.dumps({"error": envelope}).encode())

    def _json(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode())

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        is_download = bool(headers) or self.path.endswith("/content")
        cut = is_download and self.api.cut_downloads > 0 and bool(content)
        self.api.cut_downloads -= cut
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut


class _Quiet:
    """A client that hangs up is no news."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _TcpServer(_Quiet, ThreadingHTTPServer):
    pass


class _UnixServer(_Quiet, ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> tuple[Any, Any]:
        request, _ = super().get_request()
        return request, ("client", 0)


@contextmanager
def serving(api: FakeApi, port: int = 0, path: str | None = None) -> Generator[str]:
    """Serve ``api`` on a port (0: any) or a Unix socket, and give its URL."""
    handler = type("Handler", (_Handler,), {"api": api})
    if path:
        server = _UnixServer(path, handler)
        url = f"unix:{path}"
    else:
        server = _TcpServer(("127.0.0.1", port), handler)
        url = f"http://127.0.0.1:{server.server_address[1]}"
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield url
        finally:
            server.shutdown()
            thread.join()
