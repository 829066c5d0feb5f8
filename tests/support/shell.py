"""`batchd` as people run it: at a terminal, in a pipe, with Ctrl-C."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 30.0


class Shell:
    """One `batchd` at the other end of a terminal or a pipe."""

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int) -> None:
        self.process = process
        self.seen = ""
        self._terminal = terminal

    def until(self, text: str, within: float = LIMIT) -> None:
        """Read what is shown until ``text`` was."""
        deadline = time.monotonic() + within
        while text not in self.seen:
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} was not shown, but: {self.seen}"
            self.seen += os.read(self._terminal, 65536).decode()

    def to_the_end(self) -> None:
        while piece := os.read(self._terminal, 65536):
            self.seen += piece.decode()

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def code(self) -> int:
        return self.process.wait(LIMIT)


@contextmanager
def shell(
    url: str, *args: str | Path, stdout: int | None = None, terminal: bool = True
) -> Generator[Shell]:
    """A command line that runs; what it shows is read as a person would."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    env = os.environ | {"BATCHD_URL": url, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "batchd", *map(str, args)]
    with subprocess.Popen(  # noqa: S603 - our own program
        command, stdin=subprocess.DEVNULL, stdout=stdout or theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        try:
            yield Shell(process, ours)
        finally:
            process.kill()
            os.close(ours)


def batchd(url: str, *args: str | Path) -> "subprocess.CompletedProcess[str]":
    """A command line that has ended."""
    command = [sys.executable, "-m", "batchd", *map(str, args)]
    env = os.environ | {"BATCHD_URL": url}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)  # noqa: PLW1510, S603 - the code is looked at; our own program
