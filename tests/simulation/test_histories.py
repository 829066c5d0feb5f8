"""Thousands of histories of batchd's core, each with its crashes, in virtual time.

``SIM_SEED`` is the first seed, ``SIM_HISTORIES`` how many follow: with 1, one history is run again.
Without them the histories are always the same; ``make simulate`` draws others.
"""

import os

import pytest

from tests.simulation.many import run_chunk, run_histories
from tests.simulation.plan import LEAST_LINES

HISTORIES = 2000
FIRST_SEED = 1
TWICE = 20

# How often each must have happened in so many histories at least: about half of what it was in
# several runs. A mix in which something never happens proves nothing about it.
AT_LEAST = {
    "kills": 500,
    "power cuts": 700,
    "deaths": 200,
    "stops": 150,
    "lines in flight at an end": 3000,
    "ends before all was read back": 100,
    "ends while validating": 100,
    "ends while in_progress": 1000,
    "ends while finalizing": 70,
    "ends while cancelling": 25,
    "completed": 1200,
    "expired": 40,
    "failed": 40,
    "cancelled": 300,
    "cancelled while finalizing": 60,
    "deleted inputs": 120,
    "lost inputs": 25,
    "full disks": 200,
    "commits without room": 25,
    "failed syncs": 80,
    "failed syncs at a start": 120,
    "failed syncs of a directory": 25,
    "failed writes": 25,
    "failed commits": 25,
    "passing errors": 200,
    "jumps of the clock": 80,
    "flipped bits": 5,
    "cut files": 5,
    "lost files": 5,
    "repeated lines": 5,
    "outages": 100,
    "refused keys": 40,
    "refused accesses": 25,
    "used-up quotas": 25,
    "answered 400": 700,
    "answered 429": 800,
    "answered 503": 300,
    "answered timeout": 300,
    "histories with 4 in flight or more": 1500,
    "hangs": 50,
    "drains": 60,
    "floods of 429": 90,
    "slow times": 100,
    "guests": 200,
    "hints to wait": 500,
    "limits told: plenty": 3000,
    "limits told: little": 3000,
    "limits told: closing": 300,
    "lines broken off": 160,
    "lines sent beside many guests": 400,
    "looks at the load": 2000,
    "reloads": 400,
    "refused reloads": 40,
    "servers left out": 110,
    "servers in flight at a reload": 300,
    "pieces of an order": 4000,
    "orders not read": 20,
    "lost orders": 3,
    "faults on record at a start": 900,
    "answered 404": 60,
    "acknowledged: pause": 700,
    "acknowledged: resume": 500,
    "acknowledged: priority": 250,
    "pauses taken note of": 600,
    "ends while paused": 150,
    "creates asked for again": 500,
    "retries": 250,
    "retries asked for again": 40,
    "refused retries": 300,
    "dropped files": 250,
    "delivered files": 250,
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_thousands_of_histories_with_crashes_keep_every_promise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = _first_seed()
    count = int(os.environ.get("SIM_HISTORIES") or HISTORIES)
    report = run_histories(range(first, first + count))
    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201 - what it was is told even if all is well
    print(report.rare)  # noqa: T201 - shown if this fails
    assert not report.violations, report.complaint
    assert report.histories == count
    assert report.fewest_lines >= LEAST_LINES
    assert report.fewest_crashes >= 1
    if count >= HISTORIES:
        seldom = {what: report.tally[what] for what in AT_LEAST}
        assert not [what for what, least in AT_LEAST.items() if seldom[what] < least], seldom


@pytest.mark.allow_blocking(reason="its loop is virtual, and waits for nobody")
def test_a_seed_is_the_same_history_every_time_and_in_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = _first_seed()
    seeds = range(first, first + TWICE)
    here = {told.seed: told.trace for told in run_chunk(seeds)}
    again = {told.seed: told.trace for told in run_chunk(seeds)}
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    elsewhere = run_histories(seeds).traces
    assert here == again == elsewhere
    assert len(set(here.values())) == TWICE


def _first_seed() -> int:
    seed = int(os.environ.get("SIM_SEED") or FIRST_SEED)
    print(f"SIM_SEED={seed}")  # noqa: T201 - to see the same histories again
    return seed
