"""How long a killed daemon takes to serve again, with large batches half done.

Prepares a storage directory, starts the real daemon on it and takes the time from before the fork
to `READY=1` on its notification socket. Beside that stands what this machine needs to read the same
files and do nothing with them. It ends with 1 if a limit is broken or a result is missing.
"""

import argparse
import asyncio
import compileall
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

import batchd
from benchmarks.half_done import HalfDone, prepare
from benchmarks.job import Client
from benchmarks.page_cache import cached, drop, read_rate
from benchmarks.process_cost import cost_of, waited_by_all
from benchmarks.tables import megabytes
from tests.support.batchd_process import BatchdProcess
from tests.support.model_process import ModelProcess

_NO_MODEL_SERVER = "http://127.0.0.1:9/v1"
_LONGEST_START = 120.0
_LONGEST_RUN = 120.0
_LOGGED = re.compile(r"ledgers_read batches=(\d+) lines=(\d+) bytes=(\d+) seconds=([\d.]+)")


class Case(msgspec.Struct, frozen=True):
    """Batches to be found half done, and the limit on a start in seconds."""

    name: str
    batches: int
    lines: int
    limit: float
    starts: int

    @property
    def done(self) -> int:
        return self.batches * (self.lines // 2)


EMPTY = Case("empty", 0, 0, 1.0, 3)
LARGE = Case("large", 1, 50_000, 1.0, 3)
MANY = Case("many", 1, 1_000_000, 10.0, 2)
HUNDRED = Case("hundred", 100, 10_000, 10.0, 2)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One start. ``recovery`` is the part that the daemon itself says it needed for the ledgers.

    ``waited``: how long it could have run and had no CPU, since other programs did.
    """

    is_cold: bool
    ready: float
    recovery: float
    lines: int
    bytes: int
    cpu: float
    waited: float

    @property
    def alone(self) -> float:
        """What it would have taken with a CPU to itself."""
        return self.ready - self.waited


class Disk(msgspec.Struct, frozen=True):
    """What reading the same files takes without looking at them, in bytes per second."""

    cold: float
    warm: float
    is_dropped: bool


class Manager:
    """Starts the daemon as a service manager does: it listens for what the daemon tells it."""

    def __init__(self, directory: Path) -> None:
        address = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        self._socket.settimeout(1)
        self.batchd = BatchdProcess(
            directory, backend=_NO_MODEL_SERVER, environment={"NOTIFY_SOCKET": str(address)}
        )

    def start(self, *, is_cold: bool) -> Start:
        """One start; the daemon runs when this returns."""
        self.batchd.log.unlink(missing_ok=True)
        began = time.monotonic()
        self.batchd.launch()
        while self._hear() != "READY=1":
            if self.batchd.exit_code is not None or time.monotonic() > began + _LONGEST_START:
                self.batchd.kill()
                raise RuntimeError(f"batchd does not start:\n{self.batchd.log_text()[-4000:]}")
        ready = time.monotonic() - began
        cost, waited = cost_of(self.batchd.pid), waited_by_all(self.batchd.pid)
        logged = _LOGGED.search(self.batchd.log_text())
        _, lines, size, recovery = logged.groups() if logged else (0, 0, 0, 0)
        return Start(
            is_cold=is_cold,
            ready=ready,
            recovery=float(recovery),
            lines=int(lines),
            bytes=int(size),
            cpu=cost.cpu,
            waited=waited,
        )

    def close(self) -> None:
        self.batchd.kill()
        self._socket.close()

    def _hear(self) -> str:
        try:
            return self._socket.recv(4096).decode()
        except TimeoutError:
            return ""


def measure(case: Case, directory: Path, *, finish: bool) -> list[str]:
    """Run one case in an empty directory, print its rows, and say what was broken."""
    began = time.monotonic()
    found = asyncio.run(prepare(directory / "state", batches=case.batches, lines=case.lines))
    took = time.monotonic() - began
    manager = Manager(directory)
    try:
        disk = _disk(found)
        say(head(case, found, disk, took))
        starts: list[Start] = []
        for number in range(case.starts):
            # The first start also cuts the torn tail; every other finds what the one before left.
            is_cold = number < case.starts - 1
            if is_cold:
                drop(found.ledgers)
            starts.append(manager.start(is_cold=is_cold))
            manager.batchd.kill()
            say(row(starts[-1], disk))
        faults = broken(case, starts)
        if finish:
            faults += _finish(case, manager.batchd, found.batch_ids[0])
    finally:
        manager.close()
    return faults


def _disk(found: HalfDone) -> Disk:
    if not found.ledgers:
        return Disk(0, 0, is_dropped=True)
    drop(found.ledgers)
    left = cached(max(found.ledgers, key=lambda path: path.stat().st_size))
    drop(found.ledgers)
    return Disk(
        read_rate(found.ledgers),
        read_rate(found.ledgers),
        is_dropped=left is not None and left < 0.1,  # noqa: PLR2004 - looking fetches some
    )


def _finish(case: Case, batchd: BatchdProcess, batch_id: str) -> list[str]:
    """Let a model server answer the other half; every request must stand there exactly once."""
    with ModelProcess(batchd.directory) as model:
        model.log = Path("/dev/null")
        batchd.configure(backend=model.base_url, settings={})
        batchd.start()
        client = Client(batchd.port)
        deadline = time.monotonic() + _LONGEST_RUN
        while client.batch(batch_id)["status"] != "completed":
            if time.monotonic() > deadline:
                return [f"{case.name}: the other half was not done within {_LONGEST_RUN:.0f} s"]
            time.sleep(0.1)
        results = client.results(batch_id, case.lines)
    say(
        f"the other half run: {results.lines:,} lines; requests that stand there exactly once: "
        f"{results.once:,} of {case.lines:,}"
    )
    if results.lines == results.once == case.lines:
        return []
    return [f"{case.name}: the result files do not hold every request exactly once"]


def head(case: Case, found: HalfDone, disk: Disk, prepared: float) -> str:
    """What was found, what the disk can do, and the names of the columns."""
    lines = [f"\n== {case.name}: {_what(case)} (prepared in {prepared:.1f} s)"]
    if found.ledgers:
        state = "not in memory" if disk.is_dropped else "perhaps still in memory: not cold"
        lines.append(
            f"result files: {len(found.ledgers)} with {megabytes(found.bytes)}; only reading them "
            f"takes {found.bytes / disk.cold:.2f} s ({state}), and "
            f"{found.bytes / disk.warm:.2f} s from memory"
        )
    lines.append(
        f"{'start':<6}{'ready s':>9}{'recovery s':>12}{'MB/s':>7}{'lines/s':>10}"
        f"{'disk MB/s':>11}{'ratio':>7}{'CPU s':>7}{'waited s':>10}{'alone s':>9}"
    )
    return "\n".join(lines)


def _what(case: Case) -> str:
    if not case.batches:
        return "no batch, the floor"
    what = f"{case.lines:,} lines half done"
    return what if case.batches == 1 else f"{case.batches} batches of {what} each"


def row(start: Start, disk: Disk) -> str:
    """One start, beside what the disk can do."""
    name = "cold" if start.is_cold else "warm"
    line = f"{name:<6}{start.ready:>9.2f}"
    if not start.recovery:
        return f"{line}{'-':>12}{'-':>7}{'-':>10}{'-':>11}{'-':>7}{_cost(start)}"
    limit = disk.cold if start.is_cold else disk.warm
    rate = start.bytes / start.recovery
    return (
        f"{line}{start.recovery:>12.2f}{rate / 1e6:>7.0f}{start.lines / start.recovery:>10,.0f}"
        f"{limit / 1e6:>11,.0f}{rate / limit:>7.2f}{_cost(start)}"
    )


def _cost(start: Start) -> str:
    return f"{start.cpu:>7.2f}{start.waited:>10.2f}{start.alone:>9.2f}"


def broken(case: Case, starts: Sequence[Start]) -> list[str]:
    """Which limits were broken, as sentences."""
    found: list[str] = []
    if any(start.lines != case.done for start in starts):
        found.append(f"{case.name}: not every line that was done was found to be done")
    best = min(start.alone for start in starts)
    if best >= case.limit:
        found.append(f"{case.name}: no start took less than {case.limit:.0f} s: {best:.2f} s alone")
    return found


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how fast batchd serves after a kill.")
    parser.add_argument("--quick", action="store_true", help="50,000 lines only")
    parser.add_argument("--directory", type=Path, help="where to put files (default: a temporary)")
    given = parser.parse_args()
    # As after an installation, whatever PYTHONDONTWRITEBYTECODE says.
    compileall.compile_dir(Path(batchd.__file__).parent, quiet=1)
    faults: list[str] = []
    for case in [EMPTY, LARGE] if given.quick else [EMPTY, LARGE, MANY, HUNDRED]:
        directory = Path(tempfile.mkdtemp(prefix="batchd-benchmark-", dir=given.directory))
        try:
            faults += measure(case, directory, finish=case is LARGE)
        finally:
            shutil.rmtree(directory)
    for fault in faults:
        say(f"BROKEN: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
