import json

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import RUNNING, FakeApi

ASKED = {"endpoint": "/v1/embeddings", "input_file_id": "file-1", "completion_window": "24h"}


@pytest.fixture
def batch(api: FakeApi) -> str:
    api.steps = [RUNNING]
    return api.add_batch(ASKED)["id"]


def test_a_pause_says_what_goes_on_and_how_to_resume(run: Run, batch: str) -> None:
    result = run("pause", batch)
    assert (result.code, result.out) == (0, f"{batch} paused: 1 of 4 lines\n")
    assert "Its window goes on, and ends " in result.err
    assert f"batchd resume {batch}" in result.err


def test_a_paused_batch_is_shown_as_such_until_it_is_resumed(run: Run, batch: str) -> None:
    assert json.loads(run("pause", batch, "--json").out)["batchd"]["paused_at"]
    assert run("list").out.splitlines()[1].split()[1] == "paused"
    shown = run("show", batch).out
    assert shown.startswith(f"{batch} paused (in_progress)\n")
    assert "\npaused    since 2023-11-14 " in shown
    assert f"go on: batchd resume {batch}" in shown
    assert run("resume", batch).out == f"{batch} in_progress: 1 of 4 lines\n"
    assert run("list").out.splitlines()[1].split()[1] == "in_progress"


def test_a_pause_that_is_refused_does_not_stop_the_others(
    run: Run, api: FakeApi, batch: str
) -> None:
    api.refuse("POST", 409, "Cannot pause a batch with status 'completed'.")
    result = run("pause", batch, batch)
    assert result.code == 1
    assert "Cannot pause" in result.err
    assert f"{batch} paused" in result.out
    api.refuse("POST", 409, "Cannot resume a batch with status 'completed'.")
    assert run("resume", batch).code == 1


def test_a_priority_may_be_negative(run: Run, api: FakeApi, batch: str) -> None:
    assert run("priority", batch, "-7").out == f"{batch} in_progress, priority -7\n"
    assert api.batches[batch]["batchd"]["priority"] == -7
    assert json.loads(run("priority", batch, "3", "--json").out)["batchd"]["priority"] == 3
    for wrong in ("11", "-11", "--no", "much"):
        assert run("priority", batch, wrong).code == 2


def test_show_names_the_batch_whose_lines_are_run_again(run: Run, api: FakeApi) -> None:
    child = api.add_batch(ASKED | {"parent_id": "batch_first"})["id"]
    assert "parent    batch_first" in run("show", child).out
