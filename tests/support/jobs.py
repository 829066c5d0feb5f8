"""A client of batchd for tests of whole batches: lines in, the account of a batch out.

Every answer and every result line is held against the contract on the way (``onwire``), so that a
test that uses this only says what it is about.
"""

import contextlib
import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Container, Iterable
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from tests.support import onwire
from tests.support.checker import Account
from tests.support.result_files import Fail

JsonObject = dict[str, Any]

ENDPOINT = "/v1/chat/completions"
MODEL = "test-model"
TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})

_SCHEMA_LINES = 500
_BOUNDARY = "a-boundary-in-no-file"
_FORM = (
    f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
)


def request_line(custom_id: str, behave: str | None = None, **more: object) -> bytes:
    """A line of an input file; ``behave`` is the model server's script for it."""
    body: JsonObject = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Say something."}],
        "nonce": f"nonce of {custom_id}",
        **({} if behave is None else {"behave": behave}),
        **more,
    }
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(line).encode() + b"\n"


def request_lines(count: int, behave: str | None = None, *, prefix: str = "line") -> bytes:
    return b"".join(request_line(f"{prefix}-{number}", behave) for number in range(count))


def scripted(behaviours: Iterable[str]) -> bytes:
    """One line for each script; the script is its custom_id too."""
    return b"".join(request_line(behave, behave) for behave in behaviours)


def backends(base_url: str, **settings: object) -> list[JsonObject]:
    """The configuration's ``[[backends]]`` for one model server."""
    return [{"name": "model", "base_url": base_url, **settings}]


class Results(NamedTuple):
    """What there was behind a cursor, and how to go on."""

    lines: bytes
    next: str
    has_more: bool


class Refused(AssertionError):
    """The API answered with an error."""

    def __init__(self, status: int, error: JsonObject) -> None:
        super().__init__(f"{status}: {error}")
        self.status = status
        self.error = error


class Jobs:
    """The API at ``url`` (without ``/v1``). ``ConnectionError`` while nobody is there."""

    def __init__(self, url: str) -> None:
        self._address = url.removeprefix("http://")

    def upload(self, data: bytes) -> str:
        """The id of a new input file."""
        form = _FORM.encode() + data + f"\r\n--{_BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        return str(self._object("POST", "/v1/files", form, kind)["id"])

    def create(self, input_file_id: str, *, window: str = "24h", **more: object) -> JsonObject:
        wish = {
            "input_file_id": input_file_id,
            "endpoint": ENDPOINT,
            "completion_window": window,
            **more,
        }
        return self._object("POST", "/v1/batches", json.dumps(wish).encode())

    def start(self, data: bytes, *, window: str = "24h") -> str:
        """Upload and create; the id of the batch."""
        return str(self.create(self.upload(data), window=window)["id"])

    def get(self, batch_id: str) -> JsonObject:
        return self._object("GET", f"/v1/batches/{batch_id}")

    def cancel(self, batch_id: str) -> JsonObject:
        return self._object("POST", f"/v1/batches/{batch_id}/cancel")

    def ask_of(self, batch_id: str, verb: str, **wish: object) -> JsonObject:
        """What batchd adds: pause, resume, priority, retry."""
        body = json.dumps(wish).encode() if wish else None
        return self._object("POST", f"/v1/batches/{batch_id}/{verb}", body)

    def results(self, batch_id: str, **query: str) -> Results:
        """The results there are so far, behind the cursor ``after`` if one is given."""
        path = f"/v1/batches/{batch_id}/results?{urllib.parse.urlencode(query)}"
        with contextlib.closing(http.client.HTTPConnection(self._address, timeout=20)) as asked:
            asked.request("GET", path)
            response = asked.getresponse()
            text = response.read()
        assert response.status == 200, text
        has_more = response.headers["x-has-more"] == "true"
        return Results(text, response.headers["x-next-cursor"], has_more)

    def delete_file(self, file_id: str) -> JsonObject:
        return self._object("DELETE", f"/v1/files/{file_id}")

    def batches(self) -> list[JsonObject]:
        """The twenty newest batches, newest first."""
        return cast("list[JsonObject]", self._object("GET", "/v1/batches")["data"])

    def file_ids(self) -> set[str]:
        """The ids of all files (of up to ten thousand), not held against any schema."""
        status, text = self._ask("GET", "/v1/files?limit=10000", None, "")
        assert status == 200, text
        return {str(file["id"]) for file in json.loads(text)["data"]}

    def page(self, kind: str, query: str = "") -> list[JsonObject]:
        """One page of ``files`` or ``batches``."""
        return list(self._object("GET", f"/v1/{kind}", query=f"?limit=100&{query}")["data"])

    def content(self, file_id: str | None) -> bytes | None:
        """A result file's bytes; None for a file that is not there."""
        if file_id is None:
            return None
        status, text = self._ask("GET", f"/v1/files/{file_id}/content", None, "")
        if status != 200:
            raise Refused(status, json.loads(text))
        assert self._object("GET", f"/v1/files/{file_id}")["bytes"] == len(text)
        return text

    def wait(
        self, batch_id: str, until: Container[str] = TERMINAL, *, within: float = 20
    ) -> JsonObject:
        """The batch once its status is one of ``until``."""
        return self.wait_for(batch_id, lambda batch: batch["status"] in until, within=within)

    def wait_for(
        self, batch_id: str, condition: Callable[[JsonObject], bool], *, within: float = 20
    ) -> JsonObject:
        """The batch once ``condition`` holds for it."""
        deadline = time.monotonic() + within
        while not condition(batch := self.get(batch_id)):
            if time.monotonic() > deadline:
                raise AssertionError(f"It did not happen within {within} s: {batch}")
            time.sleep(0.01)
        return batch

    def account(self, data: bytes, batch_id: str, *, within: float = 20) -> Account:
        """What went in and what came out, once the batch has ended."""
        batch = self.wait(batch_id, within=within)
        output = self.content(batch["output_file_id"])
        errors = self.content(batch["error_file_id"])
        for line in _sample(output):
            onwire.check_output_line(json.loads(line))
        for line in _sample(errors):
            onwire.check_error_line(json.loads(line))
        return Account(input=data, output=output, errors=errors, batch=batch)

    def _object(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/json",
        *,
        query: str = "",
    ) -> JsonObject:
        status, text = self._ask(method, path + query, body, kind)
        onwire.check_response(method, path, status, text)
        if status != 200:
            raise Refused(status, json.loads(text)["error"])
        return cast("JsonObject", json.loads(text))

    def _ask(self, method: str, path: str, body: bytes | None, kind: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._address, timeout=20)
        try:
            connection.request(method, path, body, {"content-type": kind} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(type(error).__name__) from None
        finally:
            connection.close()


class Poller:
    """Gets one batch again and again from a thread of its own, whether or not batchd runs.

    ``seen`` are the batches it was shown, each change once; leaving raises what went wrong.
    """

    def __init__(self, jobs: Jobs, batch_id: str, *, every: float = 0.02) -> None:
        self.seen: list[JsonObject] = []
        self._jobs = jobs
        self._batch_id = batch_id
        self._every = every
        self._stop = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(30)
        if self._fault is not None and error is None:
            raise self._fault

    def check_counts_never_went_back(self, fail: Fail) -> None:
        last: JsonObject = {"total": 0, "completed": 0, "failed": 0}
        for batch in self.seen:
            counts = batch["request_counts"]
            if any(counts[name] < last[name] for name in last):
                fail(f"the counts went back from {last} to {counts}")
            last = counts

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                batch = self._jobs.get(self._batch_id)
            except OSError:
                continue  # it is being started again
            except (AssertionError, ValueError) as fault:
                self._fault = fault
                return
            if not self.seen or self.seen[-1] != batch:
                self.seen.append(batch)


def _sample(content: bytes | None) -> list[bytes]:
    """All lines, or some hundred of very many: the schemas take a millisecond for each."""
    lines = (content or b"").split(b"\n")[:-1]
    return lines[:: 1 + len(lines) // _SCHEMA_LINES]


def result_lines(content: bytes | None) -> dict[str, JsonObject]:
    """The lines of a result file by custom_id."""
    lines = [cast("JsonObject", json.loads(line)) for line in (content or b"").split(b"\n")[:-1]]
    return {str(line["custom_id"]): line for line in lines}
