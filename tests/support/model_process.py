"""The model server as a process of its own, driven from synchronous tests.

It can be killed, stopped like a hung machine (SIGSTOP) and started again on the same port; its log
goes on in the same file.
"""

import http.client
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tests.support.eventlog import Event, read_log
from tests.support.model_server import bind
from tests.support.model_settings import Counts, Settings

ROOT = Path(__file__).parents[2]


class ModelProcess:
    """Opened with ``with``, or with ``start`` when the server shall not be there at first."""

    def __init__(self, directory: Path, *, settings: Settings | None = None) -> None:
        self.log = directory / "model.events"
        self._errors = directory / "model.stderr"
        self._settings = settings or Settings()
        self._process: subprocess.Popen[str] | None = None
        with bind() as reserved:
            self.port: int = reserved.getsockname()[1]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return self.url + "/v1"

    @property
    def events(self) -> list[Event]:
        return read_log(self.log) if self.log.exists() else []

    def counts(self) -> Counts:
        return msgspec.json.decode(self._ask("GET", "/_counts"), type=Counts)

    def set(self, **changes: object) -> None:
        """Change settings while running; a restart starts with the first ones."""
        self._ask("POST", "/_settings", json.dumps(changes).encode())

    def start(self, *, within: float = 20) -> None:
        settings = msgspec.json.encode(self._settings).decode()
        command = [sys.executable, "-m", "tests.support.model_server", "--port", str(self.port)]
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, "--log", str(self.log), "--settings", settings],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], within)
        if not ready or self._process.stdout.readline().strip() != str(self.port):
            self.kill()
            raise AssertionError(f"The model server did not start: {self._errors.read_text()}")

    def kill(self) -> None:
        """SIGKILL. Nothing happens when it is not running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def pause(self) -> None:
        """Hang: connections are accepted by the kernel and nothing is ever answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "The model server is not running."
        os.kill(self._process.pid, number)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        assert response.status == 200, text
        return text
