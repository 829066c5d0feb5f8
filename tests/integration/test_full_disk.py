"""The whole daemon on a disk that is too full for it: it reads, it cancels, it waits.

No disk is filled here: the reserve is made larger than any disk.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.jobs import Jobs, Refused, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

ENOUGH = {"storage": {"reserve": "1KiB", "ballast": "256KiB"}}
NO_ROOM = {"storage": {"reserve": "1000000000GiB", "ballast": "256KiB"}}
NOTE = "the disk of the storage directory is full: sending is paused until there is room"


@pytest.fixture
def batchd(tmp_path: Path, model_process: ModelProcess) -> Iterator[BatchdProcess]:
    with BatchdProcess(tmp_path, backend=model_process.base_url, settings=ENOUGH) as process:
        yield process


def restarted(batchd: BatchdProcess, model: ModelProcess, settings: Mapping[str, object]) -> Jobs:
    batchd.kill()
    batchd.configure(backend=model.base_url, settings=settings)
    batchd.start()
    return Jobs(batchd.url)


def requests_to(model: ModelProcess) -> int:
    return sum(event.event == "start" for event in model.events)


def text(batchd: BatchdProcess, path: str) -> str:
    with urlopen(batchd.url + path, timeout=5) as answer:  # noqa: S310 - our own daemon
        return str(answer.read(), "utf-8")


def test_a_full_disk_is_a_pause_from_which_batches_go_on(
    batchd: BatchdProcess, model_process: ModelProcess
) -> None:
    data = request_lines(100, "slow:0.2")
    jobs = Jobs(batchd.url)
    input_id = jobs.upload(data)
    goes_on = str(jobs.create(input_id)["id"])
    cancelled = str(jobs.create(input_id)["id"])
    for batch_id in (goes_on, cancelled):
        jobs.wait(batch_id, {"in_progress"})

    batchd.kill()
    wait_until(lambda: model_process.counts().in_flight == 0)
    asked = requests_to(model_process)
    jobs = restarted(batchd, model_process, NO_ROOM)
    assert json.loads(text(batchd, "/healthz")) == {"status": "degraded"}
    assert "batchd_disk_full 1.0" in text(batchd, "/metrics")
    assert jobs.get(goes_on)["batchd"]["notes"] == [NOTE]
    for ask in (lambda: jobs.upload(data), lambda: jobs.create(input_id)):
        with pytest.raises(Refused) as refused:
            ask()
        assert (refused.value.status, refused.value.error["code"]) == (503, "insufficient_storage")
    assert jobs.content(input_id) == data
    jobs.cancel(cancelled)
    assert jobs.wait(cancelled)["status"] == "cancelled"
    batch = jobs.get(goes_on)
    assert batch["status"] == "in_progress"
    assert requests_to(model_process) == asked
    assert batchd.log_text().count("disk_full") == 1

    jobs = restarted(batchd, model_process, ENOUGH)
    assert jobs.account(data, goes_on).batch["status"] == "completed"
    assert jobs.account(data, cancelled).batch["status"] == "cancelled"
    assert json.loads(text(batchd, "/healthz")) == {"status": "ok"}
    lines = len(data.splitlines()) - batch["request_counts"]["completed"]
    assert f'batchd_lines_total{{file="output"}} {lines}.0' in text(batchd, "/metrics")


def test_the_ballast_lies_in_the_storage_directory(batchd: BatchdProcess) -> None:
    assert (batchd.state / "ballast").stat().st_size == 256 * 1024
