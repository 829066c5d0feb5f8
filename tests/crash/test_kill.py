"""kill -9 and SIGTERM at every stage of a batch: what was acknowledged stands, the rest goes on.

The model server is a process of its own with a log of its own, so that it can say what was really
sent before and after each kill.
"""

import contextlib
import json
import os
import random
import secrets
import signal
from collections.abc import Mapping

import pytest

from tests.conftest import StartBatchd
from tests.crash.conftest import SWEEPING, NoOrphans, ledger_lines
from tests.support.checker import Account, check
from tests.support.deaths import Death, Deaths, nonce, started
from tests.support.jobs import Jobs, JsonObject, Poller, backends, request_line, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

# The lines of the three batches: one that completes, one that is cancelled, one whose window ends.
LINES = {"completed": 2400, "cancelled": 1500, "expired": 1500}
KILLS = 25
# Answers that the model server has given when the last kill is due.
LAST_KILL = 1800
WINDOW = "10s"
SLOTS = 24
IN_FLIGHT_AT_LEAST = 8
# Validating or filling in this many lines takes long enough to be killed at it.
MANY = 50_000


def completed(batch: JsonObject) -> int:
    return int(batch["request_counts"]["completed"])


class KillTest:
    """A batchd with work to do, and the means to kill it."""

    def __init__(self, server: ModelProcess, start: StartBatchd) -> None:
        self.server = server
        self.batchd = start(
            backends=backends(server.base_url, max_in_flight=SLOTS),
            batches={"max_requests": MANY, "completion_windows": ["24h", "2s", WINDOW]},
            **SWEEPING,
        )
        self.jobs = Jobs(self.batchd.url)
        self.deaths = Deaths(server)
        self._inputs: set[str] = set()

    def create(self, data: bytes, *, window: str = "24h") -> str:
        file_id = self.jobs.upload(data)
        self._inputs.add(file_id)
        return str(self.jobs.create(file_id, window=window)["id"])

    def kill(self) -> Death:
        self.batchd.signal(signal.SIGKILL)
        self.batchd.wait()
        return self.deaths.note(self.recorded())

    def recorded(self) -> list[str]:
        lines = ledger_lines(self.batchd.state, *self._inputs)
        return [json.loads(line)["custom_id"] for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_25_kills_in_three_batches_lose_nothing_and_send_only_what_was_in_flight_again(
    model_process: ModelProcess, start_batchd: StartBatchd, no_orphans: NoOrphans
) -> None:
    """One batch completes, one is cancelled on the way, and one's window ends."""
    seed = int(os.environ.get("KILL_SEED") or secrets.randbelow(1 << 32))
    print(f"KILL_SEED={seed}")  # noqa: T201 - to see the same kills again
    chance = random.Random(seed)  # noqa: S311 - when to kill
    points = sorted(chance.randrange(LAST_KILL) for _ in range(KILLS))
    cancel_after = chance.randrange(3, KILLS // 2)
    model_process.set(delay=0.05)
    test = KillTest(model_process, start_batchd)
    inputs = {status: request_lines(count, prefix=status) for status, count in LINES.items()}
    batches = {
        status: test.create(data, window=WINDOW if status == "expired" else "24h")
        for status, data in inputs.items()
    }
    with contextlib.ExitStack() as polling:
        pollers = [
            polling.enter_context(Poller(test.jobs, batch_id)) for batch_id in batches.values()
        ]
        for number, point in enumerate(points):
            if number == cancel_after:
                test.jobs.cancel(batches["cancelled"])
            kill_at(test, point)
            test.batchd.start()
        accounts = {
            status: test.jobs.account(inputs[status], batch_id, within=60)
            for status, batch_id in batches.items()
        }
    for poller in pollers:
        poller.check_counts_never_went_back(pytest.fail)
    print(account_for(test, accounts))  # noqa: T201 - to read
    no_orphans(test.batchd, *accounts.values())


def kill_at(test: KillTest, point: int) -> None:
    """Kill when so many answers have been given and enough lines are in flight."""
    wait_until(lambda: test.server.counts().ended >= point, within=20)
    # Twice as many, for some are answered before the kill arrives.
    wait_until(lambda: test.server.counts().in_flight >= 2 * IN_FLIGHT_AT_LEAST)
    death = test.kill()
    assert IN_FLIGHT_AT_LEAST <= len(death.unrecorded) <= 2 * SLOTS
    assert death.aborted <= death.unrecorded


def account_for(test: KillTest, accounts: Mapping[str, Account]) -> str:
    """Hold every batch's account against what was sent; the totals as a sentence."""
    deaths, sent_again = test.deaths, test.deaths.check_sent_again()
    for status, account in accounts.items():
        assert account.batch["status"] == status
        check(account, log=deaths.events, resent_allowed=deaths.in_flight)
    sendings = len(started(deaths.events))
    assert sendings <= len(set(started(deaths.events))) + sent_again
    return (
        f"{len(deaths)} kills: {sum(LINES.values())} lines, 0 lost, 0 duplicated, 0 torn, "
        f"{deaths.in_flight} in flight, {sent_again} sent again"
    )


def test_a_drain_lets_lines_in_flight_finish_and_sends_nothing_twice(
    model_process: ModelProcess, start_batchd: StartBatchd, no_orphans: NoOrphans
) -> None:
    model_process.set(delay=0.3)
    data = request_lines(150)
    test = KillTest(model_process, start_batchd)
    batch_id = test.create(data)
    test.jobs.wait_for(batch_id, lambda batch: completed(batch) >= SLOTS)
    wait_until(lambda: model_process.counts().in_flight >= IN_FLIGHT_AT_LEAST)
    assert test.batchd.terminate() == 0
    events = model_process.events
    assert all(event.event != "abort" for event in events)
    assert sorted(map(nonce, test.recorded())) == sorted(started(events))
    test.batchd.start()
    account = test.jobs.account(data, batch_id)
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
    test = KillTest(model_process, start_batchd)
    batch_id = test.create(data)
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
    test = KillTest(model_process, start_batchd)
    batch_id = test.create(data)
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
    test = KillTest(model_process, start_batchd)
    batch_id = test.create(data, window="2s" if ending == "expired" else "24h")
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
