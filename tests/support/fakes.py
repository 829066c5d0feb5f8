"""What tests put in the place of time, chance, the backend and a disk that fails.

Each does the work, only sooner or worse. SQLite and the file system are never faked.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from batchd.backends.caller import Caller
from batchd.backends.models import ListedModel
from batchd.backends.pool import Pool
from batchd.config import BackendConfig
from batchd.disk import Disk
from batchd.model import Failure, FailureKind, Outcome, Reply, RequestLine, Usage

START = 1_800_000_000

ANSWER = b'{"usage":{"prompt_tokens":2,"completion_tokens":3}}'
OK = Reply(status_code=200, request_id="req_1", body=ANSWER, usage=Usage(2, 0, 3, 0, 5))
REFUSED = Reply(status_code=400, request_id="req_1", body=b'{"error":{}}')
BUSY = Reply(status_code=503, request_id="req_1", body=b'{"error":{}}')
# Asks to wait for no time at all, so that a test need not.
THROTTLED = Reply(status_code=429, request_id="req_1", body=b'{"error":{}}', hint=0.0)
TIMED_OUT = Failure(FailureKind.TIMEOUT)
UNREACHABLE = Failure(FailureKind.UNREACHABLE)


class Clock:
    """The clock on the wall, moved by hand."""

    def __init__(self, at: float = START) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Draws:
    """Chance, as a count."""

    def __init__(self) -> None:
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        self._drawn += 1
        return self._drawn.to_bytes(size, "big")


class HastyDisk(Disk):
    """A disk for tests that do not ask what a power cut leaves: it syncs nothing."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


class TroubledDisk(HastyDisk):
    """A disk that runs full, fails, or writes in small pieces, and remembers in which order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.room: int | None = None
        self.looks = 0  # at the free room
        self.fails: dict[str, OSError] = {}
        self.before_sync: Callable[[], None] = lambda: None

    def open_append(self, path: Path) -> int:
        self._fail("open")
        return super().open_append(path)

    def append(self, descriptor: int, data: bytes) -> None:
        self._fail("append")
        self.log.append("write")
        fits = data if self.room is None else data[: self.room]
        super().append(descriptor, fits)
        if self.room is not None:
            self.room -= len(fits)
            if len(fits) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self, descriptor: int) -> None:
        self.before_sync()
        self._fail("sync")
        super().sync(descriptor)
        self.log.append("sync")

    def truncate(self, descriptor: int, size: int) -> None:
        self.log.append("truncate")
        super().truncate(descriptor, size)

    def free(self, path: Path) -> int:
        self.looks += 1
        return super().free(path) if self.room is None else self.room

    def _fail(self, operation: str) -> None:
        if operation in self.fails:
            raise self.fails[operation]


class FakeCaller:
    """A model server that answers from a script: ``{"a": [BUSY, OK]}`` fails line a once.

    ``gate`` holds every answer back until it is set; ``alive`` is whether it answers otherwise.
    """

    def __init__(
        self, script: Mapping[str, Sequence[Outcome]] | None = None, *, open_gate: bool = True
    ) -> None:
        self._script = {name: list(outcomes) for name, outcomes in (script or {}).items()}
        self.received: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.on_send: Callable[[], None] = lambda: None
        self.listed: list[ListedModel] | None = [ListedModel("m")]
        self.alive = True
        self.has_new_key = False
        self.gate = asyncio.Event()
        if open_gate:
            self.gate.set()

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        assert endpoint == "/v1/chat/completions"
        self.received.append(line.custom_id)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.on_send()
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
        finally:
            self.in_flight -= 1
        outcomes = self._script.get(line.custom_id, [OK])
        return outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]

    async def models(self) -> list[ListedModel] | None:
        return self.listed

    async def is_alive(self) -> bool:
        return self.alive

    async def reload_key(self) -> bool:
        return self.has_new_key

    async def fetch(self, url: str) -> tuple[str, bytes] | None:  # noqa: ARG002 - has no pages
        return "", b""


def config_of(name: str = "backend", **settings: Any) -> BackendConfig:
    """Settings of a backend; ``max_in_flight`` is 4 unless said."""
    given: dict[str, Any] = {"base_url": f"http://{name}/v1", "max_in_flight": 4, **settings}
    return BackendConfig(name=name, **given)


def pool_of(callers: Mapping[str, Caller], *, monotonic: Callable[[], float] | None = None) -> Pool:
    """A pool whose backends' servers are fakes, by name; empty until ``replace`` fills it."""

    def open_caller(config: BackendConfig) -> contextlib.AbstractAsyncContextManager[Caller]:
        return contextlib.nullcontext(callers[config.name])

    return Pool(
        open_caller,
        now=lambda: START,
        monotonic=monotonic or (lambda: asyncio.get_running_loop().time()),
        kept={},
        ceiling=256,
    )
