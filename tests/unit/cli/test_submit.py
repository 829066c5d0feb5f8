import io
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import LINE, Run
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


def test_a_download_into_a_pipe_that_breaks_off_is_not_begun_again(
    run: Run, api: FakeApi, prompts: Path, tmp_path: Path
) -> None:
    api.cut_downloads = 1
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    result = run("submit", prompts, "--wait", "-o", pipe)
    answers = api.contents["file-out"]
    assert os.read(reader, 1000) == answers[: len(answers) // 2]
    os.close(reader)
    assert result.code == 1
    assert "broke off" in result.err
    assert "batchd results batch_1 -o FILE" in result.err


def test_results_that_cannot_be_written_keep_no_other_from_being_fetched(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    names = ["one", "two", "three"]
    for name in names:
        prompts.with_name(f"{name}.jsonl").write_text(LINE)
    (prompts.with_name("one.output.jsonl")).symlink_to("/dev/full")
    inputs = [prompts.with_name(f"{name}.jsonl") for name in names]
    result = run("submit", *inputs, "--wait")
    assert result.code == 1
    assert "(one.jsonl) completed: 3 of 4 lines answered" in result.out
    assert "one.output.jsonl cannot be written: No space left on device" in result.err
    assert "Fetch what there is with: batchd results batch_1 -o FILE" in result.err
    assert "batchd results batch_2" not in result.err
    for name in names[1:]:
        assert prompts.with_name(f"{name}.output.jsonl").read_bytes() == api.contents["file-out"]
        assert prompts.with_name(f"{name}.errors.jsonl").read_bytes() == api.contents["file-err"]


def test_results_that_are_gone_keep_no_other_from_being_fetched(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    prompts.write_text(LINE * 2)
    del api.contents["file-err"]
    other = prompts.with_name("other.jsonl")
    other.write_text(LINE)
    result = run("submit", prompts, other, "--wait", "--json")
    assert result.code == 1
    assert [json.loads(line)["id"] for line in result.out.splitlines()] == ["batch_1", "batch_2"]
    assert result.err.count("file-err were deleted or have expired") == 2
    assert other.with_name("other.output.jsonl").read_bytes() == api.contents["file-out"]


def test_ctrl_c_during_the_last_download_does_not_say_that_a_batch_goes_on(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    api.interrupted_at = "GET /v1/files/file-err/content"
    result = run("submit", prompts, "--wait")
    assert result.code == 1
    assert "go on" not in result.err
    assert "goes on" not in result.err
    assert "batchd wait" not in result.err
    assert "batchd results batch_1 -o FILE" in result.err


def test_ctrl_c_during_a_download_tells_of_the_others_that_go_on(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    other = prompts.with_name("other.jsonl")
    other.write_text(LINE)
    api.interrupted_at = "GET /v1/files/file-err/content"
    result = run("submit", prompts, other, "--wait")
    assert "Detached; the batch goes on." in result.err
    assert "batchd wait batch_2\n" in result.err
    assert "batchd results batch_1 -o FILE" in result.err
    assert "batchd results batch_2 -o FILE" in result.err


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
        (b"[1]\n", "is a list"),
        (b"7\n", "has no url"),
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
    assert "submit -" in run("submit", "/dev/null").err
    assert api.requests == []


def test_an_input_that_cannot_be_read_is_named(run: Run, api: FakeApi) -> None:
    result = run("submit", "/proc/self/mem")  # a file of which the first page is not there
    assert result == (1, "", "batchd: /proc/self/mem cannot be read: Input/output error\n")
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


def test_both_files_may_go_to_one_terminal(run: Run, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/dev/null")
    (tmp_path / "stderr").symlink_to("/dev/null")
    places = ("-o", tmp_path / "stdout", "--errors", tmp_path / "stderr")
    assert run("submit", prompts, "--wait", *places).code == 0


def test_results_never_go_to_the_input(run: Run, api: FakeApi, prompts: Path) -> None:
    assert run("submit", prompts, "--wait", "--force", "-o", prompts).code == 2
    assert run("submit", prompts, prompts, "--wait", "-o", "x").code == 2
    assert api.requests == []


def test_standard_input_is_an_input_and_its_answers_go_to_standard_output(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINE.encode())))
    result = run("submit", "-", "--wait")
    assert result.code == 0
    assert api.contents["file-1"] == LINE.encode()
    assert api.files["file-1"]["filename"] == "stdin.jsonl"
    assert result.out.encode() == api.contents["file-out"]
    assert "(standard input) completed" in result.err
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_not_read_when_there_is_no_daemon(
    offline: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = io.BytesIO(LINE.encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stdin))
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert "cannot reach the daemon" in offline("submit", "-", "--url", url).err
    assert stdin.tell() == 0


def limits(lines: int = 1000, size: int = 1024**2, inputs: int = 1000) -> dict[str, int]:
    return {"max_requests": lines, "max_upload_size": size, "max_embedding_inputs": inputs}


def test_a_file_over_the_limits_becomes_several_batches_and_one_pair_of_results(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    prompts.write_text(LINE * 5)
    api.limits = limits(lines=2)
    result = run("submit", prompts, "--wait", "--metadata", "k=v")
    assert result.code == 0
    assert "(5 lines, 365 B) is sent as 3 batches: one takes at most 2 lines, 1.0 MiB" in result.err
    assert [api.contents[f"file-{n}"] for n in (1, 2, 3)] == [
        LINE.encode() * 2,
        LINE.encode() * 2,
        LINE.encode(),
    ]
    assert [batch["metadata"] for batch in api.batches.values()] == [
        {"k": "v", "batchd_part": f"{n}/3", "batchd_input": "prompts.jsonl"} for n in (1, 2, 3)
    ]
    assert api.files["file-2"]["filename"] == "prompts_part_2_of_3.jsonl"
    output = prompts.with_name("prompts.output.jsonl").read_bytes()
    assert output == api.contents["file-out"] * 3
    errors = prompts.with_name("prompts.errors.jsonl").read_bytes()
    assert errors == api.contents["file-err"] * 3
    assert "(prompts.jsonl 2/3) completed" in result.out
    assert result.out.count("answers: ") == 1


def test_a_name_that_is_not_utf8_can_be_sent_in_parts(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    path = prompts.rename(prompts.with_name("caf\udce9.jsonl"))
    path.write_text(LINE * 2)
    result = run("submit", path, "--split", "1")
    assert (result.code, result.out) == (0, "batch_1\nbatch_2\n")
    sent = [batch["metadata"]["batchd_input"] for batch in api.batches.values()]
    assert sent == ["caf\ufffd.jsonl"] * 2


def test_it_can_be_split_smaller_without_waiting(run: Run, api: FakeApi, prompts: Path) -> None:
    prompts.write_text(LINE * 4)
    result = run("submit", prompts, "--split", "3")
    assert result.out == "batch_1\nbatch_2\n"
    assert "batchd results batch_1 batch_2 -o FILE" in result.err
    assert len(run("submit", prompts, "--split-size", "80").out.splitlines()) == 4
    assert len(api.batches) == 6


def test_a_line_that_is_not_valid_has_the_number_it_has_in_the_whole_file(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    prompts.write_text(LINE * 8)
    api.steps = [FAILED]
    result = run("submit", prompts, "--wait", "--split", "4")
    assert result.code == 1
    assert "line 3: invalid_json_line" in result.out
    assert "line 7: invalid_json_line" in result.out


def test_an_input_that_is_refused_says_what_goes_on_already(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    wrong = prompts.with_name("wrong.jsonl")
    wrong.write_text(LINE)
    api.refuse("POST /v1/batches", 400, "No more.")
    assert run("submit", wrong).err == "batchd: No more.\n"
    prompts.write_text(LINE * 2)
    api.refuse_after = 1
    result = run("submit", prompts, "--split", "1")
    assert result.code == 1
    assert "part 2 of 2 of prompts.jsonl was not submitted: Enough." in result.err
    assert "going on: batch_1" in result.err


def test_a_create_whose_answer_was_lost_is_repeated_and_makes_one_batch(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    api.lost_answers = 2
    result = run("submit", prompts)
    assert (result.code, result.out) == (0, "batch_1\n")
    assert api.requests.count(("POST", "/v1/batches")) == 3
    keys = {headers.get("Idempotency-Key") for headers in api.headers} - {None}
    assert len(keys) == 1
    assert len(api.batches) == 1
    assert run("submit", prompts).out == "batch_2\n"


def test_the_results_of_two_inputs_never_go_to_one_file(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    result = run("submit", prompts, prompts, "--wait")
    assert result.code == 2
    assert "the same file" in result.err
    assert run("submit", "-", "-").code == 2
    assert run("submit", "-", "--wait", "--json").code == 2
    assert api.requests == []


def test_ctrl_c_between_two_parts_says_what_goes_on(run: Run, api: FakeApi, prompts: Path) -> None:
    api.interrupted_at = "POST /v1/files"
    result = run("submit", prompts)
    assert result.code == 1
    assert result.err.endswith("batchd: interrupted before prompts.jsonl was submitted\n")
    prompts.write_text(LINE * 2)
    assert run("submit", prompts, "--split", "1").code == 0
    assert len(api.batches) == 2


def test_ctrl_c_while_a_create_is_not_answered_says_what_is_not_known(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    api.interrupted_at = "POST /v1/batches"
    result = run("submit", prompts)
    assert result.code == 1
    assert "Whether the batch was made is not known: see `batchd list`." in result.err
    assert "before prompts.jsonl was submitted" not in result.err
    assert len(api.files) == 1


def test_a_later_create_that_is_never_answered_says_what_goes_on(
    run: Run, api: FakeApi, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.cli.waiting._LONGEST_DOUBT", 0.05)
    prompts.write_text(LINE * 2)
    assert run("submit", prompts, "--split", "1").code == 0
    api.lost_after = 3
    result = run("submit", prompts, "--split", "1")
    assert result.code == 1
    assert "part 2 of 2 of prompts.jsonl: cannot reach the daemon" in result.err
    assert "Whether the batch was made is not known: see `batchd list`" in result.err
    assert "submitted before, and going on: batch_3" in result.err
    assert "was not submitted" not in result.err


def test_ctrl_c_between_upload_and_create_takes_the_upload_back(
    run: Run, api: FakeApi, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("batchd.cli.sending.create_once", interrupted)
    result = run("submit", prompts)
    assert result.err.endswith("batchd: interrupted before prompts.jsonl was submitted\n")
    assert ("POST", "/v1/files") in api.requests
    assert api.files == {}


def test_a_create_that_is_never_answered_says_what_is_not_known(
    run: Run, api: FakeApi, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.cli.waiting._LONGEST_DOUBT", 0.05)
    api.lost_answers = 1000
    result = run("submit", prompts)
    assert result.code == 1
    assert "Whether the batch was made is not known: see `batchd list`." in result.err
    assert len(api.batches) == 1


def test_an_upload_stays_where_a_proxy_does_not_know_whether_there_is_a_batch(
    run: Run, api: FakeApi, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.cli.waiting._LONGEST_DOUBT", 0.05)
    api.refusals = [("POST /v1/batches", 502, "Bad Gateway")] * 1000
    result = run("submit", prompts)
    assert result.code == 1
    assert "Whether the batch was made is not known: see `batchd list`." in result.err
    assert len(api.files) == 1


def test_detaching_from_parts_says_how_to_get_their_results_together(
    run: Run, api: FakeApi, prompts: Path
) -> None:
    prompts.write_text(LINE * 2)
    api.steps = [RUNNING]
    api.interrupted_at = "GET /v1/batches/batch_2"
    result = run("submit", prompts, "--split", "1", "--wait")
    assert result.code == 1
    assert "Detached; 2 batches go on." in result.err
    assert "batchd wait batch_1 batch_2\n" in result.err
    assert "batchd results batch_1 batch_2 -o FILE" in result.err
    assert ("POST", "/v1/batches/batch_1/cancel") not in api.requests
