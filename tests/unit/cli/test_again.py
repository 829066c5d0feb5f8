import json
import os
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import COMPLETED, RUNNING, FakeApi

ASKED = {"endpoint": "/v1/embeddings", "input_file_id": "file-1", "completion_window": "24h"}


@pytest.fixture
def batch(api: FakeApi) -> str:
    return api.add_batch(ASKED)["id"]


def test_a_retry_prints_the_new_id_and_how_to_come_back(run: Run, api: FakeApi, batch: str) -> None:
    result = run("retry", batch)
    assert (result.code, result.out) == (0, "batch_2\n")
    assert "batchd wait batch_2" in result.err
    assert "batchd results batch_2 --merged -o FILE" in result.err
    assert api.batches["batch_2"]["batchd"]["parent_id"] == batch
    assert api.batches["batch_2"]["retried"] == {}


def test_what_is_asked_for_is_handed_on(run: Run, api: FakeApi, batch: str) -> None:
    options = ("--code", "503", "--code", "batch_expired", "--priority", "-2", "--window", "1h")
    assert json.loads(run("retry", batch, *options, "--metadata", "k=v", "--json").out)
    assert api.batches["batch_2"]["retried"] == {
        "codes": ["503", "batch_expired"],
        "completion_window": "1h",
        "metadata": {"k": "v"},
        "priority": -2,
    }


def test_waiting_shows_how_it_ends_and_fetches_what_is_named(
    run: Run, api: FakeApi, batch: str, tmp_path: Path
) -> None:
    api.steps = [RUNNING, COMPLETED]
    out, err = tmp_path / "out", tmp_path / "err"
    result = run("retry", batch, "--wait", "-o", out, "--errors", err)
    assert result.code == 0
    assert "batch_2 completed: 3 of 4 lines answered, 1 failed" in result.out
    assert "batchd retry batch_2" in result.err
    assert out.read_bytes() == api.contents["file-out"]
    assert err.read_bytes() == api.contents["file-err"]
    assert "--merged" in run("retry", batch, "--wait").err
    assert json.loads(run("retry", batch, "--wait", "--json").out)["status"] == "completed"


def test_a_retry_whose_answer_was_lost_makes_one_batch(run: Run, api: FakeApi, batch: str) -> None:
    api.lost_answers = 1
    assert run("retry", batch).out == "batch_2\n"
    assert len(api.batches) == 2


def test_what_cannot_be_retried_is_said_at_once(run: Run, api: FakeApi, batch: str) -> None:
    api.refuse(f"POST /v1/batches/{batch}/retry", 409, "Cannot retry batch_1: nothing failed.")
    result = run("retry", batch)
    assert (result.code, result.err) == (1, "batchd: Cannot retry batch_1: nothing failed.\n")
    assert "No batch found" in run("retry", "nope").err


@pytest.mark.parametrize(
    "options",
    [("-o", "out"), ("--wait", "-o", "-", "--json"), ("--metadata", "x"), ("--priority", "99")],
)
def test_options_that_make_no_sense_are_a_usage_error(
    run: Run, api: FakeApi, batch: str, options: tuple[str, ...]
) -> None:
    api.requests.clear()
    assert run("retry", batch, *options).code == 2
    assert api.requests == []
    assert not Path(os.curdir, "out").exists()
