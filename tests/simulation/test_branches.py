"""The simulation runs nearly every branch of the modules that it is there for."""

import subprocess
import sys

import pytest

from tests.simulation.branches import CORE, MODULES, ROOT, TURNS, WIDTH

PERCENT = 95.0
TURNS_PERCENT = 90.0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_simulation_alone_runs_nearly_every_branch_of_the_core(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.branches"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with capsys.disabled():
        print(f"\n{done.stdout}", end="")  # noqa: T201 - the figures are the result
    found = {
        line[:WIDTH].strip(): float(line[WIDTH : WIDTH + 6]) for line in done.stdout.splitlines()
    }
    assert set(found) == {*MODULES, "the core"}
    floors = dict.fromkeys(CORE, PERCENT) | dict.fromkeys(TURNS, TURNS_PERCENT)
    assert {name: found[name] for name, floor in floors.items() if found[name] < floor} == {}
