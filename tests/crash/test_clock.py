"""The clock on the wall jumps under the running daemon, and between two of its lives."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.checker import check
from tests.support.jobs import Jobs, JsonObject, Poller, backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until
from tests.support.wall_clock import WallClock

DAY = 86400
# So few that validation does not pause between them: libfaketime breaks time.sleep.
LINES = 120
SLOTS = 4
# How long a clock that has jumped must be steady before it is believed.
STEADY = 1.0


pytestmark = pytest.mark.timeout(40)


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.fixture
def batchd(
    tmp_path: Path, model_process: ModelProcess, clock: WallClock
) -> Iterator[BatchdProcess]:
    model_process.set(delay=0.2)
    batchd = BatchdProcess(
        tmp_path / "batchd",
        settings={
            "backends": backends(model_process.base_url, max_in_flight=SLOTS),
            "retention": {"sweep_every": STEADY},
        },
        environment=clock.environment,
    )
    with batchd:
        yield batchd


class Running:
    """A batch with a window of a day that is in progress."""

    def __init__(self, batchd: BatchdProcess, server: ModelProcess) -> None:
        self.batchd = batchd
        self.server = server
        self.jobs = Jobs(batchd.url)
        self.data = request_lines(LINES)
        self.batch_id = self.jobs.start(self.data)
        self.wait_for_more()

    def wait_for_more(self) -> None:
        """Lines go on being answered."""
        done = self.get()["request_counts"]["completed"]
        self.jobs.wait_for(
            self.batch_id,
            lambda batch: batch["request_counts"]["completed"] > done + SLOTS,
            within=8,
        )
        assert self.get()["status"] == "in_progress"

    def get(self) -> JsonObject:
        return self.jobs.get(self.batch_id)

    def wait_until_said(self, event: str, times: int = 1) -> None:
        wait_until(lambda: self.batchd.log_text().count(event) >= times, within=10)

    def has_said(self, event: str) -> bool:
        return event in self.batchd.log_text()

    def ended(self, *, resent: int = 0) -> JsonObject:
        """The batch at its end, every line of it accounted for."""
        self.server.set(delay=0)
        account = self.jobs.account(self.data, self.batch_id)
        check(account, log=self.server.events, resent_allowed=resent)
        return dict(account.batch)


@pytest.fixture
def running(batchd: BatchdProcess, model_process: ModelProcess) -> Running:
    return Running(batchd, model_process)


def test_a_clock_that_jumps_ahead_and_back_expires_nothing(
    running: Running, clock: WallClock
) -> None:
    clock.set("+2d")
    running.wait_until_said("clock_jumped")
    running.wait_for_more()
    clock.set("+0")
    running.wait_until_said("clock_jumped", times=2)
    running.wait_for_more()
    batch = running.ended()
    assert batch["status"] == "completed"
    assert not running.has_said("window_closed")
    check_order(batch)


def test_a_clock_that_stays_ahead_ends_the_window_after_a_while_and_not_at_once(
    running: Running, clock: WallClock
) -> None:
    clock.set("+2d")
    running.wait_until_said("clock_jumped")
    assert not running.has_said("window_closed")
    running.wait_for_more()
    running.wait_until_said("window_closed")
    batch = running.ended()
    assert batch["status"] == "expired"
    assert 0 < batch["request_counts"]["completed"] < LINES
    check_order(batch)


def test_a_clock_that_jumps_back_breaks_nothing(running: Running, clock: WallClock) -> None:
    """A batch's instants never go back, though the clock does: it seems to have taken no time."""
    with Poller(running.jobs, running.batch_id) as poller:
        clock.set("-1d")
        running.wait_until_said("clock_jumped")
        running.wait_for_more()
        later = running.jobs.start(request_lines(SLOTS, prefix="later"))
        batch = running.ended()
    poller.check_counts_never_went_back(pytest.fail)
    assert batch["status"] == "completed"
    check_order(batch)
    after = running.jobs.wait(later)
    assert after["status"] == "completed"
    assert after["created_at"] < time.time() - DAY / 2
    check_order(after)
    assert [listed["id"] for listed in running.jobs.batches()] == [later, running.batch_id]


def test_a_start_with_a_clock_ahead_ends_no_window_at_once(
    running: Running, clock: WallClock
) -> None:
    """Two days without power, or a clock that is not set yet: a start cannot tell."""
    running.batchd.kill()
    clock.set("+2d")
    running.batchd.start()
    running.wait_for_more()
    assert not running.has_said("window_closed")
    clock.set("+0")
    running.wait_until_said("clock_jumped")
    batch = running.ended(resent=2 * SLOTS)
    assert batch["status"] == "completed"
    check_order(batch)


def test_a_window_that_ended_while_batchd_was_down_is_closed_after_the_start(
    running: Running, clock: WallClock
) -> None:
    running.batchd.kill()
    clock.set("+2d")
    running.batchd.start()
    running.wait_until_said("window_closed")
    batch = running.ended(resent=2 * SLOTS)
    assert batch["status"] == "expired"
    check_order(batch)


def check_order(batch: JsonObject) -> None:
    """What comes later in the life of a batch has no earlier instant."""
    ends = ("completed_at", "failed_at", "expired_at", "cancelled_at")
    (end,) = [batch[name] for name in ends if batch[name] is not None]
    instants = [batch[name] for name in ("created_at", "in_progress_at", "finalizing_at")]
    assert sorted([*instants, end]) == [*instants, end]
