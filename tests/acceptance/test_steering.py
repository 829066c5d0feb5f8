"""Pause, resume, priority, retry and partial results, on the real daemon with a model server."""

import json

from tests.conftest import StartBatchd
from tests.support.batchd_process import BatchdProcess
from tests.support.checker import Account, check
from tests.support.jobs import Jobs, backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

SLOTS = 8
LINES = 400


def started(start_batchd: StartBatchd, server: ModelProcess, **settings: object) -> BatchdProcess:
    return start_batchd(backends=backends(server.base_url, max_in_flight=SLOTS), **settings)


def wait_until_running(jobs: Jobs, batch_id: str, lines: int = SLOTS) -> None:
    jobs.wait_for(batch_id, lambda batch: batch["request_counts"]["completed"] >= lines)


def sends(server: ModelProcess) -> int:
    return sum(event.event == "start" for event in server.events)


def is_quiet(server: ModelProcess) -> bool:
    return server.counts().in_flight == 0


def test_a_paused_batch_sends_nothing_until_it_is_resumed_whatever_happens(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(delay=0.02)
    batchd = started(start_batchd, model_process)
    jobs, data = Jobs(batchd.url), request_lines(LINES)
    batch_id = jobs.start(data)
    wait_until_running(jobs, batch_id)
    batch = jobs.ask_of(batch_id, "pause")
    assert batch["status"] == "in_progress"
    assert batch["batchd"]["notes"][0].startswith("paused since")
    wait_until(lambda: is_quiet(model_process))
    sent = sends(model_process)
    done = jobs.wait_for(batch_id, lambda batch: batch["request_counts"]["completed"] >= sent)
    assert done["request_counts"] == {"total": LINES, "completed": sent, "failed": 0}
    # Another batch runs meanwhile, and the pause outlives the daemon.
    other = request_lines(20, prefix="other")
    check(jobs.account(other, jobs.start(other)))
    batchd.kill()
    batchd.start()
    other = request_lines(20, prefix="third")
    check(jobs.account(other, jobs.start(other)))
    assert sends(model_process) == sent + 40
    assert jobs.get(batch_id)["batchd"]["paused_at"] == batch["batchd"]["paused_at"]
    model_process.set(delay=0)
    jobs.ask_of(batch_id, "resume")
    account = jobs.account(data, batch_id)
    check(account)
    assert (account.batch["status"], sends(model_process)) == ("completed", LINES + 40)
    assert account.batch["batchd"]["notes"] == []


def test_the_window_of_a_paused_batch_goes_on(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(delay=0.05)
    windows = {"completion_windows": ["24h", "3s"], "finish_grace": "1s"}
    batchd = started(start_batchd, model_process, batches=windows)
    jobs, data = Jobs(batchd.url), request_lines(LINES)
    batch_id = jobs.start(data, window="3s")
    wait_until_running(jobs, batch_id)
    jobs.ask_of(batch_id, "pause")
    account = jobs.account(data, batch_id)
    check(account)
    assert account.batch["status"] == "expired"
    assert account.batch["batchd"]["paused_at"] is None


def test_a_batch_with_a_higher_priority_goes_first_from_then_on(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(delay=0.02)
    batchd = started(start_batchd, model_process)
    jobs = Jobs(batchd.url)
    first, second = request_lines(LINES, prefix="a"), request_lines(LINES, prefix="b")
    first_id, second_id = jobs.start(first), jobs.start(second)
    wait_until_running(jobs, second_id)
    assert jobs.ask_of(second_id, "priority", priority=10)["batchd"]["priority"] == 10
    second_account = jobs.account(second, second_id)
    assert jobs.get(first_id)["request_counts"]["completed"] < LINES / 2
    check(second_account)
    model_process.set(delay=0)
    check(jobs.account(first, first_id))


def test_what_failed_while_the_server_was_ill_is_answered_by_a_retry(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    retries = {"first_delay": 0.01, "max_delay": 0.02}
    batchd = started(start_batchd, model_process, retries=retries)
    jobs = Jobs(batchd.url)
    data = request_lines(60) + request_lines(40, "500:5", prefix="ill")
    account = jobs.account(data, jobs.start(data))
    assert account.batch["request_counts"] == {"total": 100, "completed": 60, "failed": 40}
    retry = jobs.ask_of(account.batch["id"], "retry", codes=["500"])
    again = jobs.account(request_lines(40, "500:5", prefix="ill"), retry["id"])
    assert again.batch["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    assert again.batch["batchd"]["parent_id"] == account.batch["id"]
    check(again)
    answered = [json.loads(line)["custom_id"] for line in lines_of(account, again)]
    assert len(answered) == len(set(answered)) == 100


def lines_of(*accounts: Account) -> list[bytes]:
    return [line for account in accounts for line in (account.output or b"").splitlines()]


def test_results_are_read_while_the_batch_runs_each_line_once_over_restarts(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(delay=0.01)
    batchd = started(start_batchd, model_process)
    jobs, data = Jobs(batchd.url), request_lines(LINES)
    batch_id = jobs.start(data)
    seen, after = b"", "0-0"
    for number in range(4):
        wait_until_running(jobs, batch_id, (number + 1) * 2 * SLOTS)
        found = jobs.results(batch_id, after=after)
        assert found.has_more
        seen, after = seen + found.lines, found.next
        if number == 1:
            batchd.kill()
            batchd.start()
    assert seen.count(b"\n") >= 8 * SLOTS
    model_process.set(delay=0)
    account = jobs.account(data, batch_id)
    last = jobs.results(batch_id, after=after)
    assert not last.has_more
    assert sorted((seen + last.lines).splitlines()) == sorted(lines_of(account))
    joined = [
        json.loads(line) for line in jobs.results(batch_id, include="input").lines.splitlines()
    ]
    assert {line["custom_id"] for line in joined} == {line["input"]["custom_id"] for line in joined}
    assert len(joined) == LINES
    assert all(line["custom_id"] == line["input"]["custom_id"] for line in joined)
