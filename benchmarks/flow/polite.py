"""How long somebody else's request takes beside a running batch, with polite mode and without.

    python -m benchmarks.flow.polite [--quick]

A real llama.cpp server with 4 slots, and a guest who asks it for a short answer, waits for it,
pauses a second, and asks again: first alone, then beside a batch that keeps the server full, then
beside the same batch with ``polite = true`` and ``polite_floor = 0``, then alone again. Printed is
what the guest's requests took; the first of each is among them, and meets a full server. It ends
with 1 if, with polite mode, the guest's 95th percentile is more than 1.5 times what it is alone
(the mean of before and after).
"""

import argparse
import contextlib
import http.client
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import msgspec

from benchmarks.flow.llama import LlamaServer, Options
from benchmarks.job import Client
from tests.support.batchd_process import BatchdProcess

_MOST = 1.5
_GUEST_TOKENS = 8
_LINE_TOKENS = 32
_PAUSE = 1.0
_LINES = 5000  # more than are run
_SLOTS = 4


class Guest(msgspec.Struct, frozen=True):
    """What the guest's requests took, in seconds and in their order."""

    name: str
    took: list[float]
    lines: int  # that the batch got done meanwhile
    seconds: float

    def at(self, share: float) -> float:
        """A percentile."""
        ordered = sorted(self.took)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def ask(port: int, number: int) -> float:
    """One request of the guest; the seconds it took."""
    body = {
        "model": LlamaServer.model,
        "max_tokens": _GUEST_TOKENS,
        "temperature": 0,
        "messages": [{"role": "user", "content": f"Guest {number}: name a colour."}],
    }
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body).encode())
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
        sys.exit(f"the guest was answered {answer.status}")
    return time.monotonic() - began


def visit(name: str, server: LlamaServer, requests: int, batch: "_Batch | None" = None) -> Guest:
    """The guest asks so many times."""
    began, before = time.monotonic(), batch.done() if batch else 0
    took: list[float] = []
    for number in range(requests):
        took.append(ask(server.port, number))
        time.sleep(_PAUSE)
    done = batch.done() - before if batch else 0
    return Guest(name, took, done, time.monotonic() - began)


class _Batch:
    """A batch that keeps the server full for as long as it runs."""

    def __init__(self, client: Client, batch_id: str) -> None:
        self._client = client
        self._id = batch_id

    def done(self) -> int:
        counts = self._client.batch(self._id)["request_counts"]
        return int(msgspec.convert(counts, dict[str, int])["completed"])


@contextlib.contextmanager
def running_batch(server: LlamaServer, directory: Path, *, polite: bool) -> Generator[_Batch]:
    """Inside, a daemon runs a batch on the server, and has begun with it."""
    directory.mkdir()
    path = directory / "input.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(_LINES):
            body = {
                "model": LlamaServer.model,
                "max_tokens": _LINE_TOKENS,
                "messages": [{"role": "user", "content": f"Tell a story about number {number}."}],
            }
            line = {"custom_id": str(number), "method": "POST", "body": body}
            file.write(json.dumps({**line, "url": "/v1/chat/completions"}) + "\n")
    backend = {
        "name": "llama",
        "base_url": server.base_url,
        "max_in_flight": 2 * _SLOTS,
        "polite": polite,
        "polite_floor": 0,
        "load_url": "auto",
    }
    with BatchdProcess(directory, settings={"backends": [backend]}) as batchd:
        client = Client(batchd.port)
        batch = _Batch(client, client.create(client.upload(path)))
        while batch.done() < 2 * _SLOTS:
            time.sleep(0.1)
        yield batch


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what polite mode does for others.")
    parser.add_argument("--quick", action="store_true", help="40 requests of the guest, not 60")
    parser.add_argument("--directory", type=Path, help="where to put files (default: a temporary)")
    given = parser.parse_args()
    requests = 40 if given.quick else 60
    directory = Path(tempfile.mkdtemp(prefix="batchd-polite-", dir=given.directory))
    try:
        with LlamaServer(Options(slots=_SLOTS), directory / "llama.log") as server:
            visit("", server, 3)
            guests = [visit("alone", server, requests)]
            for polite in (False, True):
                name = "polite" if polite else "not polite"
                with running_batch(server, directory / name, polite=polite) as batch:
                    guests.append(visit(name, server, requests, batch))
            guests.append(visit("alone again", server, requests))
    finally:
        shutil.rmtree(directory)
    before, beside, polite_guest, after = guests
    idle = (before.at(0.95) + after.at(0.95)) / 2
    say(f"{'guest':14}{'n':>4}{'first s':>9}{'p50 s':>8}{'p95 s':>8}{'/ alone':>9}{'lines/s':>9}")
    for guest in guests:
        say(
            f"{guest.name:14}{len(guest.took):4}{guest.took[0]:9.2f}{guest.at(0.5):8.2f}"
            f"{guest.at(0.95):8.2f}{guest.at(0.95) / idle:9.2f}{guest.lines / guest.seconds:9.2f}"
        )
    if polite_guest.at(0.95) > _MOST * idle:
        say(f"broken: with polite mode the guest waits more than {_MOST} times as long")
        return 1
    say(f"without polite mode: {beside.at(0.95) / polite_guest.at(0.95):.1f} times as long")
    return 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
