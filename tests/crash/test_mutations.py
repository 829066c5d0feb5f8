"""The tests of crashes can fail: each bug of ``mutants`` turns tests red that are green without it.

Red for the right reason: something acknowledged was lost, or a line is torn, twice or sent again.
A crash of a test is no proof.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.simulation.many import run_histories
from tests.support import loop_disk, mutants

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
FIFTEEN_CUTS = (
    "tests/system/test_power_cut.py::test_fifteen_power_cuts_lose_nothing_that_was_acknowledged"
)
PAGE_CACHE = (
    "tests/system/test_power_cut.py::"
    "test_lines_that_a_killed_daemon_never_synced_are_on_the_disk_before_they_are_counted"
)
TORN = "tests/crash/test_torn_tail.py::test_a_torn_line_is_cut_off_before_the_next_one_is_written"
LIVES = (
    "tests/simulation/test_appender.py::"
    "test_what_was_receipted_is_durable_and_found_in_every_later_life"
)
REASON = re.compile(
    r"^E +((?:tests\.support\.promises\.Lost|tests\.support\.checker\.CheckFailed): .+"
    r"|tests\.support\.jobs\.Refused: 500: .+'file_corrupt'.+"
    r"|(?:AssertionError|Failed): (?:APPENDER_SEED=\d+: )?"
    r"(?:what was receipted is not durable|other lines are durable .+|a file was not cut back))$",
    re.MULTILINE,
)
# By this many histories each of the bugs has shown itself many times.
HISTORIES = 100

NO_POWER = loop_disk.missing("ext4")
NO_EATMYDATA = None if shutil.which("eatmydata") else "eatmydata is not installed"


def row(mutant: str, test: str, name: str, *why_not: str | None) -> ParameterSet:
    """A case; ``why_not``, which is given where root is needed, says why it can't be run here."""
    marks = [pytest.mark.skipif(why is not None, reason=str(why)) for why in why_not]
    root = [pytest.mark.root] if why_not else []
    return pytest.param(mutant, test, marks=[*root, *marks], id=f"{mutant}-{name}")


CAUGHT_BY = [
    row("no_fsync", f"{FIFTEEN_CUTS}[ext4]", "power-cuts", NO_POWER, NO_EATMYDATA),
    row("ack_before_sync", f"{FIFTEEN_CUTS}[ext4]", "power-cuts", NO_POWER),
    row("no_sync_of_recovered_data", f"{PAGE_CACHE}[ext4]", "power-cut", NO_POWER),
    row("no_tail_truncation", f"{TORN}[60-bytes]", "torn-tail"),
    *(row(mutant, LIVES, "simulated-lives") for mutant in mutants.BUGS),
]


@pytest.mark.parametrize(("mutant", "test"), CAUGHT_BY)
def test_a_planted_bug_turns_a_test_red(mutant: str, test: str) -> None:
    output = run_with(mutant, test)
    why = REASON.search(output)
    assert why is not None, f"{test} failed of something else:\n{output[-4000:]}"
    name = test.rpartition("::")[2]
    print(f"{mutant} | caught by {name} | {why[1][:120]}")  # noqa: T201 - to read


@pytest.mark.parametrize("mutant", mutants.BUGS)
def test_a_planted_bug_is_seen_in_simulated_histories(mutant: str) -> None:
    report = run_histories(range(HISTORIES), mutate=mutant)
    assert report.violations
    first = next(iter(report.violations.values()))
    print(f"{mutant} | caught by {len(report.violations)} of {HISTORIES} histories | {first}")  # noqa: T201 - to read


def run_with(mutant: str, test: str) -> str:
    """What pytest says of a test, which must fail, of a batchd with this bug."""
    done = subprocess.run(  # noqa: S603 - our own tests
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", test],
        cwd=ROOT,
        env=os.environ | {mutants.CHOICE: mutant},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout[-4000:]
    return done.stdout
