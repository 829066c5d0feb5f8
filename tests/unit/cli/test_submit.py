import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import ALL_FAILED, COMPLETED, FAILED, RUNNING, FakeApi


def test_submit_prints_the_id_alone_on_standard_output(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    result = run("submit", prompts)
    assert result.code == 0
    assert result.out == "batch_1\n"
    assert "batchd wait batch_1" in result.err
    assert api.contents["file-1"] == prompts.read_bytes()
    assert api.files["file-1"]["filename"] == "prompts.jsonl"
    assert api.batches["batch_1"]["endpoint"] == "/v1/chat/completions"


def test_submit_hands_on_window_metadata_and_endpoint(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    metadata = ("--metadata", "a=1", "--metadata", "b=x=y")
    assert run("submit", prompts, *metadata, "--window", "1h", "--endpoint", "/v1/x").code == 0
    batch = api.batches["batch_1"]
    assert batch["metadata"] == {"a": "1", "b": "x=y"}
    assert batch["completion_window"] == "1h"
    assert batch["endpoint"] == "/v1/x"


def test_submit_hands_on_a_priority_within_its_range(run: Run, api: FakeApi, prompts: Path) -> None:
    assert run("submit", prompts, "--priority", "-4").code == 0
    assert api.batches["batch_1"]["batchd"]["priority"] == -4
    assert run("submit", prompts, "--priority", "11").code == 2
    assert len(api.batches) == 1


def test_submit_json_prints_one_object_for_each_batch(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    result = run("submit", prompts, prompts, "--json")
    assert [json.loads(line) for line in result.out.splitlines()] == list(api.batches.values())


def test_waiting_fetches_both_files_beside_the_input(run: Run, api: FakeApi, prompts: Path) -> None:
    api.steps = [RUNNING, COMPLETED]
    result = run("submit", prompts, "--wait")
    assert result.code == 0
    assert prompts.with_name("prompts.output.jsonl").read_bytes() == api.contents["file-out"]
    assert prompts.with_name("prompts.errors.jsonl").read_bytes() == api.contents["file-err"]
    assert "3 of 4 lines answered, 1 failed" in result.out
    assert "prompts.jsonl: in_progress 1 of 4 lines" in result.err


def test_answers_can_go_to_standard_output_and_nothing_else_does(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    result = run("submit", prompts, "--wait", "-o", "-")
    assert result.out.encode() == api.contents["file-out"]
    assert "batch_1" in result.err


def test_waiting_with_json_prints_the_finished_batch(run: Run, prompts: Path) -> None:
    result = run("submit", prompts, "--wait", "--json")
    assert json.loads(result.out)["status"] == "completed"


@pytest.mark.parametrize("name", ["prompts.output.jsonl", "prompts.errors.jsonl"])
def test_an_existing_result_file_stops_it_before_anything_is_sent(
    run: Run, api: FakeApi, prompts: Path, name: str
) -> None:
    prompts.with_name(name).write_text("mine")
    result = run("submit", prompts, "--wait")
    assert result.code == 1
    assert "exists already" in result.err
    assert "--force" in result.err
    assert api.requests == []
    assert prompts.with_name(name).read_text() == "mine"


def test_force_replaces_older_results_and_leaves_no_stale_ones(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    api.steps = [ALL_FAILED]
    prompts.with_name("prompts.output.jsonl").write_text("old")
    prompts.with_name("prompts.errors.jsonl").write_text("old")
    assert run("submit", prompts, "--wait", "--force").code == 0
    assert not prompts.with_name("prompts.output.jsonl").exists()
    assert prompts.with_name("prompts.errors.jsonl").read_bytes() == api.contents["file-err"]


def test_a_batch_that_failed_says_which_line_and_why(run: Run, api: FakeApi, prompts: Path) -> None:
    api.steps = [FAILED]
    result = run("submit", prompts, "--wait")
    assert result.code == 1
    assert "line 3: invalid_json_line: This line is not parseable as valid JSON." in result.out


def test_a_download_that_breaks_off_is_fetched_again(run: Run, api: FakeApi, prompts: Path) -> None:
    api.cut_downloads = 1
    result = run("submit", prompts, "--wait")
    assert result.code == 0
    assert "broke off" in result.err
    assert prompts.with_name("prompts.output.jsonl").read_bytes() == api.contents["file-out"]
    assert {path.name for path in prompts.parent.iterdir()} == {
        "prompts.jsonl",
        "prompts.output.jsonl",
        "prompts.errors.jsonl",
    }


def test_a_daemon_that_fails_for_a_moment_is_waited_for(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    api.refuse("GET /v1/batches", 503, "Starting.")
    result = run("submit", prompts, "--wait")
    assert result.code == 0
    assert "waiting for batchd: Starting." in result.err
    assert "batchd answers again" in result.err


def test_an_upload_whose_batch_is_refused_is_taken_back(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    api.refuse("POST /v1/batches", 400, "Invalid value: '/v1/x'.")
    result = run("submit", prompts)
    assert result.code == 1
    assert "Invalid value: '/v1/x'." in result.err
    assert api.files == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"not json\n", "is not JSON"),
        (b"[1]\n", "has no url"),
        (b'{"url": 3}\n', "has no url"),
    ],
)
def test_an_input_without_an_endpoint_is_refused_here(
    run: Run, api: FakeApi, tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    result = run("submit", path)
    assert result.code == 1
    assert sentence in result.err
    assert api.requests == []


def test_blank_lines_and_a_byte_order_mark_do_not_hide_the_endpoint(
    run: Run, api: FakeApi, tmp_path: Path
) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b'\n\xef\xbb\xbf{"url":"/v1/embeddings"}')
    assert run("submit", path, "--wait").code == 0
    assert api.batches["batch_1"]["endpoint"] == "/v1/embeddings"
    assert (tmp_path / "in.txt.output.jsonl").exists()


def test_an_input_that_is_not_there_or_not_a_file_is_said(
    run: Run, api: FakeApi, tmp_path: Path
) -> None:
    assert "No such file" in run("submit", tmp_path / "none.jsonl").err
    assert "Is a directory" in run("submit", tmp_path).err
    assert "is not a file" in run("submit", "/dev/null").err
    assert api.requests == []


def test_all_inputs_are_looked_at_before_the_first_is_sent(
    run: Run, api: FakeApi, prompts: Path, tmp_path: Path
) -> None:
    assert run("submit", prompts, tmp_path / "none.jsonl").code == 1
    assert api.requests == []


@pytest.mark.parametrize(
    "args",
    [
        ("-o", "out.jsonl"),
        ("--wait", "-o", "-", "--json"),
        ("--wait", "-o", "-", "--errors", "-"),
        ("--metadata", "novalue"),
        ("--metadata", "=x"),
    ],
)
def test_options_that_make_no_sense_are_a_usage_error(
    run: Run, api: FakeApi, prompts: Path, args: tuple[str, ...]
) -> None:
    assert run("submit", prompts, *args).code == 2
    assert api.requests == []


def test_results_never_go_to_the_input(run: Run, api: FakeApi, prompts: Path) -> None:
    assert run("submit", prompts, "--wait", "--force", "-o", prompts).code == 2
    assert run("submit", prompts, prompts, "--wait", "-o", "x").code == 2
    assert api.requests == []
