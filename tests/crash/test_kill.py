"""kill -9 and SIGTERM at every stage of a batch: what was acknowledged stands, the rest goes on.

The model server is a process of its own with a log of its own, so that it can say what was really
sent before and after each kill.
"""

import json
import os
import random
import secrets
import signal

import msgspec
import pytest

from tests.conftest import StartBatchd
from tests.crash.conftest import SWEEPING, NoOrphans, ledger_lines
from tests.support.checker import check
from tests.support.eventlog import Event
from tests.support.jobs import Jobs, JsonObject, Poller, backends, request_line, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

LINES = 5000
KILLS = 5
SLOTS = 24
IN_FLIGHT_AT_LEAST = 8
# Validating or filling in this many lines takes long enough to be killed at it.
MANY = 50_000


class Killed(msgspec.Struct, frozen=True):
    """One kill as the model server and the disk saw it."""

    events: int  # how many the log had
    aborted: set[str]  # unanswered
    unrecorded: set[str]  # sent, and no result on disk


def started(events: list[Event]) -> list[str]:
    return [event.nonce for event in events if event.event == "start"]


def nonce(custom_id: str) -> str:
    return f"nonce of {custom_id}"


def completed(batch: JsonObject) -> int:
    return int(batch["request_counts"]["completed"])


class KillTest:
    """A batch that runs, and the means to kill batchd under it."""

    def __init__(self, server: ModelProcess, start: StartBatchd, data: bytes) -> None:
        self.server = server
        self.batchd = start(
            backends=backends(server.base_url, max_in_flight=SLOTS),
            batches={"max_requests": MANY, "completion_windows": ["24h", "2s"]},
            **SWEEPING,
        )
        self.jobs = Jobs(self.batchd.url)
        self.data = data
        self.input_file_id = self.jobs.upload(data)

    def create(self, *, window: str = "24h") -> str:
        return str(self.jobs.create(self.input_file_id, window=window)["id"])

    def kill(self) -> Killed:
        before = len(self.server.events)
        self.batchd.signal(signal.SIGKILL)
        self.batchd.wait()
        wait_until(lambda: self.server.counts().in_flight == 0)
        events = self.server.events
        recorded = {nonce(custom_id) for custom_id in self.recorded()}
        return Killed(
            events=len(events),
            aborted={event.nonce for event in events[before:] if event.event == "abort"},
            unrecorded=set(started(events)) - recorded,
        )

    def recorded(self) -> list[str]:
        lines = ledger_lines(self.batchd.state, self.input_file_id)
        return [json.loads(line)["custom_id"] for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_five_kills_in_one_batch_lose_nothing_and_send_only_what_was_in_flight_again(
    model_process: ModelProcess, start_batchd: StartBatchd, no_orphans: NoOrphans
) -> None:
    seed = int(os.environ.get("KILL_SEED") or secrets.randbelow(1 << 32))
    print(f"KILL_SEED={seed}")  # noqa: T201 - to see the same kills again
    chance = random.Random(seed)  # noqa: S311 - when to kill
    points = sorted(chance.uniform(0.05, 0.95) * LINES for _ in range(KILLS))
    model_process.set(delay=0.05)
    test = KillTest(model_process, start_batchd, request_lines(LINES))
    batch_id = test.create()
    kills: list[Killed] = []
    with Poller(test.jobs, batch_id) as poller:
        for point in points:
            test.jobs.wait_for(batch_id, lambda batch, point=point: completed(batch) >= point)
            # Twice as many, for some are answered before the kill arrives.
            wait_until(lambda: model_process.counts().in_flight >= 2 * IN_FLIGHT_AT_LEAST)
            kills.append(test.kill())
            test.batchd.start()
        account = test.jobs.account(test.data, batch_id, within=60)
    poller.check_counts_never_went_back(pytest.fail)
    assert account.batch["status"] == "completed"
    in_flight = sum(len(kill.unrecorded) for kill in kills)
    summary = check(account, log=model_process.events, resent_allowed=in_flight)
    assert summary.output_lines == LINES
    check_sent_again(kills, model_process.events)
    no_orphans(test.batchd, account)


def check_sent_again(kills: list[Killed], events: list[Event]) -> None:
    """After each kill only lines that were in flight at it were sent again, and all together."""
    ends = [*(kill.events for kill in kills[1:]), len(events)]
    assert len({event.nonce for event in events}) == LINES
    assert len(started(events)) <= LINES + sum(len(kill.unrecorded) for kill in kills)
    for kill, end in zip(kills, ends, strict=True):
        assert len(kill.unrecorded) >= IN_FLIGHT_AT_LEAST
        assert kill.aborted <= kill.unrecorded
        assert len(kill.unrecorded) <= 2 * SLOTS
        again = set(started(events[: kill.events])) & set(started(events[kill.events : end]))
        print(f"kill: {len(kill.unrecorded)} in flight, {len(again)} sent again")  # noqa: T201 - to read
        assert again <= kill.unrecorded


def test_a_drain_lets_lines_in_flight_finish_and_sends_nothing_twice(
    model_process: ModelProcess, start_batchd: StartBatchd, no_orphans: NoOrphans
) -> None:
    model_process.set(delay=0.3)
    test = KillTest(model_process, start_batchd, request_lines(150))
    batch_id = test.create()
    test.jobs.wait_for(batch_id, lambda batch: completed(batch) >= SLOTS)
    wait_until(lambda: model_process.counts().in_flight >= IN_FLIGHT_AT_LEAST)
    assert test.batchd.terminate() == 0
    events = model_process.events
    assert all(event.event != "abort" for event in events)
    assert sorted(map(nonce, test.recorded())) == sorted(started(events))
    test.batchd.start()
    account = test.jobs.account(test.data, batch_id)
    assert check(account, log=model_process.events).sendings == 150
    no_orphans(test.batchd, account)


def test_a_drain_that_takes_too_long_breaks_off_and_what_was_broken_off_runs_again(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    batchd = start_batchd(model_process.base_url, server={"drain": 0.3})
    jobs = Jobs(batchd.url)
    data = request_lines(20, prefix="ok") + request_lines(5, "timeout|ok", prefix="hangs")
    batch_id = jobs.start(data)
    jobs.wait_for(batch_id, lambda batch: completed(batch) == 20)
    wait_until(lambda: model_process.counts().in_flight == 5)
    assert batchd.terminate() == 0
    batchd.start()
    account = jobs.account(data, batch_id)
    summary = check(account, log=model_process.events)
    assert (summary.output_lines, summary.sendings) == (25, 30)


def test_a_kill_while_validating_is_followed_by_the_same_verdict(
    model_process: ModelProcess, start_batchd: StartBatchd, no_orphans: NoOrphans
) -> None:
    data = request_lines(MANY - 1)
    data += request_line("last").replace(b"/v1/chat/completions", b"/v1/embeddings")
    test = KillTest(model_process, start_batchd, data)
    batch_id = test.create()
    wait_until(lambda: any((test.batchd.state / "batches").glob("*/index")))
    assert test.jobs.get(batch_id)["status"] == "validating"
    test.kill()
    test.batchd.start()
    account = test.jobs.account(data, batch_id)
    check(account, log=model_process.events)
    assert account.batch["status"] == "failed"
    assert {fault["line"] for fault in account.batch["errors"]["data"]} == {MANY}
    assert model_process.events == []
    no_orphans(test.batchd, account)


def test_a_kill_right_after_the_create_was_acknowledged_loses_no_batch(
    model_process: ModelProcess, start_batchd: StartBatchd, no_orphans: NoOrphans
) -> None:
    data = request_lines(500)
    test = KillTest(model_process, start_batchd, data)
    batch_id = test.create()
    kill = test.kill()
    test.batchd.start()
    account = test.jobs.account(data, batch_id)
    summary = check(account, log=model_process.events, resent_allowed=len(kill.unrecorded))
    assert (account.batch["status"], summary.output_lines) == ("completed", 500)
    no_orphans(test.batchd, account)


@pytest.mark.slow
@pytest.mark.timeout(40)
@pytest.mark.parametrize("ending", ["expired", "cancelled"])
def test_a_kill_while_never_run_lines_are_filled_in_is_followed_by_the_same_end(
    ending: str, model_process: ModelProcess, start_batchd: StartBatchd, no_orphans: NoOrphans
) -> None:
    """A fill of many lines, killed in the midst of ``finalizing`` or ``cancelling``."""
    data = request_lines(50) + request_lines(MANY - 51, "429", prefix="waits")
    data += request_line("refused", "400")
    test = KillTest(model_process, start_batchd, data)
    batch_id = test.create(window="2s" if ending == "expired" else "24h")
    test.jobs.wait_for(batch_id, lambda batch: completed(batch) == 50)
    if ending == "cancelled":
        test.jobs.cancel(batch_id)
    wait_until(lambda: len(test.recorded()) > 1000, within=10)
    with Poller(test.jobs, batch_id) as poller:
        wait_until(lambda: bool(poller.seen))
        status = poller.seen[-1]["status"]
        assert status == {"expired": "finalizing", "cancelled": "cancelling"}[ending]
        test.kill()
        assert 1000 < len(test.recorded()) < MANY
        test.batchd.start()
        account = test.jobs.account(data, batch_id)
    poller.check_counts_never_went_back(pytest.fail)
    summary = check(account, log=model_process.events, resent_allowed=2 * SLOTS)
    assert account.batch["status"] == ending
    assert (summary.output_lines, summary.never_run) == (50, MANY - 50)
    no_orphans(test.batchd, account)
