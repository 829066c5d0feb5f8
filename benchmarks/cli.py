"""What a command of a client costs before it does anything: CPU time, beside ``python -c pass``.

``python -m benchmarks.cli``: user and system time of the whole process as the kernel counts it,
over several runs. The least is judged, since all else that a machine does only adds to it; exit
code 1 if one is over the limit. The daemon that ``list`` asks is real, and has batches to list. On
a terminal it is measured too.
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
from typing import NamedTuple

from benchmarks.job import Client, write_input
from tests.support.batchd_process import BatchdProcess
from tests.support.model_process import ModelProcess

_LIMIT = 0.150  # seconds of CPU
_BARE = 0.014  # what ``python -c pass`` takes where that limit was set; a slower machine gets more
_RUNS = 21
_BATCHES = 20
_WINDOW = (24, 120)
_BATCHD = str(Path(sys.executable).with_name("batchd"))


class _Command(NamedTuple):
    name: str
    argv: tuple[str, ...]
    terminal: bool = False


_COMMANDS = (
    _Command("python -c pass", (sys.executable, "-c", "pass")),
    _Command("batchd --help", (_BATCHD, "--help")),
    _Command("batchd list", (_BATCHD, "list")),
    _Command("batchd list --json", (_BATCHD, "list", "--json")),
    _Command("batchd list (terminal)", (_BATCHD, "list"), terminal=True),
)


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
    """Each command in turn, so that what slows the machine down meets them all."""
    costs: dict[_Command, list[float]] = {command: [] for command in _COMMANDS}
    for number in range(runs + 1):
        for command, taken in costs.items():
            cost = _cpu(command.argv, environment, terminal=command.terminal)
            if number:  # the first finds what is compiled or cached once
                taken.append(cost)
    bare = min(costs[_COMMANDS[0]])
    limit = _LIMIT * max(1.0, bare / _BARE)
    _say(f"{f'CPU time of {runs} runs, ms':<32}{'least':>8}{'median':>8}{'ratio':>8}{'limit':>8}")
    within = True
    for command, taken in costs.items():
        least, median = 1000 * min(taken), 1000 * statistics.median(taken)
        _say(
            f"{command.name:<32}{least:>8.0f}{median:>8.0f}{min(taken) / bare:>8.1f}"
            f"{1000 * limit:>8.0f}"
        )
        within = within and min(taken) <= limit
    _say("within the limit" if within else "OVER THE LIMIT")
    return 0 if within else 1


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
