"""How much of the core the simulation alone runs: coverage of four modules, one line for each.

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
MODULES = (
    "batchd/engine/runner.py",
    "batchd/ledger.py",
    "batchd/engine/recovery.py",
    "batchd/engine/finalizer.py",
)
HISTORIES = 120
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
        return 100 * self.branches_run / self.branches

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
        sys.stdout.write(f"{name:28}{covered}  {' '.join(missing)}\n")
    total = sum((covered for covered, _ in found.values()), Covered(0, 0, 0, 0))
    sys.stdout.write(f"{'all four':28}{total}\n")


if __name__ == "__main__":
    main()
