"""What a command of a client costs before it does anything: CPU time, beside ``python -c pass``.

``python -m benchmarks.cli``: medians of several runs, user and system time of the whole process as
the kernel counts it; exit code 1 if one is over the limit. The daemon that ``list`` asks is real,
and has batches to list. On a terminal it is measured too.
"""

import argparse
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import termios
from collections.abc import Sequence
from pathlib import Path

from benchmarks.job import Client, write_input
from tests.support.batchd_process import BatchdProcess
from tests.support.model_process import ModelProcess

_LIMIT = 0.150  # seconds of CPU
_RUNS = 21
_BATCHES = 20
_WINDOW = (24, 120)
_BATCHD = str(Path(sys.executable).with_name("batchd"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=_RUNS)
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            ModelProcess(directory) as model,
            BatchdProcess(directory / "batchd", backend=model.base_url) as batchd,
        ):
            _fill(batchd.port, directory)
            environment = os.environ | {"BATCHD_URL": batchd.url}
            return _measure(environment, runs)


def _fill(port: int, directory: Path) -> None:
    client = Client(port)
    write_input(directory / "in.jsonl", count=2, line_size=400)
    file_id = client.upload(directory / "in.jsonl")
    for _ in range(_BATCHES):
        client.create(file_id)


def _measure(environment: dict[str, str], runs: int) -> int:
    python = [sys.executable, "-c", "pass"]
    bare = _median(python, environment, runs)
    _say(f"{'CPU time, median of ' + str(runs):<32}{'ms':>8}{'ratio':>8}{'limit ms':>10}")
    _say(f"{'python -c pass':<32}{1000 * bare:>8.0f}{1:>8.1f}")
    within = True
    for args, terminal in (
        (["--help"], False),
        (["list"], False),
        (["list", "--json"], False),
        (["list"], True),
    ):
        cost = _median([_BATCHD, *args], environment, runs, terminal=terminal)
        called = " ".join(["batchd", *args]) + (" (terminal)" if terminal else "")
        _say(f"{called:<32}{1000 * cost:>8.0f}{cost / bare:>8.1f}{1000 * _LIMIT:>10.0f}")
        within = within and cost <= _LIMIT
    _say("within the limit" if within else "OVER THE LIMIT")
    return 0 if within else 1


def _median(
    command: Sequence[str], environment: dict[str, str], runs: int, *, terminal: bool = False
) -> float:
    _cpu(command, environment, terminal=terminal)  # what is compiled or cached once
    return statistics.median(_cpu(command, environment, terminal=terminal) for _ in range(runs))


def _cpu(command: Sequence[str], environment: dict[str, str], *, terminal: bool) -> float:
    """User and system time of one run, and of what it started."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(theirs, _WINDOW)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command, env=environment, stdin=subprocess.DEVNULL, stdout=theirs
        )
        _, status, usage = os.wait4(process.pid, 0)  # its output fits into the pipe
    finally:
        os.close(ours)
        os.close(theirs)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
