"""What a process has cost so far, from /proc: memory, CPU time, and time it waited for a CPU."""

import os
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")
_NANO = 1e-9


class Cost(msgspec.Struct, frozen=True):
    """``high_water``: the most bytes resident since its start. ``waited`` is of the main thread."""

    high_water: int
    resident: int
    cpu: float
    waited: float


def cost_of(pid: int) -> Cost:
    folder = Path("/proc") / str(pid)
    status = dict(
        line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
    )
    # After the name in brackets, which may hold blanks: fields 14 and 15 of proc(5) are the times.
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return Cost(
        high_water=int(status["VmHWM"].split()[0]) * 1024,
        resident=int(status["VmRSS"].split()[0]) * 1024,
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
        waited=int((folder / "schedstat").read_text().split()[1]) * _NANO,
    )


def waited_by_all(pid: int) -> float:
    """How long threads of a process were ready to run and had no CPU, all of them together."""
    tasks = (Path("/proc") / str(pid) / "task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks) * _NANO
