import json
import shlex
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import ALL_FAILED, RUNNING, FakeApi, FakeResults

ASKED = {"endpoint": "/v1/embeddings", "input_file_id": "file-1", "completion_window": "24h"}


def line(custom_id: str) -> bytes:
    return b'{"id":"batch_req_0","custom_id":"%b","response":null}\n' % custom_id.encode()


@pytest.fixture
def batch(api: FakeApi) -> str:
    return api.add_batch(ASKED)["id"]


@pytest.fixture
def some(api: FakeApi, batch: str) -> FakeResults:
    """A batch that runs, with two answers and a failed line so far."""
    api.steps = [RUNNING]
    api.results[batch] = FakeResults([line("a"), line("b")], [line("x")], more=True)
    return api.results[batch]


def test_results_go_to_standard_output(run: Run, api: FakeApi, batch: str) -> None:
    assert run("results", batch).out.encode() == api.contents["file-out"]
    assert run("results", batch, "--errors", "-").out.encode() == api.contents["file-err"]


def test_results_go_to_files(run: Run, api: FakeApi, batch: str, tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    assert run("results", batch, "-o", out, "--errors", err).code == 0
    assert out.read_bytes() == api.contents["file-out"]
    assert err.read_bytes() == api.contents["file-err"]
    result = run("results", batch, "-o", out)
    assert result.code == 1
    assert "exists already" in result.err
    assert run("results", batch, "-o", out, "--force").code == 0


def test_results_that_are_not_there_are_said(run: Run, api: FakeApi, batch: str) -> None:
    api.steps = [ALL_FAILED]
    result = run("results", batch)
    assert (result.code, result.out) == (1, "")
    assert "0 of 4 lines answered, 4 failed" in result.err
    assert run("results", batch, "--errors", "-").code == 0


def test_results_that_have_expired_are_said(run: Run, api: FakeApi, batch: str) -> None:
    del api.contents["file-out"]
    result = run("results", batch)
    assert result.code == 1
    assert "file-out were deleted or have expired" in result.err


def test_results_of_several_batches_come_as_one(run: Run, api: FakeApi, tmp_path: Path) -> None:
    ids = [api.add_batch(ASKED)["id"] for _ in range(3)]
    assert run("results", *ids, "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out").read_bytes() == api.contents["file-out"] * 3


def test_a_running_batch_gives_what_there_is_and_says_how_to_go_on(
    run: Run, batch: str, some: FakeResults
) -> None:
    result = run("results", batch)
    assert result.code == 0
    assert result.out.encode() == line("a") + line("b")
    assert f"{batch} in_progress: 1 of 4 lines so far" in result.err
    assert f"batchd results {batch} --after 2-0\n" in result.err
    assert f"batchd results {batch} --follow --after 2-0\n" in result.err
    assert some.asked == [{"status": "completed"}]


def test_going_on_appends_what_is_new(
    run: Run, batch: str, some: FakeResults, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("results", batch, "-o", out).code == 0
    some.lines["completed"].append(line("c"))
    result = run("results", batch, "-o", out, "--after", "2-0")
    assert out.read_bytes() == line("a") + line("b") + line("c")
    assert f"--after 3-0 -o {out}" in result.err
    nothing = run("results", batch, "-o", out, "--after", "3-0")
    assert nothing.code == 1
    assert out.read_bytes() == line("a") + line("b") + line("c")


def commands(err: str) -> list[list[str]]:
    """The options of the commands that ``err`` tells to go on with."""
    told = [text for text in err.splitlines() if text.startswith("  batchd results")]
    return [shlex.split(text)[1:] for text in told]


def test_what_was_appended_does_not_come_again_when_the_other_file_fails(
    run: Run, batch: str, some: FakeResults, tmp_path: Path
) -> None:
    out, err = tmp_path / "the answers", tmp_path / "err"
    broken = run("results", batch, "--after", "0-0", "-o", out, "--errors", "/dev/full")
    assert broken.code == 1
    assert "/dev/full cannot be written: No space left on device" in broken.err
    assert out.read_bytes() == line("a") + line("b")
    behind, missing = commands(broken.err)
    assert behind == ["results", batch, "--after", "2-0", "-o", str(out)]
    assert missing == ["results", batch, "--after", "0-0", "--errors", "/dev/full"]
    some.lines["completed"].append(line("c"))
    assert run(*behind).code == 0
    assert run(*missing[:-1], err).code == 0
    assert out.read_bytes() == line("a") + line("b") + line("c")
    assert err.read_bytes() == line("x")


def test_a_file_that_was_cut_back_gets_its_lines_when_it_goes_on(
    run: Run, batch: str, some: FakeResults, tmp_path: Path
) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    err.write_bytes(b"old\n")
    some.broken, some.more = "failed", False
    broken = run("results", batch, "--after", "0-0", "-o", out, "--errors", err)
    assert (out.read_bytes(), err.read_bytes()) == (line("a") + line("b"), b"old\n")
    some.broken = ""
    (missing,) = commands(broken.err)
    assert run(*missing).code == 0
    assert (out.read_bytes(), err.read_bytes()) == (line("a") + line("b"), b"old\n" + line("x"))


def test_a_file_that_was_to_be_replaced_and_could_not_be_gets_no_line_twice(
    run: Run, batch: str, some: FakeResults, tmp_path: Path
) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    err.write_bytes(line("x"))
    some.broken = "failed"
    broken = run("results", batch, "-o", out, "--errors", err, "--force", "--completed")
    assert err.read_bytes() == line("x")
    behind, missing = commands(broken.err)
    assert behind == ["results", batch, "--after", "2-0", "--completed", "-o", str(out)]
    assert missing == ["results", batch, "--errors", str(err), "--force"]
    some.broken = ""
    some.lines["completed"].append(line("c"))
    assert (run(*behind).code, run(*missing).code) == (0, 0)
    assert out.read_bytes() == line("a") + line("b") + line("c")
    assert err.read_bytes() == line("x")


def test_what_tells_how_to_go_on_never_appends_to_a_file_that_was_left_alone(
    run: Run, batch: str, some: FakeResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    link = Path.hardlink_to

    def appeared(self: Path, target: Path) -> None:
        if self.name == "err":
            self.write_bytes(b"theirs\n")
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", appeared)
    broken = run("results", batch, "-o", out, "--errors", err)
    assert "appeared meanwhile and was left alone" in broken.err
    behind, missing = commands(broken.err)
    some.lines["completed"].append(line("c"))
    assert (run(*behind).code, run(*missing).code) == (0, 1)
    assert err.read_bytes() == b"theirs\n"
    assert run(*missing[:-1], tmp_path / "another").code == 0
    assert out.read_bytes() == line("a") + line("b") + line("c")
    assert (tmp_path / "another").read_bytes() == line("x")


def test_nothing_to_go_on_from_is_told_when_nothing_was_written(
    run: Run, batch: str, some: FakeResults, tmp_path: Path
) -> None:
    both, out = ("--completed", "--failed"), tmp_path / "out"
    some.broken = "failed"  # when the answers are there already
    result = run("results", batch, *both, "--after", "0-0", "-o", out)
    assert result.code == 1
    assert "go on" not in result.err
    assert out.read_bytes() == b""


def test_ctrl_c_between_the_two_files_says_how_to_go_on(
    run: Run, batch: str, some: FakeResults, tmp_path: Path
) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    some.interrupted = "failed"
    broken = run("results", batch, "-o", out, "--errors", err)
    assert broken.code == 1
    assert broken.err.endswith("batchd: interrupted\n")
    _, missing = commands(broken.err)
    assert run(*missing).code == 0
    assert (out.read_bytes(), err.read_bytes()) == (line("a") + line("b"), line("x"))


def test_both_kinds_of_lines_go_where_they_are_wanted(
    run: Run, batch: str, some: FakeResults, tmp_path: Path
) -> None:
    assert run("results", batch, "--failed").out.encode() == line("x")
    both = run("results", batch, "--failed", "--completed").out.encode()
    assert both == line("a") + line("b") + line("x")
    out, err = tmp_path / "out", tmp_path / "err"
    told = json.loads(run("results", batch, "-o", out, "--errors", err, "--json").out)
    assert (out.read_bytes(), err.read_bytes()) == (line("a") + line("b"), line("x"))
    assert (told["next_cursor"], told["has_more"]) == ("2-1", True)
    assert (told["output"], told["errors"]) == (str(out), str(err))
    assert told["batch"]["id"] == batch
    assert {tuple(asked) for asked in some.asked[3:]} == {("status",), ("status", "after")}


def test_inputs_are_asked_for_and_handed_on_when_it_goes_on(
    run: Run, batch: str, some: FakeResults
) -> None:
    assert "--with-input" in run("results", batch, "--with-input").err
    assert some.asked == [{"status": "completed", "include": "input"}]


def test_a_running_batch_without_results_yet_is_nothing_to_download(
    run: Run, api: FakeApi, batch: str, tmp_path: Path
) -> None:
    api.steps = [RUNNING]
    api.results[batch] = FakeResults([], [], more=True)
    result = run("results", batch, "-o", tmp_path / "out")
    assert (result.code, result.out) == (1, "")
    assert "There will be more" in result.err
    assert list(tmp_path.iterdir()) == []


def test_following_a_batch_that_has_ended_is_fetching_it(
    run: Run, api: FakeApi, batch: str, tmp_path: Path
) -> None:
    api.results[batch] = FakeResults([line("a")], [], more=False)
    result = run("results", batch, "--follow")
    assert (result.code, result.out.encode()) == (0, line("a"))
    assert "completed: 3 of 4 lines answered" in result.err
    out, err = tmp_path / "out", tmp_path / "err"
    assert run("results", batch, "--follow", "-o", out, "--errors", err).code == 0
    assert out.read_bytes() == line("a")
    assert not err.exists()


def test_merged_results_tell_what_was_joined(run: Run, api: FakeApi, tmp_path: Path) -> None:
    first = api.add_batch(ASKED)["id"]
    second = api.add_batch(ASKED | {"parent_id": first})["id"]
    api.results[first] = FakeResults([line("a")], [line("x"), line("y")], more=False)
    api.results[second] = FakeResults([line("x")], [line("y")], more=False)
    out, err = tmp_path / "out", tmp_path / "err"
    result = run("results", first, "--merged", "-o", out, "--errors", err)
    assert result.code == 0
    assert "2 batches merged: 2 lines answered, 1 not" in result.err
    assert (out.read_bytes(), err.read_bytes()) == (line("x") + line("a"), line("y"))
    told = json.loads(run("results", second, "--merged", "-o", out, "--force", "--json").out)
    assert (told["answered"], told["failed"]) == (2, 1)
    assert told["batches"] == [second, first]


def test_merging_says_which_retry_still_runs(run: Run, api: FakeApi) -> None:
    first = api.add_batch(ASKED)["id"]
    second = api.add_batch(ASKED | {"parent_id": first})["id"]
    for batch_id in (first, second):
        api.results[batch_id] = FakeResults([], [line("x")], more=True)
    api.steps = [RUNNING]
    result = run("results", second, "--merged")
    assert result.code == 1
    assert f"{second} is in_progress" in result.err
    assert "(--errors FILE has these)" in result.err


@pytest.mark.parametrize(
    "options",
    [
        ("--merged", "--follow"),
        ("--merged", "--after", "1-1"),
        ("--merged", "--failed"),
        ("--failed", "--errors", "x"),
        ("--json",),
        ("-o", "-", "--json"),
    ],
)
def test_options_that_make_no_sense_together_are_a_usage_error(
    run: Run, api: FakeApi, options: tuple[str, ...]
) -> None:
    assert run("results", "batch_1", *options).code == 2
    assert run("results", "batch_1", "batch_2", "--follow").code == 2
    assert api.requests == []


def test_ctrl_c_says_how_to_go_on_with_the_same_lines_to_the_same_places(
    run: Run, api: FakeApi, batch: str, some: FakeResults, tmp_path: Path
) -> None:
    out, err = tmp_path / "the answers", tmp_path / "err"
    api.interrupted_at = f"GET /v1/batches/{batch}"
    command = ("results", batch, "--follow", "-o", out, "--errors", err)
    assert run(*command).err == "\nbatchd: interrupted\n"  # before it has begun
    assert list(tmp_path.iterdir()) == []
    api.interrupted_at = f"GET /v1/batches/{batch}/results"
    result = run(*command)
    assert result.code == 1
    assert "Detached; the batch goes on." in result.err
    assert f"  batchd results {batch} --follow -o '{out}' --errors {err} --force\n" in result.err
    some.more = False
    assert run(*command, "--force").code == 0
    assert (out.read_bytes(), err.read_bytes()) == (line("a") + line("b"), line("x"))


def test_a_full_disk_while_following_is_one_sentence_with_what_to_do(
    run: Run, batch: str, some: FakeResults
) -> None:
    result = run("results", batch, "--follow", "-o", "/dev/full")
    assert result.code == 1
    assert "the results cannot be written: No space left on device. To go on" in result.err
    assert f"batchd results {batch} --follow" in result.err
    assert some.more


def test_a_place_that_cannot_be_written_is_said_before_anything_is_followed(
    run: Run, api: FakeApi, batch: str, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("mine")
    assert "exists already" in run("results", batch, "--follow", "-o", tmp_path / "out").err
    assert api.requests == []


def test_a_first_batch_that_is_gone_is_said_when_merging(run: Run, api: FakeApi) -> None:
    only = api.add_batch(ASKED | {"parent_id": "batch_gone"})["id"]
    api.results[only] = FakeResults([line("a")], [], more=False)
    result = run("results", only, "--merged")
    assert result.out.encode() == line("a")
    assert "1 batch merged: 1 line answered, 0 not" in result.err
    assert "batch_gone, of which they are retries, is gone" in result.err
