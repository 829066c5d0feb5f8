"""Stands between a client and batchd, changes no byte, and holds every answer against the contract.

Whatever client is under test (Python, Node, curl), what it receives is read here a second time:
JSON by the schemas of its route, result files line by line. A fault is kept for the end of the
test, with the request it belongs to. An answer is looked at before the client has it, so that a
test that has its answer also has its faults.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

import h11
import msgspec

from tests.support.onwire import WireWatch, check_error_line, check_output_line

_CHUNK = 1 << 16
_CONTENT = re.compile(r"/v1/files/[^/]+/content")
_RESULTS = re.compile(r'filename="[^"]+_(output|error)\.jsonl"')
_PARTIAL = 206


class Url(msgspec.Struct, frozen=True):
    path: str


class Asked(msgspec.Struct, frozen=True):
    method: str
    url: Url
    headers: dict[str, str]


class Exchange(msgspec.Struct, frozen=True):
    """One request and its answer, in the shape that a WireWatch looks at."""

    request: Asked
    status_code: int
    headers: dict[str, str]
    body: bytes

    def read(self) -> bytes:
        return self.body


class Reader:
    """Reads along on one connection; ``done`` gets each exchange once its last byte is there."""

    def __init__(self, done: Callable[[Exchange], None]) -> None:
        self._done = done
        self._lock = threading.Lock()
        self._asking = h11.Connection(h11.SERVER)
        self._answering = h11.Connection(h11.CLIENT)
        self._asked: h11.Request | None = None
        self._head: h11.Response | None = None
        self._body = b""

    def request_bytes(self, data: bytes) -> None:
        """A client may break off its request, as when it is refused before its end."""
        with self._lock, suppress(h11.RemoteProtocolError):
            self._asking.receive_data(data)
            self._read_requests()

    def answer_bytes(self, data: bytes) -> None:
        with self._lock:
            self._answering.receive_data(data)
            for event in _events(self._answering):
                self._read_answer(cast("h11.Event", event))

    def _read_requests(self) -> None:
        """Each side's parser is told what the other read, since answers depend on requests."""
        for event in _events(self._asking):
            if isinstance(event, h11.Request):
                self._asked = event
            if not isinstance(event, h11.ConnectionClosed):
                self._answering.send(cast("h11.Event", event))

    def _read_answer(self, event: h11.Event) -> None:
        if isinstance(event, h11.ConnectionClosed):
            return
        self._asking.send(event)
        if isinstance(event, h11.Response):
            self._head = event
        elif isinstance(event, h11.Data):
            self._body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            self._finish()

    def _finish(self) -> None:
        asked, head = self._asked, self._head
        assert asked is not None
        assert head is not None
        path = asked.target.decode().partition("?")[0]
        request = Asked(asked.method.decode(), Url(path), _headers(asked.headers))
        self._done(Exchange(request, head.status_code, _headers(head.headers), self._body))
        self._body = b""
        if self._asking.our_state is self._asking.their_state is h11.DONE:
            self._asking.start_next_cycle()
            self._answering.start_next_cycle()
            self._read_requests()


class RecordingProxy:
    """``with RecordingProxy(port).running() as proxy: … proxy.base_url … proxy.faults``."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._watch = WireWatch()
        self._lines = 0
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._server.getsockname()[1]
        self.seen: list[Exchange] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def checked(self) -> int:
        """How many JSON objects were held against a schema."""
        return sum(self._watch.checked.values()) + self._lines

    @contextmanager
    def running(self) -> Generator["RecordingProxy"]:
        accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        accepting.start()
        try:
            yield self
        finally:
            self._server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            self._server.close()

    def faults(self) -> list[str]:
        """What was wrong since the last time this was asked."""
        with self._lock:
            found = list(self._watch.faults)
            self._watch.faults.clear()
        return found

    def paths(self, status: int) -> list[str]:
        """What was asked for and answered with this status, in order."""
        return [
            exchange.request.url.path
            for exchange in list(self.seen)
            if exchange.status_code == status
        ]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:  # shut down
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        reader = Reader(self._done)
        with client, socket.create_connection(("127.0.0.1", self._target)) as batchd:
            asking = threading.Thread(
                target=self._pump, args=(client, batchd, reader.request_bytes), daemon=True
            )
            asking.start()
            self._pump(batchd, client, reader.answer_bytes)
            _hang_up(client)
            asking.join()

    def _pump(
        self, source: socket.socket, sink: socket.socket, look: Callable[[bytes], None]
    ) -> None:
        """Copy until ``source`` ends or ``sink`` takes no more."""
        try:
            while True:
                data = source.recv(_CHUNK)
                try:
                    look(data)
                except h11.ProtocolError as fault:
                    self._fault(f"not HTTP: {fault}")
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
        except OSError:
            return  # one side hung up, which is its right

    def _fault(self, text: str) -> None:
        with self._lock:
            self._watch.faults.append(text)

    def _done(self, exchange: Exchange) -> None:
        with self._lock:
            self.seen.append(exchange)
            self._watch(exchange)
            path, status = exchange.request.url.path, exchange.status_code
            if not _CONTENT.fullmatch(path) or status >= 400 or status == _PARTIAL:
                return
            try:
                self._lines += _check_lines(exchange)
            except (AssertionError, ValueError) as fault:
                self._watch.faults.append(f"{path}: {fault}")


def _check_lines(exchange: Exchange) -> int:
    """Hold each line of a result file against the schema; how many there were."""
    kind = _RESULTS.search(exchange.headers.get("content-disposition", ""))
    if kind is None:
        return 0
    check = check_output_line if kind[1] == "output" else check_error_line
    lines = exchange.body.decode().splitlines()
    for line in lines:
        check(json.loads(line))
    return len(lines)


def _events(connection: h11.Connection) -> Iterator[object]:
    while connection.their_state not in (h11.CLOSED, h11.ERROR):
        event = connection.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return
        yield event


def _headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode().lower(): value.decode("latin-1") for name, value in headers}


def _hang_up(client: socket.socket) -> None:
    with suppress(OSError):  # it may be gone already
        client.shutdown(socket.SHUT_RDWR)
