"""Files dropped into the inbox of the real daemon, and what comes back."""

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.checker import Account, check
from tests.support.jobs import TERMINAL, Jobs, request_lines
from tests.support.model_process import ModelProcess
from tests.support.model_settings import Settings
from tests.support.waiting import wait_until

LINES = 50
SLOTS = 8


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ModelProcess]:
    with ModelProcess(tmp_path, settings=Settings(delay=0.005)) as model:
        yield model


@pytest.fixture
def batchd(tmp_path: Path, model: ModelProcess) -> Iterator[BatchdProcess]:
    inbox = {"directory": str(tmp_path / "inbox"), "settle": "100ms"}
    backends = [{"name": "model", "base_url": model.base_url, "max_in_flight": SLOTS}]
    settings = {"inbox": inbox, "backends": backends}
    with BatchdProcess(tmp_path / "batchd", settings=settings) as batchd:
        yield batchd


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


def drop(inbox: Path, name: str, data: bytes) -> None:
    (inbox / f".{name}").write_bytes(data)
    (inbox / f".{name}").rename(inbox / name)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def listed(batchd: BatchdProcess) -> list[str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", batchd.port)) as connection:
        connection.request("GET", "/v1/batches")
        return [batch["id"] for batch in json.load(connection.getresponse())["data"]]


def account(inbox: Path, stem: str, data: bytes) -> Account:
    def read(suffix: str) -> bytes | None:
        path = inbox / "outbox" / f"{stem}.{suffix}"
        return path.read_bytes() if path.exists() else None

    def status() -> dict[str, Any]:
        return json.loads(read("status.json") or b"{}")

    wait_until(lambda: status().get("status") in TERMINAL, within=15)
    batch = status()
    return Account(
        input=data, output=read("output.jsonl"), errors=read("errors.jsonl"), batch=batch
    )


def test_fifty_lines_go_in_and_their_answers_come_back(
    batchd: BatchdProcess, model: ModelProcess, inbox: Path
) -> None:
    data = request_lines(LINES - 1) + request_lines(1, "400", prefix="bad")
    drop(inbox, "work.jsonl", data)
    summary = check(account(inbox, "work", data), log=model.events)
    assert (summary.total, summary.output_lines, summary.error_lines) == (LINES, LINES - 1, 1)
    assert (inbox / "done/work.jsonl").read_bytes() == data
    assert names_in(inbox / "outbox") == [
        "work.errors.jsonl",
        "work.output.jsonl",
        "work.status.json",
    ]
    result = account(inbox, "work", data).batch
    assert Jobs(batchd.url).get(result["id"]) == result
    assert "inbox_taken file=work.jsonl" in batchd.log_text()
    wait_until(lambda: "inbox_delivered file=work.jsonl" in batchd.log_text())


def test_an_input_that_fails_validation_is_reported_by_line(
    batchd: BatchdProcess, inbox: Path
) -> None:
    data = request_lines(3).replace(b'"POST"', b'"PUT"', 1)
    drop(inbox, "work.jsonl", data)
    assert account(inbox, "work", data).batch["status"] == "failed"
    report = json.loads((inbox / "rejected/work.error.json").read_text())
    assert (report["file"], report["line"], report["code"]) == ("work.jsonl", 1, "invalid_value")
    assert batchd.exit_code is None


def test_the_status_is_kept_up_to_date_and_options_count(
    batchd: BatchdProcess, model: ModelProcess, inbox: Path
) -> None:
    data = request_lines(LINES)
    model.set(delay=0.5)
    drop(inbox, "work.toml", b'metadata = { team = "red" }\npriority = -3\n')
    drop(inbox, "work.jsonl", data)
    status = inbox / "outbox/work.status.json"
    seen: list[int] = []

    def is_half_done() -> bool:
        batch = json.loads(status.read_bytes()) if status.exists() else None
        if batch is not None and batch["status"] == "in_progress":
            seen.append(batch["request_counts"]["completed"])
        return bool(seen) and 0 < seen[-1] < LINES

    wait_until(is_half_done, within=15)
    assert not (inbox / "outbox/work.output.jsonl").exists()
    model.set(delay=0)
    result = account(inbox, "work", data)
    check(result, log=model.events)
    assert Jobs(batchd.url).get(result.batch["id"]) == result.batch
    assert seen == sorted(seen), "the counts went back"
    assert result.batch["metadata"] == {"team": "red"}
    assert result.batch["batchd"]["priority"] == -3
    assert names_in(inbox / "done") == ["work.jsonl", "work.toml"]


def test_batches_of_other_doors_leave_the_inbox_alone(batchd: BatchdProcess, inbox: Path) -> None:
    jobs, data = Jobs(batchd.url), request_lines(3)
    ours = jobs.start(data)
    drop(inbox, "work.jsonl", data)
    jobs.wait(ours)
    account(inbox, "work", data)
    again = jobs.start(data)
    jobs.wait(again)
    drop(inbox, "last.jsonl", data)
    account(inbox, "last", data)
    assert names_in(inbox / "outbox") == [
        "last.output.jsonl",
        "last.status.json",
        "work.output.jsonl",
        "work.status.json",
    ]
    assert names_in(inbox / "done") == ["last.jsonl", "work.jsonl"]
    assert names_in(inbox / "rejected") == []


@pytest.mark.timeout(90)
def test_each_file_is_one_batch_however_often_batchd_is_killed(
    batchd: BatchdProcess, model: ModelProcess, inbox: Path
) -> None:
    names = [f"work-{number}" for number in range(6)]
    inputs = {name: request_lines(LINES, prefix=name) for name in names}
    for number, name in enumerate(names):
        drop(inbox, f"{name}.jsonl", inputs[name])
        if number % 2:
            # Killed at once, between drop and pick-up, or somewhat later in the middle of it all.
            wait_until(lambda log=f"{names[number - 1]}.jsonl": log in batchd.log_text())
            batchd.restart()
    for name in names:
        resent = 2 * SLOTS * len(names)
        check(account(inbox, name, inputs[name]), log=model.events, resent_allowed=resent)
    assert len(listed(batchd)) == len(names)
    assert names_in(inbox / "done") == [f"{name}.jsonl" for name in names]
    assert len(names_in(inbox / "outbox")) == 2 * len(names)


def test_what_was_dropped_and_finished_while_it_was_down_is_not_lost(
    batchd: BatchdProcess, model: ModelProcess, inbox: Path
) -> None:
    data = request_lines(LINES)
    model.set(delay=0.2)
    drop(inbox, "running.jsonl", data)
    wait_until(lambda: "inbox_taken" in batchd.log_text())
    batchd.kill()
    model.set(delay=0)
    drop(inbox, "waiting.jsonl", data)
    batchd.start()
    for name in ("running", "waiting"):
        check(account(inbox, name, data), log=None)
    assert len(listed(batchd)) == 2


def test_a_directory_that_cannot_be_used_is_a_configuration_error(
    tmp_path: Path, model: ModelProcess
) -> None:
    (tmp_path / "file").touch()
    batchd = BatchdProcess(
        tmp_path / "other",
        backend=model.base_url,
        settings={"inbox": {"directory": str(tmp_path / "file" / "inbox")}},
    )
    batchd.launch()
    assert batchd.wait() == 78
    assert "the inbox directory" in batchd.log_text()
