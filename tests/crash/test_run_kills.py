"""``batchd run`` killed -9 and run again: each line once, and only lines in flight are sent twice.

The model server is a process of its own with a log of its own, so that it can say what was really
sent before and after each kill.
"""

import os
import random
import secrets
import time
from pathlib import Path

import pytest

from tests.support.checker import check
from tests.support.deaths import Deaths, started
from tests.support.jobs import request_line
from tests.support.model_process import ModelProcess
from tests.support.run_process import RunProcess
from tests.support.waiting import wait_until

LINES = 50_000
KILLS = 5
# Answers that the model server has given when the last kill is due.
LAST_KILL = 46_000
FEW = 5_000  # lines; enough for the beginning to take a while
SLOTS = 32
REFUSED_EVERY = 1000


class Answers:
    """How many answers the model server has given, from what its log has grown by.

    To ask the server itself hundreds of times a second would slow it down.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0
        self._ended = 0

    def count(self) -> int:
        with self._log.open("rb") as log:
            log.seek(self._read)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        self._ended += whole.count(b'"event":"end"')
        return self._ended


def many_lines(count: int) -> bytes:
    return b"".join(
        request_line(f"line-{number}", None if number % REFUSED_EVERY else "400")
        for number in range(count)
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_50_000_lines_killed_five_times_are_complete_and_only_lines_in_flight_are_sent_again(
    model_process: ModelProcess, tmp_path: Path
) -> None:
    seed = int(os.environ.get("KILL_SEED") or secrets.randbelow(1 << 32))
    print(f"KILL_SEED={seed}")  # noqa: T201 - to see the same kills again
    chance = random.Random(seed)  # noqa: S311 - when to kill
    points = sorted(chance.randrange(LAST_KILL) for _ in range(KILLS))
    model_process.set(delay=0.01)
    answers = Answers(model_process.log)
    run = RunProcess(tmp_path, model_process.base_url)
    run.input.write_bytes(many_lines(LINES))
    deaths = Deaths(model_process)
    began = time.monotonic()
    for point in points:
        run.start("--max-in-flight", str(SLOTS))
        wait_until(lambda at=point: answers.count() >= at, within=60)
        wait_until(lambda: model_process.counts().in_flight >= SLOTS // 2, within=30)
        run.kill()
        death = deaths.note(run.recorded())
        assert death.aborted <= death.unrecorded
        assert 0 < len(death.unrecorded) <= 2 * SLOTS
        assert not run.output.exists()
    ended = run.run("--max-in-flight", str(SLOTS), "--json", within=120)
    took = time.monotonic() - began
    assert ended.code == 0, ended.err
    sent_again = deaths.check_sent_again()
    summary = check(run.account(ended.batch), log=deaths.events, resent_allowed=deaths.in_flight)
    refused = LINES // REFUSED_EVERY
    assert (summary.output_lines, summary.error_lines) == (LINES - refused, refused)
    assert len(started(deaths.events)) <= LINES + sent_again
    assert not run.state.exists()
    print(  # noqa: T201 - to read
        f"{KILLS} kills at {points} answers, {took:.1f} s: {LINES} lines, 0 lost, 0 duplicated, "
        f"{deaths.in_flight} in flight at the kills, {sent_again} sent again"
    )


@pytest.mark.timeout(60)
def test_a_kill_at_any_stage_of_the_beginning_is_followed_by_a_whole_run(
    model_process: ModelProcess, tmp_path: Path
) -> None:
    """Once ``run.json`` is there the same batch goes on; before that nothing was sent."""
    run = RunProcess(tmp_path, model_process.base_url)
    run.input.write_bytes(many_lines(FEW))
    model_process.set(delay=0.02)
    deaths = Deaths(model_process)
    word = run.state / "run.json"
    for pattern in ("ABOUT", "batchd.db", "incoming/*", "files/*", "run.json", "batches/*/index"):
        run.start("--max-in-flight", str(SLOTS))
        # What passes quickly may be missed; the word stays.
        enough = [pattern] if pattern.endswith("index") else [pattern, "run.json"]
        wait_until(
            lambda stages=enough: any(path for name in stages for path in run.state.glob(name)),
            within=20,
        )
        run.kill()
        had_begun = word.exists()
        death = deaths.note(run.recorded())
        assert had_begun or not death.unrecorded
    ended = run.run("--max-in-flight", str(SLOTS), "--json", within=50)
    assert ended.code == 0, ended.err
    deaths.check_sent_again()
    summary = check(run.account(ended.batch), log=deaths.events, resent_allowed=deaths.in_flight)
    assert summary.total == FEW
    assert not run.state.exists()
