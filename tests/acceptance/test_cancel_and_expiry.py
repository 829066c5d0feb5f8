"""How a batch ends before its lines do: cancelled, or its window over. And what that leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartBatchd
from tests.support.checker import Summary, check
from tests.support.jobs import (
    Jobs,
    JsonObject,
    Poller,
    Refused,
    backends,
    request_line,
    request_lines,
    result_lines,
)
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

SLOTS = 8
GRACE = 0.5
# Validating this many lines takes a good part of a second, long enough to be caught at it.
MANY = 60_000


def codes(content: bytes | None) -> set[str]:
    return {line["error"]["code"] for line in result_lines(content).values() if line["error"]}


def done(batch: JsonObject) -> int:
    return int(batch["request_counts"]["completed"])


def no_files(batch: Mapping[str, Any]) -> bool:
    return batch["output_file_id"] is None and batch["error_file_id"] is None


def released(state: Path) -> bool:
    """Nothing is left of any batch's input hold and index."""
    return not list((state / "batches").iterdir())


@pytest.fixture
def many_lines() -> bytes:
    return request_lines(MANY)


def test_a_cancelled_batch_keeps_what_was_finished_and_says_so_of_the_rest(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(delay=0.05)
    batchd = start_batchd(
        backends=backends(model_process.base_url, max_in_flight=SLOTS),
        batches={"finish_grace": 10},
    )
    jobs, data = Jobs(batchd.url), request_lines(1000) + request_line("refused", "400")
    batch_id = jobs.start(data)
    jobs.wait_for(batch_id, lambda batch: done(batch) >= 50)
    with Poller(jobs, batch_id) as poller:
        cancelling = jobs.cancel(batch_id)
        account = jobs.account(data, batch_id)
    assert cancelling["status"] == "cancelling"
    assert cancelling["cancelling_at"] is not None
    poller.check_counts_never_went_back(pytest.fail)
    summary = check(account, log=model_process.events)
    assert account.batch["status"] == "cancelled"
    assert account.batch["cancelled_at"] >= account.batch["cancelling_at"]
    assert account.batch["finalizing_at"] is None
    assert codes(account.errors) == {"batch_cancelled"}
    assert done(cancelling) <= summary.output_lines <= done(cancelling) + 3 * SLOTS
    assert summary.never_run == 1001 - summary.output_lines
    assert account.batch["request_counts"]["failed"] == 0
    # In flight when it was cancelled, and finished all the same.
    assert all(event.event != "abort" for event in model_process.events)
    assert summary.sendings == summary.output_lines
    assert jobs.cancel(batch_id) == account.batch
    wait_until(lambda: released(batchd.state))


def test_what_a_hanging_model_server_holds_is_broken_off_after_the_grace(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    batchd = start_batchd(
        backends=backends(model_process.base_url, max_in_flight=SLOTS),
        batches={"finish_grace": GRACE},
    )
    jobs = Jobs(batchd.url)
    data = request_lines(20) + request_lines(30, "timeout", prefix="hangs")
    batch_id = jobs.start(data)
    jobs.wait_for(batch_id, lambda batch: done(batch) == 20)
    wait_until(lambda: model_process.counts().in_flight == SLOTS)
    jobs.cancel(batch_id)
    account = jobs.account(data, batch_id, within=GRACE + 3)
    summary = check(account, log=model_process.events)
    assert (summary.output_lines, summary.never_run) == (20, 30)
    assert account.batch["request_counts"] == {"total": 50, "completed": 20, "failed": 0}
    wait_until(lambda: model_process.counts().aborted == SLOTS)


def test_a_batch_cancelled_while_validating_has_no_files(
    model_process: ModelProcess, start_batchd: StartBatchd, many_lines: bytes
) -> None:
    batchd = start_batchd(model_process.base_url, batches={"max_requests": MANY})
    jobs = Jobs(batchd.url)
    batch_id = jobs.start(many_lines)
    assert jobs.cancel(batch_id)["status"] == "cancelling"
    account = jobs.account(many_lines, batch_id)
    check(account, log=model_process.events)
    assert account.batch["status"] == "cancelled"
    assert account.batch["in_progress_at"] is None
    assert no_files(account.batch)
    assert model_process.events == []
    assert jobs.cancel(batch_id) == account.batch
    wait_until(lambda: released(batchd.state))


def test_a_batch_that_has_ended_otherwise_cannot_be_cancelled(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    batchd = start_batchd(model_process.base_url)
    jobs, data = Jobs(batchd.url), request_lines(3)
    batch_id = jobs.start(data)
    before = jobs.wait(batch_id)
    with pytest.raises(Refused) as refused:
        jobs.cancel(batch_id)
    assert refused.value.status == 409
    assert jobs.get(batch_id) == before


def expired(server: ModelProcess, jobs: Jobs, data: bytes) -> Summary:
    account = jobs.account(data, jobs.start(data, window="2s"))
    batch = account.batch
    summary = check(account, log=server.events)
    assert batch["status"] == "expired"
    assert batch["expires_at"] == batch["created_at"] + 2
    assert batch["expires_at"] <= batch["finalizing_at"] <= batch["expired_at"]
    assert batch["completed_at"] is None
    assert codes(account.errors) >= {"batch_expired"}
    return summary


def test_a_batch_whose_window_ends_keeps_what_was_finished(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(delay=0.05)
    batchd = start_batchd(
        backends=backends(model_process.base_url, max_in_flight=SLOTS),
        batches={"completion_windows": ["24h", "2s"], "finish_grace": 5},
    )
    data = request_line("refused", "400") + request_lines(2000)
    summary = expired(model_process, Jobs(batchd.url), data)
    assert (summary.refused, summary.faults) == (1, 0)
    assert summary.output_lines >= SLOTS
    # What was in flight at the end was let finish.
    assert summary.sendings == summary.output_lines + summary.refused


def test_lines_that_wait_for_an_absent_model_server_expire_with_the_window(
    tmp_path: Path, start_batchd: StartBatchd
) -> None:
    server = ModelProcess(tmp_path)
    batchd = start_batchd(server.base_url, batches={"completion_windows": ["24h", "2s"]})
    summary = expired(server, Jobs(batchd.url), request_lines(700))
    assert (summary.output_lines, summary.never_run) == (0, 700)


def test_lines_that_hang_when_the_window_ends_expire_after_the_grace(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    batchd = start_batchd(
        backends=backends(model_process.base_url, max_in_flight=SLOTS),
        batches={"completion_windows": ["2s"], "finish_grace": GRACE},
    )
    data = request_lines(5) + request_lines(20, "timeout", prefix="hangs")
    summary = expired(model_process, Jobs(batchd.url), data)
    assert (summary.output_lines, summary.never_run) == (5, 20)


def test_a_batch_whose_window_ends_while_validating_has_no_files(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.pause()  # validation asks for its models, and waits longer than the window
    batchd = start_batchd(model_process.base_url, batches={"completion_windows": ["1s"]})
    jobs, data = Jobs(batchd.url), request_lines(10)
    account = jobs.account(data, jobs.start(data, window="1s"))
    model_process.go_on()
    check(account, log=model_process.events)
    assert account.batch["status"] == "expired"
    assert account.batch["in_progress_at"] is None
    assert account.batch["finalizing_at"] is None
    assert no_files(account.batch)
    wait_until(lambda: released(batchd.state))


def test_deleting_the_input_file_of_a_running_batch_does_not_touch_it(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(delay=0.01)
    batchd = start_batchd(backends=backends(model_process.base_url, max_in_flight=SLOTS))
    jobs, data = Jobs(batchd.url), request_lines(300)
    batch = jobs.create(jobs.upload(data))
    jobs.wait_for(batch["id"], lambda batch: done(batch) > 0)
    jobs.delete_file(batch["input_file_id"])
    with pytest.raises(Refused):
        jobs.content(batch["input_file_id"])
    # A restart has to find the input as well.
    batchd.restart()
    account = jobs.account(data, batch["id"])
    summary = check(account, log=model_process.events, resent_allowed=2 * SLOTS)
    assert (account.batch["status"], summary.output_lines) == ("completed", 300)


def test_a_batch_whose_input_file_was_deleted_before_it_was_made_fails(
    model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    batchd = start_batchd(model_process.base_url)
    jobs = Jobs(batchd.url)
    file_id = jobs.upload(request_lines(1))
    jobs.delete_file(file_id)
    account = jobs.account(b"", str(jobs.create(file_id)["id"]))
    assert_cannot_find(account.batch, file_id)


def test_a_batch_whose_input_file_is_deleted_while_it_is_validated_fails(
    model_process: ModelProcess, start_batchd: StartBatchd, many_lines: bytes
) -> None:
    batchd = start_batchd(model_process.base_url, batches={"max_requests": MANY})
    jobs = Jobs(batchd.url)
    file_id = jobs.upload(many_lines)
    batch_id = str(jobs.create(file_id)["id"])
    jobs.delete_file(file_id)
    account = jobs.account(many_lines, batch_id)
    check(account, log=model_process.events)
    assert_cannot_find(account.batch, file_id)
    wait_until(lambda: released(batchd.state))


def assert_cannot_find(batch: Mapping[str, Any], file_id: str) -> None:
    assert batch["status"] == "failed"
    assert no_files(batch)
    (fault,) = batch["errors"]["data"]
    assert fault["message"].startswith(f"Cannot find file {file_id}, or organization")
