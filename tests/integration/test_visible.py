"""What people see of a real daemon's flow: lines that fail, backends, and how both are steered."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchd.attempts import RECORD_SIZE
from tests.support.batchd_process import BatchdProcess
from tests.support.jobs import Jobs, request_line
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

# Long enough that a line is seen waiting.
SLOW_RETRIES = {"retries": {"first_delay": 300.0, "max_delay": 300.0}}


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ModelProcess]:
    with ModelProcess(tmp_path) as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path, model: ModelProcess) -> Iterator[BatchdProcess]:
    directory = tmp_path / "batchd"
    with BatchdProcess(directory, backend=model.base_url, settings=SLOW_RETRIES) as running:
        yield running


def ask(daemon: BatchdProcess, path: str, method: str = "GET") -> Any:
    request = urllib.request.Request(daemon.base_url + path, method=method)  # noqa: S310 - our own
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own
        return json.loads(answer.read())


def test_lines_that_are_tried_again_are_told_also_after_a_restart(daemon: BatchdProcess) -> None:
    batch_id = Jobs(daemon.url).start(
        request_line("good") + request_line("sick", "503") + request_line("cut", "reset")
    )
    expected = {"lines": 2, "kinds": {"http_503": 1, "reset": 1}}
    wait_until(lambda: ask(daemon, f"/batches/{batch_id}")["batchd"]["retrying"] == expected)
    told = ask(daemon, f"/batches/{batch_id}/attempts")
    assert {line["custom_id"]: line["line"] for line in told["data"]} == {"sick": 2, "cut": 3}
    assert {line["backend"] for line in told["data"]} == {"model"}
    assert all(0 < line["next_attempt_in"] <= 300 for line in told["data"])
    # What lines have been through is written behind everything else, and nobody waits for it.
    written = daemon.state / "batches" / batch_id / "attempts"
    wait_until(lambda: written.exists() and written.stat().st_size == 2 * RECORD_SIZE)
    daemon.restart()
    again = ask(daemon, f"/batches/{batch_id}/attempts?limit=1")
    assert again["has_more"]
    (line,) = again["data"]
    assert (line["attempts"], line["faults"], line["backend"]) in {
        (1, 1, None),
        (2, 2, "model"),  # sent at once after the start, and failed again
    }


def test_a_backend_is_shown_with_the_lane_of_each_model(daemon: BatchdProcess) -> None:
    jobs = Jobs(daemon.url)
    batch_id = jobs.start(request_line("one"))
    wait_until(lambda: jobs.get(batch_id)["status"] == "completed")
    (backend,) = ask(daemon, "/backends")["data"]
    assert (backend["name"], backend["state"], backend["note"]) == ("model", "ok", None)
    assert backend["models"] == ["test-model"]
    (lane,) = backend["lanes"]
    assert (lane["model"], lane["in_flight"], lane["auto"]) == ("test-model", 0, True)
    assert lane["limit"] >= 16
    assert lane["reason"]


def test_a_used_up_quota_waits_until_it_is_resumed(
    daemon: BatchdProcess, model: ModelProcess
) -> None:
    model.set(behave="quota")
    jobs = Jobs(daemon.url)
    batch_id = jobs.start(request_line("one"))
    wait_until(lambda: ask(daemon, "/backends")["data"][0]["state"] == "waiting")
    (backend,) = ask(daemon, "/backends")["data"]
    assert "the quota is used up" in backend["note"]
    assert backend["tries_again_in"] > 3500
    assert jobs.get(batch_id)["batchd"]["notes"] == [backend["note"]]
    model.set(behave="ok")
    ask(daemon, "/backends/model/resume", "POST")
    wait_until(lambda: jobs.get(batch_id)["status"] == "completed")
