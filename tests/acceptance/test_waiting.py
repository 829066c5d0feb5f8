"""What makes a batch wait and not fail: rate limits, refused keys, a model server that is away."""

from pathlib import Path

import pytest

from tests.conftest import StartBatchd
from tests.support.checker import check
from tests.support.eventlog import Event, sent
from tests.support.jobs import (
    Jobs,
    JsonObject,
    backends,
    request_line,
    request_lines,
    result_lines,
    scripted,
)
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

SLOTS = 32


def starts(events: list[Event]) -> list[Event]:
    return [event for event in events if event.event == "start"]


def wait_for_note(jobs: Jobs, batch_id: str, text: str) -> JsonObject:
    """The batch once it says that it waits, and why."""
    batch = jobs.wait_for(
        batch_id, lambda batch: any(text in note for note in batch["batchd"]["notes"])
    )
    assert batch["status"] == "in_progress"
    return batch


def complete(jobs: Jobs, data: bytes, batch_id: str, server: ModelProcess) -> None:
    """The batch completes, and every line has its answer."""
    account = jobs.account(data, batch_id)
    summary = check(account, log=server.events)
    assert (account.batch["status"], summary.error_lines) == ("completed", 0)
    assert account.batch["batchd"]["notes"] == []


def test_a_batch_waits_untouched_for_a_model_server_that_is_not_there_yet(
    tmp_path: Path, start_batchd: StartBatchd
) -> None:
    server = ModelProcess(tmp_path)
    batchd = start_batchd(server.base_url)
    jobs, data = Jobs(batchd.url), request_lines(100)
    batch_id = jobs.start(data)
    batch = wait_for_note(jobs, batch_id, "backend 'model'")
    assert "cannot be reached" in batch["batchd"]["notes"][0]
    assert batch["request_counts"] == {"total": 100, "completed": 0, "failed": 0}
    assert "backend_parked" in batchd.log_text()
    assert "reason=unreachable" in batchd.log_text()
    with server:
        complete(jobs, data, batch_id, server)
        assert set(sent(server.events).values()) == {1}


def test_a_model_server_that_goes_away_and_comes_back_costs_no_line(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(delay=0.02)
    batchd = start_batchd(backends=backends(model_process.base_url, max_in_flight=SLOTS))
    jobs, data = Jobs(batchd.url), request_lines(600)
    batch_id = jobs.start(data)
    jobs.wait_for(batch_id, lambda batch: batch["request_counts"]["completed"] > 50)
    # At the kill nothing may be on its way out: an answer that was sent and not logged is no fault.
    mark = len(model_process.events)
    model_process.set(delay=2)
    wait_until(lambda: len(starts(model_process.events[mark:])) >= SLOTS)
    model_process.kill()
    wait_for_note(jobs, batch_id, "cannot be reached")
    model_process.start()
    model_process.set(delay=0.02)
    complete(jobs, data, batch_id, model_process)


def test_a_refused_key_fails_no_line_and_a_valid_one_is_taken_from_the_file(
    model_process: ModelProcess, start_batchd: StartBatchd, tmp_path: Path
) -> None:
    model_process.set(api_key="the-right-key", delay=0.01)
    key_file = tmp_path / "key"
    key_file.write_text("a-wrong-key\n")
    batchd = start_batchd(
        backends=backends(model_process.base_url, api_key_file=str(key_file), max_in_flight=SLOTS),
        retries={"refused_pause": 0.2},
    )
    jobs, data = Jobs(batchd.url), request_lines(300)
    batch_id = jobs.start(data)
    batch = wait_for_note(jobs, batch_id, "refuses its API key (401)")
    # A volley, then one at a time.
    wait_until(lambda: len(starts(model_process.events)) > SLOTS + 2)
    assert jobs.get(batch_id)["request_counts"] == {"total": 300, "completed": 0, "failed": 0}
    assert jobs.get(batch_id)["batchd"]["notes"] == batch["batchd"]["notes"]
    assert max(event.in_flight for event in model_process.events[2 * SLOTS :]) == 1
    key_file.write_text("the-right-key\n")
    complete(jobs, data, batch_id, model_process)
    assert "the-right-key" not in batchd.log_text()


def test_a_new_key_is_taken_at_once_however_long_the_pause(
    model_process: ModelProcess, start_batchd: StartBatchd, tmp_path: Path
) -> None:
    model_process.set(api_key="the-right-key")
    key_file = tmp_path / "key"
    key_file.write_text("a-wrong-key")
    batchd = start_batchd(backends=backends(model_process.base_url, api_key_file=str(key_file)))
    jobs, data = Jobs(batchd.url), request_lines(100)
    batch_id = jobs.start(data)
    wait_for_note(jobs, batch_id, "refuses its API key (401)")
    key_file.unlink()
    wait_until(lambda: "backend_key_unreadable" in batchd.log_text())
    key_file.write_text("the-right-key")
    complete(jobs, data, batch_id, model_process)
    assert batchd.log_text().count("backend_key_unreadable") == 1


@pytest.mark.parametrize(
    ("refusal", "note"), [("quota", "quota is used up"), ("403", "refuses access (403)")]
)
def test_a_used_up_quota_and_a_key_without_access_fail_no_line(
    refusal: str, note: str, model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(behave=refusal)
    pauses = {"refused_pause": 0.2, "quota_pause": 0.2}
    batchd = start_batchd(model_process.base_url, retries=pauses)
    jobs, data = Jobs(batchd.url), request_lines(100)
    batch_id = jobs.start(data)
    batch = wait_for_note(jobs, batch_id, note)
    assert batch["request_counts"] == {"total": 100, "completed": 0, "failed": 0}
    model_process.set(behave="ok")
    complete(jobs, data, batch_id, model_process)


def test_a_403_for_one_line_where_others_succeed_is_that_line_s_end(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    batchd = start_batchd(backends=backends(model_process.base_url, max_in_flight=1))
    jobs, data = Jobs(batchd.url), request_line("first") + request_line("refused", "403")
    account = jobs.account(data, jobs.start(data))
    check(account, log=model_process.events)
    assert result_lines(account.errors)["refused"]["response"]["status_code"] == 403
    assert len(starts(model_process.events)) == 2


def test_rate_limits_slow_a_batch_down_and_fail_no_line(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(rate=40, rate_window=1)
    batchd = start_batchd(model_process.base_url)
    jobs, data = Jobs(batchd.url), request_lines(100)
    batch_id = jobs.start(data)
    complete(jobs, data, batch_id, model_process)
    refused = sum(event.status == 429 for event in model_process.events)
    assert 0 < refused <= 3 * SLOTS


@pytest.mark.parametrize("hint", ["retry-after:1", "retry-after-ms:900", "reset-requests:900ms"])
def test_a_hint_to_wait_is_obeyed_by_every_line(
    hint: str, model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    batchd = start_batchd(backends=backends(model_process.base_url, max_in_flight=1))
    jobs, data = Jobs(batchd.url), request_line("hinted", hint) + request_lines(5)
    batch_id = jobs.start(data)
    complete(jobs, data, batch_id, model_process)
    refusal, *later = [event for event in model_process.events if event.event == "start"][:2]
    assert refusal.nonce == "nonce of hinted"
    assert later[0].t - refusal.t >= 0.9
    assert set(sent(model_process.events).values()) == {1, 2}


@pytest.mark.timeout(40)
def test_a_line_refused_with_429_again_and_again_neither_stops_the_others_nor_goes_on_for_ever(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    """One slot: after each wait another line must be let go first, or nothing ever would be."""
    model_process.set(delay=0.02)
    batchd = start_batchd(backends=backends(model_process.base_url, max_in_flight=1))
    jobs, data = Jobs(batchd.url), request_line("always", "429") + request_lines(80)
    account = jobs.account(data, jobs.start(data), within=35)
    summary = check(account, log=model_process.events)
    assert (summary.output_lines, summary.refused) == (80, 1)
    assert result_lines(account.errors)["always"]["response"]["status_code"] == 429
    assert refusals_that_count(model_process.events, "nonce of always") == 5


def refusals_that_count(events: list[Event], nonce: str) -> int:
    """How often a line was sent for the first time, or after another that was served."""
    count, others = 0, True
    for event in starts(events):
        if event.nonce != nonce:
            others = True
        else:
            count, others = count + others, False
    return count


def test_a_stale_connection_costs_no_attempt(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    """With a single fault allowed, every line must get its answer all the same."""
    batchd = start_batchd(model_process.base_url, retries={"fault_limit": 1})
    jobs = Jobs(batchd.url)
    for data in (
        request_lines(100, prefix="opens connections"),
        request_lines(100, "stale", prefix="finds them stale"),
    ):
        complete(jobs, data, jobs.start(data), model_process)
    times = sent(model_process.events)
    assert set(times.values()) == {1, 2}


def test_a_server_that_closes_idle_and_used_connections_costs_no_attempt(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    batchd = start_batchd(model_process.base_url, retries={"fault_limit": 1})
    jobs = Jobs(batchd.url)
    model_process.set(keep_alive=0.002, requests_per_connection=7, delay=0.002)
    data = request_lines(500) + scripted(["close-after"])
    complete(jobs, data, jobs.start(data), model_process)
