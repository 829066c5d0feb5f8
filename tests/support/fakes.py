"""What tests put in the place of time, chance, the backend and a disk that fails.

Each does the work, only sooner or worse. SQLite and the file system are never faked.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from batchd.backends.limits import Limiter
from batchd.disk import Disk
from batchd.model import Failure, FailureKind, Outcome, Reply, RequestLine, Usage
from batchd.retry import Park

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


class FakeBackend:
    """Answers from a script: ``{"a": [BUSY, OK]}`` fails line a once, then answers it.

    ``gate`` holds every answer back until it is set.
    """

    def __init__(
        self,
        script: Mapping[str, Sequence[Outcome]] | None = None,
        *,
        slots: int = 4,
        open_gate: bool = True,
    ) -> None:
        self._script = {name: list(outcomes) for name, outcomes in (script or {}).items()}
        self.limiter = Limiter(max_in_flight=slots, requests_per_minute=0)
        self.note: str | None = None
        self.received: list[str] = []
        self.most_in_flight = 0
        self.parks: list[Park] = []
        self.on_send: Callable[[], None] = lambda: None
        self.gate = asyncio.Event()
        if open_gate:
            self.gate.set()

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        assert endpoint == "/v1/chat/completions"
        self.received.append(line.custom_id)
        self.most_in_flight = max(self.most_in_flight, self.limiter.in_flight)
        self.on_send()
        await asyncio.sleep(0)
        await self.gate.wait()
        outcomes = self._script.get(line.custom_id, [OK])
        return outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]

    def answered(self, *, ok: bool) -> None:
        self.note = None
        self.limiter.answered(ok=ok)

    async def recheck(self) -> bool:
        return False

    def park(self, park: Park) -> None:
        self.parks.append(park)
        self.note = park.reason
        self.limiter.park(park, asyncio.get_running_loop().time())
