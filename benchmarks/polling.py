"""Asks one URL every few milliseconds, in a process of its own, and keeps what each answer took.

The poller knows HTTP and, of batchd, that an answer may have a ``status``: a sample is filed under
the phase that its own answer names. A sample's time runs from the sending of that request; the next
is sent when its turn has come, or at once if it is late. Times are of CLOCK_MONOTONIC, which all
processes of a machine share, so samples of several pollers can be laid side by side.
"""

import asyncio
import contextlib
import gc
import http.client
import json
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NamedTuple, Self, cast

import uvloop

_EVERY = 0.01
_PRIORITY = -15
_LONG_WAIT = 30.0
_SPAWN = multiprocessing.get_context("spawn")


class Sample(NamedTuple):
    """One answer: when its request was sent, how long it took, and the status that it named."""

    at: float
    took: float
    status: str


class Poller:
    """``with Poller(port, path) as poller: …; samples = poller.stop()``."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._orders, self._theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_poll, args=(port, path, self._theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.join()

    def watch(self, path: str) -> None:
        """Ask another path from now on."""
        self._orders.send(path)

    def next_status(self, within: float) -> str:
        """Wait until an answer names another status than the one before."""
        if not self._orders.poll(within):
            raise TimeoutError(f"the status did not change within {within:g} s")
        return cast("str", self._orders.recv())

    def stop(self) -> list[Sample]:
        """End it; all samples, in their order."""
        self._orders.send(None)
        while isinstance(received := cast("object", self._orders.recv()), str):
            pass
        self._process.join()
        return cast("list[Sample]", received)


def _poll(port: int, path: str, orders: Connection) -> None:
    with contextlib.suppress(PermissionError):  # only root may; others measure with more noise
        os.nice(_PRIORITY)
    gc.disable()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LONG_WAIT)
    samples: list[Sample] = []
    status = ""
    due = time.monotonic()
    while True:
        if orders.poll():
            order = cast("str | None", orders.recv())
            if order is None:
                break
            path = order
        sample = _ask(connection, path)
        samples.append(sample)
        if sample.status != status:
            status = sample.status
            orders.send(status)
        due = max(due + _EVERY, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    orders.send(samples)


def _ask(connection: http.client.HTTPConnection, path: str) -> Sample:
    started = time.monotonic()
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    took = time.monotonic() - started
    if response.status != http.HTTPStatus.OK:
        raise RuntimeError(f"GET {path} was answered with {response.status}")
    answer = cast("dict[str, object]", json.loads(body))
    return Sample(started, took, str(answer.get("status", "")))


# -- what to compare with: a server that does nothing else


class BareAnswer(asyncio.Protocol):
    """Answers whatever comes with a fixed JSON object of about a batch object's size."""

    _BODY = json.dumps({"status": "bare", "padding": "." * 900}).encode()
    _HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    _WIRE = _HEAD % len(_BODY) + _BODY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(self._WIRE)


async def bare_server() -> tuple[asyncio.Server, int]:
    """A server of bare answers on the running loop, and its port."""
    server = await asyncio.get_running_loop().create_server(BareAnswer, "127.0.0.1", 0)
    return server, cast("int", server.sockets[0].getsockname()[1])


class BareServer:
    """A process that only gives bare answers: ``with BareServer() as server: … server.port``."""

    def __enter__(self) -> Self:
        ready, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve_bare, args=(theirs,), daemon=True)
        self._process.start()
        self.port = cast("int", ready.recv())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.join()


def _serve_bare(ready: Connection) -> None:
    async def serve() -> None:
        server, port = await bare_server()
        ready.send(port)
        await server.serve_forever()

    uvloop.run(serve())
