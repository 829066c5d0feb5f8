"""What a power cut can leave behind the last synced line: part of one that nobody was promised."""

import pytest

from tests.conftest import StartBatchd
from tests.crash.conftest import ledger_lines
from tests.support.checker import check
from tests.support.jobs import Jobs, backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

LINES = 200
SLOTS = 8


@pytest.mark.parametrize("size", [1, 60, None], ids=["first-byte", "60-bytes", "but-its-newline"])
def test_a_torn_line_is_cut_off_before_the_next_one_is_written(
    size: int | None, model_process: ModelProcess, start_batchd: StartBatchd
) -> None:
    model_process.set(delay=0.01)
    batchd = start_batchd(backends=backends(model_process.base_url, max_in_flight=SLOTS))
    jobs = Jobs(batchd.url)
    data = request_lines(LINES)
    input_id = jobs.upload(data)
    batch_id = str(jobs.create(input_id)["id"])
    jobs.wait_for(batch_id, lambda batch: batch["request_counts"]["completed"] >= LINES // 4)
    batchd.kill()
    wait_until(lambda: model_process.counts().in_flight == 0)
    (ledger,) = (path for path in (batchd.state / "files").iterdir() if path.name != input_id)
    torn = ledger_lines(batchd.state, input_id)[-1][:size]
    with ledger.open("ab") as file:
        file.write(torn)
    batchd.start()
    account = jobs.account(data, batch_id)
    summary = check(account, log=model_process.events, resent_allowed=2 * SLOTS)
    assert (account.batch["status"], summary.output_lines) == ("completed", LINES)
    assert not list((batchd.state / "files").glob("*.damaged"))
