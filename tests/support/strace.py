"""Faults of the system, put under a program by strace.

strace counts for each thread on its own: the n-th call is that of the first thread that makes n of
them. A ``path`` need not exist yet.
"""

import functools
import shutil
import subprocess
from pathlib import Path

import pytest


def injecting(calls: str, fault: str, *, path: Path | None = None) -> list[str]:
    """What to put before a command: ``injecting("fdatasync", "error=EIO:when=3", path=…)``."""
    where = [] if path is None else ["-P", str(path)]
    # Then other calls take no longer than always; but with it no signal is ever sent.
    fast = [] if fault.startswith("signal=") else ["--seccomp-bpf"]
    trace = ["-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    return ["strace", "-f", *fast, "-qq", "-o", "/dev/null", *where, *trace]


def require() -> None:
    """Skip the test where strace is missing, or may trace nothing."""
    reason = _reason_against()
    if reason is not None:
        pytest.skip(reason)


@functools.cache
def _reason_against() -> str | None:
    program = shutil.which("strace")
    if program is None:
        return "strace is not installed"
    options = ["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fsync"]
    command = [program, *options, "true"]
    tried = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - a fixed command
    return None if tried.returncode == 0 else "strace may not trace here"
