"""A virtual GPU server as a process of its own, driven from a benchmark.

It can be killed, stopped like a hung machine, told to drain, and started again on the same port;
its record goes on in the same file.
"""

import http.client
import json
import math
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.flow.gpu_settings import GpuCounts, GpuSettings
from benchmarks.flow.record import Served, read_record
from tests.support.model_server import bind

_ROOT = Path(__file__).parents[2]
_READY_WITHIN = 20.0


class GpuProcess:
    """Opened with ``with``."""

    def __init__(self, directory: Path, settings: GpuSettings, name: str = "gpu") -> None:
        self.name = name
        self.settings = settings
        self.record = directory / f"{name}.record"
        self._errors = directory / f"{name}.stderr"
        self._process: subprocess.Popen[str] | None = None
        self._draining: list[subprocess.Popen[str]] = []
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
        for process in self._draining:
            _end(process)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        settings = msgspec.json.encode(self.settings).decode()
        command = [sys.executable, "-m", "benchmarks.flow.virtual_gpu", "--port", str(self.port)]
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, "--record", str(self.record), "--settings", settings],
                cwd=_ROOT,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        if not self._said_its_port():
            self.kill()
            raise RuntimeError(f"the virtual GPU did not start: {self._errors.read_text()}")

    def kill(self) -> None:
        """SIGKILL. Nothing happens when it is not running."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def drain(self) -> None:
        """SIGTERM, and wait for nothing: it may now be started again beside the one that ends."""
        self._signal(signal.SIGTERM)
        if self._process is not None:
            self._draining.append(self._process)
            self._process = None

    def hang(self) -> None:
        """Connections are accepted by the kernel and nothing is ever answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def counts(self) -> GpuCounts:
        return msgspec.json.decode(self._ask("GET", "/_counts"), type=GpuCounts)

    def set(self, **changes: object) -> None:
        """Change settings while running; a restart starts with the first ones."""
        self._ask("POST", "/_settings", json.dumps(changes).encode())

    def served(self, since: float = -math.inf) -> list[Served]:
        return read_record(self.record, since)

    def _said_its_port(self) -> bool:
        out = self._process.stdout if self._process is not None else None
        if out is None:
            return False
        ready, _, _ = select.select([out], [], [], _READY_WITHIN)
        return bool(ready) and out.readline().strip() == str(self.port)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{method} {path}: {response.status} {text.decode()}")
        return text


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
