"""How much of the core the simulation alone runs: coverage by module, one line for each.

    python -m tests.simulation.branches [HISTORIES]

A process of its own, so that nothing but histories and scripts runs. Branches are counted as
coverage.py does: the ways out of every line that has more than one.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import coverage
import msgspec

ROOT = Path(__file__).parents[2]
# What decides what becomes of a line: held to the highest share.
CORE = (
    "batchd/engine/runner.py",
    "batchd/ledger.py",
    "batchd/engine/recovery.py",
    "batchd/engine/finalizer.py",
)
# Which line goes next.
TURNS = (
    "batchd/engine/scheduler.py",
    "batchd/engine/rounds.py",
    "batchd/engine/queue.py",
)
# Where it goes: shown. That is the unit tests' to cover.
BACKENDS = tuple(
    f"batchd/backends/{name}.py"
    for name in ("pool", "backend", "lane", "parking", "pulse", "capacity", "calls")
)
# What clients ask for: shown, too.
USES = ("batchd/batches.py", "batchd/steering.py", "batchd/again.py", "batchd/creation.py")
MODULES = CORE + TURNS + BACKENDS + USES
HISTORIES = 120
WIDTH = 31  # of a name, as printed
_FIRST = 1_000_000


class Covered(msgspec.Struct, frozen=True):
    """Of one module or several: branches and lines, all and run."""

    branches: int
    branches_run: int
    lines: int
    lines_run: int

    def __add__(self, other: "Covered") -> "Covered":
        return Covered(
            self.branches + other.branches,
            self.branches_run + other.branches_run,
            self.lines + other.lines,
            self.lines_run + other.lines_run,
        )

    @property
    def percent(self) -> float:
        """Of branches."""
        return 100 * self.branches_run / self.branches if self.branches else 100.0

    def __str__(self) -> str:
        return (
            f"{self.percent:5.1f} % of branches ({self.branches_run} of {self.branches}), "
            f"{self.lines_run} of {self.lines} lines"
        )


def measure(histories: int) -> dict[str, tuple[Covered, list[str]]]:
    """By module: what ran, and the branches that did not."""
    measured = coverage.Coverage(
        data_file=None,
        branch=True,
        include=[str(ROOT / name) for name in MODULES],
        config_file=False,
    )
    measured.start()
    # Only now: they import what is measured.
    from tests.simulation.many import run_chunk, run_scripts  # noqa: PLC0415

    run_scripts()
    run_chunk(range(_FIRST, _FIRST + histories))
    measured.stop()
    with TemporaryDirectory() as directory:
        path = Path(directory) / "coverage.json"
        measured.json_report(outfile=str(path))
        found = json.loads(path.read_text(encoding="utf-8"))
    return {
        str(Path(name).relative_to(ROOT)) if Path(name).is_absolute() else name: _covered(file)
        for name, file in found["files"].items()
    }


def _covered(file: dict[str, dict[str, int]]) -> tuple[Covered, list[str]]:
    summary = file["summary"]
    covered = Covered(
        summary["num_branches"],
        summary["covered_branches"],
        summary["num_statements"],
        summary["covered_lines"],
    )
    return covered, [f"{start}->{end}" for start, end in file["missing_branches"]]


def main() -> None:
    histories = int(sys.argv[1]) if len(sys.argv) > 1 else HISTORIES
    found = measure(histories)
    for name, (covered, missing) in found.items():
        sys.stdout.write(f"{name:{WIDTH}}{covered}  {' '.join(missing)}\n")
    total = sum((found[name][0] for name in CORE), Covered(0, 0, 0, 0))
    sys.stdout.write(f"{'the core':{WIDTH}}{total}\n")


if __name__ == "__main__":
    main()
