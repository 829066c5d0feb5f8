"""``batchd run`` as people meet it: a file, a model server, results, and what comes between."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checker import check
from tests.support.eventlog import most_in_flight
from tests.support.jobs import backends, request_line, request_lines
from tests.support.model_process import ModelProcess
from tests.support.run_process import Ended, RunProcess, listening_sockets
from tests.support.waiting import wait_until

SLOTS = 8
WIDTH = ("--max-in-flight", str(SLOTS))


@pytest.fixture
def run(model_process: ModelProcess, tmp_path: Path) -> Iterator[RunProcess]:
    run = RunProcess(tmp_path, model_process.base_url)
    run.input.write_bytes(request_lines(60))
    yield run
    run.kill()


def numbers(results: bytes) -> list[int]:
    """The numbers of the lines, as ``request_lines`` names them."""
    return [int(str(json.loads(line)["custom_id"]).split("-")[1]) for line in results.splitlines()]


def sendings(model: ModelProcess) -> int:
    return sum(event.event == "start" for event in model.events)


def start_and_answer(run: RunProcess, model: ModelProcess, answers: int, *options: str) -> None:
    """Start it, and return when so many lines were answered and more are in flight."""
    run.start(*WIDTH, *options)
    wait_until(
        lambda: model.counts().ended >= answers and model.counts().in_flight == SLOTS, within=20
    )


def test_a_file_becomes_results_and_nothing_else_is_left(
    run: RunProcess, model_process: ModelProcess
) -> None:
    data = request_lines(40) + request_lines(3, "400", prefix="bad")
    run.input.write_bytes(data)
    ended = run.run("--json")
    assert ended.code == 0, ended.err
    summary = check(run.account(ended.batch), log=model_process.events)
    assert (summary.output_lines, summary.refused, summary.sendings) == (40, 3, 43)
    assert ended.batch["output_path"] == str(run.output)
    assert ended.batch["errors_path"] == str(run.errors)
    assert not run.state.exists()
    assert {path.name for path in run.directory.iterdir() if path.name.startswith(".")} == set()


def test_what_was_answered_and_what_failed_is_said_with_where_it_is(run: RunProcess) -> None:
    run.input.write_bytes(request_lines(40) + request_line("bad-1", "400"))
    ended = run.run()
    assert ended.code == 0
    told = ended.out.decode().splitlines()
    assert told[0].startswith("in.jsonl completed: 40 of 41 lines answered, 1 failed; tokens: ")
    assert told[1:] == [f"answers: {run.output}", f"failed lines: {run.errors}"]


def test_without_failed_lines_there_is_no_file_for_them(run: RunProcess) -> None:
    assert run.run().code == 0
    assert not run.errors.exists()


def test_without_answers_there_is_an_empty_file_of_them(run: RunProcess) -> None:
    run.input.write_bytes(request_lines(3, "400"))
    assert run.run().code == 0
    assert run.output.read_bytes() == b""
    assert len(run.errors.read_bytes().splitlines()) == 3


def test_results_may_be_read_by_whom_the_umask_lets(run: RunProcess) -> None:
    before = os.umask(0o022)
    try:
        assert run.run().code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(run.output.stat().st_mode) == 0o644


def test_no_port_is_listened_on(run: RunProcess, model_process: ModelProcess) -> None:
    model_process.set(behave="timeout")
    run.start(*WIDTH)
    wait_until(lambda: model_process.counts().in_flight == SLOTS, within=20)
    assert listening_sockets(run.pid) == []


def test_the_limits_of_a_daemon_are_not_those_of_ones_own_file(run: RunProcess) -> None:
    config = run.configure({"batches": {"max_requests": 10}, "server": {"max_upload_size": 1000}})
    assert run.run("--config", config).code == 0
    assert len(numbers(run.output.read_bytes())) == 60


def test_backends_and_limits_come_from_a_configuration(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.02)
    alone = RunProcess(run.directory, None)
    settings = {"backends": backends(model_process.base_url, max_in_flight=3)}
    assert alone.run("--config", alone.configure(settings)).code == 0
    assert most_in_flight(model_process.events) == 3


def test_a_key_comes_from_the_environment_variable_that_is_named(
    run: RunProcess, model_process: ModelProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_process.set(api_key="a-key")
    monkeypatch.setenv("MODEL_KEY", "a-key")
    ended = run.run("--api-key-env", "MODEL_KEY")
    assert ended.code == 0, ended.err
    refused = run.run("--api-key-env", "NO_KEY", "--force")
    assert (refused.code, refused.out) == (78, b"")
    assert "NO_KEY" in refused.err
    assert not run.state.exists()


def test_in_order_both_files_are_in_the_order_of_the_input(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.01, sigma=1.0)
    lines = [request_line(f"line-{n}", "400" if n % 5 == 0 else None) for n in range(200)]
    run.input.write_bytes(b"".join(lines))
    assert run.run("--in-order").code == 0
    assert numbers(run.output.read_bytes()) == [n for n in range(200) if n % 5]
    assert numbers(run.errors.read_bytes()) == list(range(0, 200, 5))


def test_progress_and_why_it_waits_are_said_on_standard_error(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.kill()
    run.start()
    wait_until(lambda: "cannot be reached" in run.told(), within=20)
    model_process.start()
    ended = run.wait()
    assert ended.code == 0
    assert "in.jsonl: in_progress 0 of 60 lines" in ended.err
    assert len(numbers(run.output.read_bytes())) == 60


def test_on_a_terminal_it_draws_how_far_it_is(run: RunProcess, model_process: ModelProcess) -> None:
    model_process.set(delay=0.1)
    ours, theirs = pty.openpty()
    run.start("--max-in-flight", "3", terminal=theirs)
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # its end of the terminal is closed
        while piece := os.read(ours, 1 << 16):
            drawn += piece
    os.close(ours)
    assert run.wait().code == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    assert re.search(r"in\.jsonl +in_progress .* \d+ %", text)
    assert re.search(r"\d+ of 60 lines, [\d.]+/s, \d+ s left, \d+ tokens \(\d+/s\)", text)


def start_on_a_terminal(run: RunProcess, *options: str) -> int:
    """Start it with a terminal for its standard error; our end of that."""
    ours, theirs = pty.openpty()
    run.start(*options, terminal=theirs)
    os.close(theirs)
    return ours


def test_a_terminal_that_has_gone_takes_no_results_with_it(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.1)
    ours = start_on_a_terminal(run, "--max-in-flight", "3", "--errors", "-")
    wait_until(lambda: model_process.counts().ended >= 6, within=20)
    os.close(ours)
    ended = run.wait()
    assert ended.code == 0
    assert len(numbers(run.output.read_bytes())) == 60
    assert not run.state.exists()


def test_a_terminal_that_has_gone_keeps_no_line_in_flight_from_finishing(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.5)
    ours = start_on_a_terminal(run, *WIDTH)
    wait_until(lambda: model_process.counts().ended >= SLOTS, within=20)
    wait_until(lambda: model_process.counts().in_flight == SLOTS)
    os.close(ours)
    run.signal(signal.SIGHUP)
    assert run.wait().code == 1
    assert len(run.recorded()) == sendings(model_process)
    assert run.run("--json").code == 0
    assert sendings(model_process) == 60


def test_nobody_to_read_what_it_says_keeps_no_result_back(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.1)
    reading, writing = os.pipe()
    os.close(reading)
    run.start("--max-in-flight", "8", "--errors", "-", terminal=writing)
    os.close(writing)
    assert run.wait().code == 0
    assert len(numbers(run.output.read_bytes())) == 60
    assert not run.state.exists()


# -- interrupted, and run again


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_lets_lines_in_flight_finish_and_sends_nothing_twice(
    run: RunProcess, model_process: ModelProcess, number: signal.Signals
) -> None:
    model_process.set(delay=0.2)
    start_and_answer(run, model_process, 16)
    run.signal(number)
    stopped = run.wait()
    assert stopped.code == 1
    finished = len(run.recorded())
    assert f"{finished} of 60 lines are done. Run the same command to go on." in stopped.err
    assert finished == sendings(model_process)
    assert not run.output.exists()
    ended = run.run(*WIDTH, "--json")
    assert ended.code == 0, ended.err
    assert f"going on, {finished} of 60 lines are done" in ended.err
    summary = check(run.account(ended.batch), log=model_process.events)
    assert (summary.output_lines, summary.sendings) == (60, 60)


def test_a_second_signal_leaves_at_once(run: RunProcess, model_process: ModelProcess) -> None:
    run.input.write_bytes(
        request_lines(20, prefix="ok") + request_lines(5, "timeout|ok", prefix="t")
    )
    run.start("--max-in-flight", "30")
    wait_until(lambda: model_process.counts().ended == 20, within=20)
    wait_until(lambda: len(run.recorded()) == 20)
    run.signal(signal.SIGINT)
    wait_until(lambda: "Stopping" in run.told())
    run.signal(signal.SIGINT)
    stopped = run.wait(within=10)  # the drain alone would be 25 s
    assert stopped.code == 1
    assert "20 of 25 lines are done." in stopped.err
    ended = run.run("--json")
    summary = check(run.account(ended.batch), log=model_process.events)
    assert (summary.output_lines, summary.sendings) == (25, 30)


def test_killed_it_goes_on_with_other_options_and_another_place_for_the_errors(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.05)
    start_and_answer(run, model_process, 16)
    run.kill()
    wait_until(lambda: model_process.counts().in_flight == 0)
    ended = run.run("--in-order", "--max-in-flight", "2", "--errors", "elsewhere.jsonl", "--json")
    assert ended.code == 0, ended.err
    check(run.account(ended.batch), log=model_process.events, resent_allowed=2 * SLOTS)
    assert numbers(run.output.read_bytes()) == list(range(60))


def test_with_force_the_same_input_goes_on_all_the_same(
    run: RunProcess, model_process: ModelProcess
) -> None:
    run.output.write_text("an older one\n")
    model_process.set(delay=0.2)
    start_and_answer(run, model_process, 16, "--force")
    run.signal(signal.SIGINT)
    assert run.wait().code == 1
    assert run.output.read_text() == "an older one\n"
    ended = run.run(*WIDTH, "--force", "--json")
    summary = check(run.account(ended.batch), log=model_process.events)
    assert summary.sendings == 60


# -- standard input and output


def test_standard_input_becomes_standard_output(run: RunProcess) -> None:
    data = request_lines(50)
    ended = run.run("-o", "-", "--in-order", source="-", stdin=data)
    assert ended.code == 0, ended.err
    assert numbers(ended.out) == list(range(50))
    assert "standard input completed: 50 of 50 lines answered" in ended.err
    assert list((run.home / "batchd" / "run").iterdir()) == []


def test_failed_lines_of_a_pipe_go_to_a_file(run: RunProcess) -> None:
    data = request_lines(5) + request_line("bad-1", "400")
    ended = run.run("-o", "-", source="-", stdin=data)
    assert ended.code == 0
    assert "failed lines: stdin.errors.jsonl" in ended.err
    assert len(numbers((run.directory / "stdin.errors.jsonl").read_bytes())) == 1


def test_a_pipe_that_was_interrupted_goes_on_when_the_same_bytes_come_again(
    run: RunProcess, model_process: ModelProcess
) -> None:
    data = run.input.read_bytes()
    model_process.set(delay=0.05)
    run.start(*WIDTH, "-o", "-", source="-", stdin=data)
    wait_until(lambda: model_process.counts().ended >= 16, within=20)
    run.kill()
    wait_until(lambda: model_process.counts().in_flight == 0)
    ended = run.run("-o", "-", source="-", stdin=data)
    assert ended.code == 0, ended.err
    assert sorted(numbers(ended.out)) == list(range(60))
    assert sendings(model_process) <= 60 + 2 * SLOTS
    assert list((run.home / "batchd" / "run").iterdir()) == []


def test_a_pipe_with_other_bytes_is_told_where_the_first_ones_are(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.2)
    run.start(*WIDTH, source="-", stdin=request_lines(60))
    wait_until(lambda: model_process.counts().ended >= 16, within=20)
    run.signal(signal.SIGINT)
    stopped = run.wait()
    assert "Run the same command with the same input to go on" in stopped.err
    refused = run.run(source="-", stdin=request_lines(3))
    assert refused.code == 1
    kept = re.search(r"its input is kept as (\S+)\)", refused.err)
    assert kept is not None, refused.err
    ended = run.run(source=kept[1])
    assert ended.code == 0, ended.err
    assert sorted(numbers(run.output.read_bytes())) == list(range(60))
    assert sendings(model_process) == 60


def test_a_pipe_that_was_interrupted_goes_on_as_it_says(
    run: RunProcess, model_process: ModelProcess
) -> None:
    """Named after the kept input, the failed lines would be in the state, and go with it."""
    data = run.input.read_bytes() + request_line("bad-1", "400")
    model_process.set(delay=0.2)
    run.start(*WIDTH, "-o", "-", source="-", stdin=data)
    wait_until(lambda: model_process.counts().ended >= 16, within=20)
    run.signal(signal.SIGINT)
    told = re.search(r"given in place of '-': (.+)$", run.wait().err, re.MULTILINE)
    assert told is not None
    source, *options = shlex.split(told[1])
    inside = run.run("-o", "-", "--errors", f"{source}.errors.jsonl", source=source)
    assert "where the run keeps its state" in refusal(inside)
    ended = run.run(*options, source=source)
    assert ended.code == 0, ended.err
    assert sorted(numbers(ended.out)) == list(range(60))
    assert len(numbers((run.directory / "stdin.errors.jsonl").read_bytes())) == 1
    assert sendings(model_process) == 61


# -- refused


def refusal(ended: Ended) -> str:
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err.startswith("batchd: ")
    return ended.err


def test_every_fault_of_an_input_is_listed_and_nothing_is_sent(
    run: RunProcess, model_process: ModelProcess
) -> None:
    good = request_line("a")
    run.input.write_bytes(good + b"nope\n" + good.replace(b"POST", b"PUT"))
    ended = run.run()
    assert ended.code == 1
    told = ended.out.decode().splitlines()
    assert told[0] == "in.jsonl is not valid: nothing was sent."
    assert [line.split(":")[0] for line in told[1:]] == ["line 2", "line 3", "line 3"]
    assert model_process.events == []
    assert not run.state.exists()
    assert not run.output.exists()


@pytest.mark.parametrize("name", ["out.jsonl", "out.errors.jsonl"])
def test_a_file_that_exists_is_not_overwritten_unless_forced(
    run: RunProcess, model_process: ModelProcess, name: str
) -> None:
    (run.directory / name).write_text("mine\n")
    assert f"{name} exists already" in refusal(run.run())
    assert (run.directory / name).read_text() == "mine\n"
    assert model_process.events == []
    assert not run.state.exists()
    assert run.run("--force").code == 0
    assert not run.errors.exists(), "an older one would pass for this run's"
    assert len(numbers(run.output.read_bytes())) == 60


def test_a_file_that_appears_meanwhile_is_left_alone_and_nothing_is_sent_again(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.05)
    start_and_answer(run, model_process, 8)
    run.output.write_text("mine\n")
    assert "appeared meanwhile and was left alone" in run.wait().err
    assert run.output.read_text() == "mine\n"
    run.output.unlink()
    assert run.run().code == 0
    assert len(numbers(run.output.read_bytes())) == 60
    assert sendings(model_process) == 60


def test_both_files_may_go_to_one_device(run: RunProcess) -> None:
    places = ("-o", "/dev/null", "--errors", "/dev/null", "--state", str(run.state))
    assert run.run(*places).code == 0
    assert not run.state.exists()


@pytest.mark.parametrize("where", ["state/answers.jsonl", "state"])
def test_results_cannot_go_where_the_state_is_removed_in_the_end(
    run: RunProcess, where: str
) -> None:
    (run.directory / "state").mkdir()
    ended = run.run("--state", "state", "-o", where, "--errors", "errors.jsonl")
    assert "state" in refusal(ended)
    assert list((run.directory / "state").iterdir()) == []


def test_another_input_for_the_same_output_is_refused_and_begins_anew_when_forced(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.05)
    start_and_answer(run, model_process, 8)
    run.kill()
    run.input.write_bytes(request_lines(5, prefix="other"))
    assert "unfinished run of 'in.jsonl'" in refusal(run.run())
    assert run.run("--force").code == 0
    assert sorted(numbers(run.output.read_bytes())) == list(range(5))


def test_two_at_once_on_one_output_are_one_too_many(
    run: RunProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.2)
    start_and_answer(run, model_process, 8)
    second = RunProcess(run.directory / "second", model_process.base_url)
    second.directory.mkdir()
    ended = second.run("-o", str(run.output), source=run.input)
    assert "at work on the same output" in refusal(ended)
    assert run.wait().code == 0
    assert sendings(model_process) == 60


def test_without_a_model_server_it_says_how_to_name_one(run: RunProcess) -> None:
    config = run.configure({"server": {"drain": "1s"}})
    ended = RunProcess(run.directory, None).run("--config", config)
    assert (ended.code, ended.out) == (78, b"")
    assert "--backend" in ended.err


def test_an_input_that_is_no_input_is_refused(run: RunProcess) -> None:
    assert "there is no file" in refusal(run.run(source="nothing.jsonl"))
    run.input.write_bytes(b"")
    assert "is empty" in refusal(run.run())
    run.input.write_bytes(request_line("a") + b'"\xff"\n')
    assert "utf-8" in refusal(run.run())
    run.input.write_bytes(request_line("a").replace(b"/chat/completions", b"/files"))
    assert "/v1/files is not an endpoint" in refusal(run.run())
    assert not run.state.exists()


def test_a_state_on_another_filesystem_is_done_with_copies(
    run: RunProcess, model_process: ModelProcess
) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - another filesystem, as a rule
    if not memory.is_dir() or memory.stat().st_dev == run.directory.stat().st_dev:
        pytest.skip("there is no other filesystem to write to")
    state = memory / f"batchd-test-{os.getpid()}"
    model_process.set(delay=0.05)
    start_and_answer(run, model_process, 16, "--state", str(state))
    run.kill()
    assert state.is_dir()
    assert not run.state.exists()
    ended = run.run("--state", state, "--json")
    assert ended.code == 0, ended.err
    check(run.account(ended.batch))
    assert not state.exists()
