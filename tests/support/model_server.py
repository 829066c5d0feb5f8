"""A model server that answers from a script, over real sockets, and writes down what it was sent.

In a test: ``async with ModelServer() as server: … server.base_url``. As a process, for tests that
kill things and for speed: ``python -m tests.support.model_server --port 0 --log FILE``, which
prints its port as the first line. A running server shows and changes its settings at
``/_settings`` and shows its counts at ``/_counts``.

What becomes of a line is said by ``behave`` in its body (see ``script``), else by the setting of
that name. Each arrival and each end is an Event. The server knows no batchd and no contract.
"""

import argparse
import asyncio
import signal
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import uvloop

from tests.support.eventlog import Event, EventLog
from tests.support.model_desk import ModelDesk
from tests.support.model_gate import Gate
from tests.support.model_protocol import Connection
from tests.support.model_settings import Counts, Settings


class ModelServer:
    """Opened with ``async with``. Not ``listening``: the port is ours and refuses connections."""

    def __init__(
        self,
        *,
        port: int = 0,
        log: Path | None = None,
        listening: bool = True,
        settings: Settings | None = None,
    ) -> None:
        self.counts = Counts()
        self.port = port
        self._listening = listening
        self._log_path = log
        self._gate = Gate(settings or Settings(), self.counts, time.monotonic)
        self._server: asyncio.Server | None = None

    @property
    def settings(self) -> Settings:
        return self._gate.settings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return self.url + "/v1"

    @property
    def events(self) -> list[Event]:
        return self._log.events()

    async def __aenter__(self) -> Self:
        self._log = EventLog(self._log_path)
        self._desk = ModelDesk(self._gate, self.counts, self._log)
        self._socket = bind(self.port)
        self.port = self._socket.getsockname()[1]
        if self._listening:
            await self.listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop_listening()
        self._socket.close()
        self.drop_connections()
        await asyncio.sleep(0)  # lets the transports say that they are closed
        self._log.close()

    def set(self, **changes: object) -> None:
        """Change settings while running."""
        self._gate.set(**changes)

    async def listen(self) -> None:
        def connect() -> Connection:
            self.counts.connections += 1
            return Connection(self._desk, self.counts.connections)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(connect, sock=self._socket, backlog=4096)

    async def stop_listening(self) -> None:
        """Refuse new connections from now on, and keep the port. Open connections stay open."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._socket = await _bind_again(self.port)

    def drop_connections(self) -> None:
        """RST for everybody."""
        for connection in list(self._desk.connections):
            connection.reset()


def bind(port: int = 0) -> socket.socket:
    """A loopback port that is ours; connects are refused until somebody listens."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


async def _bind_again(port: int) -> socket.socket:
    """As ``bind``, for a port whose listening socket is just being closed by the loop."""
    async with asyncio.timeout(2):
        while True:
            try:
                return bind(port)
            except OSError:
                await asyncio.sleep(0.001)


async def serve(port: int, log: Path | None, settings: Settings) -> None:
    """Be the process: until SIGTERM or SIGINT."""
    async with ModelServer(port=port, log=log, settings=settings) as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A model server that answers from a script.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--settings", default="{}", help="JSON, see Settings")
    given = parser.parse_args()
    settings = msgspec.json.decode(given.settings, type=Settings)
    uvloop.run(serve(given.port, given.log, settings))


if __name__ == "__main__":
    main()
