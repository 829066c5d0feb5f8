"""One daemon as a benchmark drives it: with a key or without, watched while it works."""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator

import msgspec

from benchmarks.job import Client

TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})


class Lane(msgspec.Struct, frozen=True):
    """What the daemon tells of one model on one backend."""

    model: str = ""
    in_flight: int = 0
    limit: int | None = None
    settled: bool = False
    reason: str | None = None
    throughput: float | None = None


class _Backend(msgspec.Struct, frozen=True):
    name: str = ""
    lanes: list[Lane] = []


class _Backends(msgspec.Struct, frozen=True):
    data: list[_Backend] = []


class RequestCounts(msgspec.Struct, frozen=True):
    total: int
    completed: int
    failed: int


class Batch(msgspec.Struct, frozen=True):
    id: str
    status: str
    request_counts: RequestCounts


class FlowClient(Client):
    def __init__(self, port: int, key: str = "") -> None:
        super().__init__(port)
        self._key = key

    def look(self, batch_id: str) -> Batch:
        return msgspec.convert(self.batch(batch_id), Batch)

    def lanes(self) -> dict[str, list[Lane]]:
        """Of each backend, by its name."""
        answer = msgspec.convert(self._call("GET", "/v1/backends", None, {}), _Backends)
        return {backend.name: backend.lanes for backend in answer.data}

    def wait(
        self,
        batch_id: str,
        *,
        within: float,
        every: float = 0.2,
        until: Callable[[Batch], bool] = lambda _: False,
    ) -> Batch:
        """Look at it again and again, until its end or until ``until`` says so."""
        deadline = time.monotonic() + within
        while True:
            batch = self.look(batch_id)
            if batch.status in TERMINAL or until(batch):
                return batch
            if time.monotonic() > deadline:
                raise RuntimeError(f"{batch_id} is {batch.status} after {within:g} s: {batch}")
            time.sleep(every)

    def _call(
        self, method: str, path: str, body: Iterator[bytes] | bytes | None, headers: dict[str, str]
    ) -> dict[str, object]:
        if self._key:
            headers = {**headers, "Authorization": f"Bearer {self._key}"}
        return super()._call(method, path, body, headers)


def new_key(name: str) -> tuple[str, str]:
    """A key, and its line in the file of keys."""
    key = f"bd-{secrets.token_urlsafe(32)}"
    return key, f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"
