import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import COMPLETED, FAILED, RUNNING, FakeApi

ASKED = {"endpoint": "/v1/embeddings", "input_file_id": "file-1", "completion_window": "24h"}


@pytest.fixture
def batch(api: FakeApi) -> str:
    return api.add_batch(ASKED)["id"]


def test_list_shows_the_newest_first(run: Run, api: FakeApi) -> None:
    for _ in range(3):
        api.add_batch(ASKED)
    head, *rows = run("list").out.splitlines()
    assert head.split() == ["ID", "STATUS", "DONE", "FAILED", "CREATED", "ENDPOINT"]
    assert [row.split()[0] for row in rows] == ["batch_3", "batch_2", "batch_1"]


def test_list_says_that_there_are_more(run: Run, api: FakeApi) -> None:
    for _ in range(3):
        api.add_batch(ASKED)
    result = run("list", "--limit", "2")
    assert len(result.out.splitlines()) == 3
    assert "--all" in result.err


def test_list_all_goes_through_every_page(run: Run, api: FakeApi) -> None:
    for _ in range(230):
        api.add_batch(ASKED)
    listed = json.loads(run("list", "--all", "--json").out)
    assert len(listed["data"]) == 230
    assert (listed["first_id"], listed["last_id"]) == ("batch_230", "batch_1")
    assert listed["has_more"] is False
    assert len(api.requests) == 3


def test_an_empty_list_is_said_in_words_and_is_no_failure(run: Run) -> None:
    result = run("list")
    assert (result.code, result.out, result.err) == (0, "", "No batches.\n")
    assert json.loads(run("list", "--json").out)["data"] == []


def test_show_tells_what_there_is_and_json_hands_on_the_object(
    run: Run, api: FakeApi, batch: str
) -> None:
    api.steps = [COMPLETED]
    api.batches[batch]["batchd"]["notes"] = ["the backend cannot be reached"]
    api.batches[batch]["metadata"] = {"k": "v"}
    text = run("show", batch).out
    for fact in ("completed", "4 of 4 lines, 1 failed", "file-out", "file-err", "k=v", "12 in"):
        assert fact in text
    assert "note      the backend cannot be reached" in text
    assert json.loads(run("show", batch, "--json").out) == api.batches[batch]


def test_show_tells_how_many_lines_are_tried_again_and_why(
    run: Run, api: FakeApi, batch: str
) -> None:
    api.steps = [RUNNING]
    assert "retrying" not in run("show", batch).out
    again = {"lines": 1200, "kinds": {"timeout": 200, "http_503": 1000}}
    api.batches[batch]["batchd"] |= {"retrying": again, "priority": -3}
    text = run("show", batch).out
    assert "retrying  1,200 lines: http_503 1,000, timeout 200\n" in text
    assert "priority  -3\n" in text


def test_show_lists_every_fault_of_the_input(run: Run, api: FakeApi, batch: str) -> None:
    api.steps = [FAILED]
    assert "line 3: invalid_json_line:" in run("show", batch).out


def test_an_object_without_our_extension_is_shown_too(run: Run, api: FakeApi, batch: str) -> None:
    for key in ("batchd", "usage", "expires_at", "model"):
        del api.batches[batch][key]
    assert run("show", batch).code == 0


def test_escape_sequences_from_the_server_do_not_reach_the_terminal(
    run: Run, api: FakeApi, batch: str
) -> None:
    api.batches[batch] |= {"model": "\x1b[31mred\x1b]0;title\x07", "endpoint": "\x1b[2J"}
    assert "\x1b" not in run("show", batch).out + run("list").out


def test_waiting_ends_with_the_last_batch(run: Run, api: FakeApi) -> None:
    api.steps = [RUNNING, COMPLETED]
    ids = [api.add_batch(ASKED)["id"] for _ in range(2)]
    result = run("wait", *ids, ids[0])
    assert result.code == 0
    assert result.out.count("completed: 3 of 4 lines answered, 1 failed") == 2


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_waiting_for_a_batch_that_does_not_complete_exits_1(
    run: Run, api: FakeApi, batch: str, status: str
) -> None:
    api.steps = [{"status": status, "request_counts": {"total": 4, "completed": 1, "failed": 0}}]
    assert run("wait", batch).code == 1
    never_ran = "3 never ran" in run("wait", batch).out
    assert never_ran is (status != "failed")


def test_wait_json_prints_each_finished_batch(run: Run, api: FakeApi, batch: str) -> None:
    assert json.loads(run("wait", batch, "--json").out) == api.batches[batch]


def test_cancel_says_the_status_that_follows(run: Run, batch: str) -> None:
    assert run("cancel", batch).out == f"{batch} cancelling\n"
    assert json.loads(run("cancel", batch, "--json").out)["status"] == "cancelling"


def test_a_cancel_that_is_refused_does_not_stop_the_others(
    run: Run, api: FakeApi, batch: str
) -> None:
    api.refuse("POST", 409, "Cannot cancel a batch with status 'completed'.")
    result = run("cancel", batch, batch)
    assert result.code == 1
    assert "Cannot cancel" in result.err
    assert "cancelling" in result.out


@pytest.mark.parametrize("command", ["show", "wait", "cancel", "results"])
def test_an_unknown_batch_is_named(run: Run, command: str) -> None:
    result = run(command, "batch_x/../y")
    assert result.code == 1
    assert "No batch found with id 'batch_x" in result.err


def test_advice_reaches_the_daemon_that_was_asked(
    offline: Run, api: FakeApi, url: str, prompts: Path
) -> None:
    at = ("--url", url)
    waited = offline("submit", prompts, "--wait", *at)
    assert f"batchd retry batch_1 --url {url}\n" in waited.err
    assert f"batchd retry batch_1 --url {url}\n" in offline("wait", "batch_1", *at).err
    again = offline("retry", "batch_1", "--wait", *at)
    assert f"batchd retry batch_2 --url {url}\n" in again.err
    api.steps = [RUNNING]
    offline("pause", "batch_1", *at)
    assert f"go on: batchd resume batch_1 --url {url}\n" in offline("show", "batch_1", *at).out
    api.refuse("POST", 409, "Cannot cancel a batch with status 'completed'.")
    assert f"batchd show batch_1 --url {url}\n" in offline("cancel", "batch_1", *at).err


def test_where_the_rest_of_many_faults_is_shown_is_told_with_the_daemon(
    offline: Run, api: FakeApi, url: str, prompts: Path
) -> None:
    (fault,) = FAILED["errors"]["data"]
    api.steps = [FAILED | {"errors": {"object": "list", "data": [fault] * 30}}]
    for command in (["submit", prompts, "--wait"], ["wait", "batch_1"], ["results", "batch_1"]):
        told = offline(*command, "--url", url)
        assert f"… and 10 more: batchd show batch_1 --url {url}\n" in told.out + told.err


def test_an_id_that_is_not_text_is_no_traceback(run: Run, api: FakeApi) -> None:
    for command in (["show"], ["cancel"], ["files", "get"], ["results", "--after", "\udce9"]):
        result = run(*command, "b\udce9")
        assert result.code == 1
        assert result.err.startswith("batchd: No such File" if "get" in command else "batchd: No b")
    assert api.requests[0] == ("GET", "/v1/batches/b\ufffd")
