"""The command line as a process: signals, terminals, pipes, a daemon that restarts.

The last tests run it against the real daemon and a scripted model server.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.model_process import ModelProcess
from tests.support.model_settings import Settings
from tests.support.shell import LIMIT, batchd, shell
from tests.unit.cli.fake_api import COMPLETED, RUNNING, FakeApi, serving

LINE = '{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}\n'


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(LINE)
    return path


def test_ctrl_c_detaches_and_says_how_to_come_back(prompts: Path) -> None:
    api = FakeApi()
    api.steps = [RUNNING]
    with serving(api) as url, shell(url, "submit", prompts, "--wait") as shown:
        shown.until("25 %")
        shown.interrupt()
        shown.until("batchd results batch_1")
        assert shown.code() == 1
        assert "Detached; the batch goes on." in shown.seen
        assert "batchd wait batch_1" in shown.seen
        assert "Traceback" not in shown.seen
    assert ("POST", "/v1/batches/batch_1/cancel") not in api.requests
    assert list(prompts.parent.iterdir()) == [prompts]


def test_a_terminal_gets_a_bar_and_a_file_gets_the_answers(prompts: Path, tmp_path: Path) -> None:
    api = FakeApi()
    api.steps = [RUNNING, RUNNING, COMPLETED]
    out = tmp_path / "out"
    with serving(api) as url, out.open("wb") as file:
        stdout = file.fileno()
        with shell(url, "submit", prompts, "--wait", "-o", "-", stdout=stdout) as shown:
            shown.until("3 of 4 lines answered, 1 failed")
            assert shown.code() == 0
            assert "━" in shown.seen
    assert out.read_bytes() == api.contents["file-out"]


def test_a_daemon_that_restarts_is_waited_for(prompts: Path) -> None:
    api = FakeApi()
    api.steps = [RUNNING]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    running = serving(api, port)
    running.__enter__()
    with shell(url, "submit", prompts, "--wait", terminal=False) as shown:
        shown.until("in_progress 1 of 4 lines")
        running.__exit__(None, None, None)
        shown.until("waiting for batchd: cannot reach the daemon")
        api.steps = [COMPLETED]
        with serving(api, port):
            shown.until("batchd answers again")
            shown.until("completed: 3 of 4 lines answered")
            assert shown.code() == 0


def test_a_large_upload_shows_how_far_it_is(prompts: Path) -> None:
    prompts.write_text(LINE * 80_000)
    api = FakeApi()
    with serving(api) as url, shell(url, "submit", prompts) as shown:
        shown.until("Come back with")
        assert shown.code() == 0
        assert "uploading prompts.jsonl" in shown.seen
    assert api.contents["file-1"] == prompts.read_bytes()


@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["--help"]])
def test_a_reader_that_leaves_is_no_traceback(command: list[str]) -> None:
    api = FakeApi()
    for _ in range(3000):
        api.add_batch({"endpoint": "/v1/x", "input_file_id": "f", "completion_window": "24h"})
    ours, theirs = os.pipe()
    os.close(ours)
    more = ["--limit", "3000"] if command == ["list"] else []
    with (
        serving(api) as url,
        shell(url, *command, *more, stdout=theirs, terminal=False) as batchd,
    ):
        os.close(theirs)
        assert batchd.code() == 1
        batchd.to_the_end()
    assert "Traceback" not in batchd.seen
    assert "Exception" not in batchd.seen


def test_answers_that_standard_output_does_not_take_are_one_sentence() -> None:
    api = FakeApi()
    get = ("files", "get", "file-out")
    with (
        serving(api) as url,
        Path("/dev/full").open("wb") as full,
        shell(url, *get, stdout=full.fileno(), terminal=False) as getting,
    ):
        assert getting.code() == 1
        getting.to_the_end()
    sentence = "standard output cannot be written: No space left on device"
    assert getting.seen == f"batchd: {sentence}\n"


def test_text_for_people_survives_a_plain_locale() -> None:
    api = FakeApi()
    api.add_file("naïve—名.jsonl", b"")
    with serving(api) as url:
        env = {"PATH": os.environ["PATH"], "BATCHD_URL": url, "PYTHONIOENCODING": "latin-1"}
        command = [sys.executable, "-m", "batchd", "files", "list"]
        done = subprocess.run(command, env=env, capture_output=True, timeout=LIMIT, check=True)  # noqa: S603 - our own program
    assert "naïve??.jsonl".encode("latin-1") in done.stdout


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[BatchdProcess]:
    with (
        ModelProcess(tmp_path, settings=Settings(delay=0.01)) as model,
        BatchdProcess(tmp_path / "batchd", backend=model.base_url) as daemon,
    ):
        yield daemon


def write_input(path: Path, behaviours: list[str]) -> None:
    with path.open("w") as out:
        for number, behave in enumerate(behaviours):
            message = {"role": "user", "content": f"What is {number}?"}
            body = {"model": "test-model", "messages": [message], "behave": behave}
            line = {"custom_id": f"line-{number}", "method": "POST", "body": body}
            out.write(json.dumps(line | {"url": "/v1/chat/completions"}) + "\n")


def test_the_whole_path_with_the_real_daemon(daemon: BatchdProcess, prompts: Path) -> None:
    write_input(prompts, ["ok", "400", "ok", "503-then-200"])
    done = batchd(daemon.url, "submit", prompts, "--wait", "--metadata", "k=v")
    assert done.returncode == 0, done.stderr
    assert "completed: 3 of 4 lines answered, 1 failed" in done.stdout
    output = prompts.with_name("prompts.output.jsonl").read_text().splitlines()
    answered = {json.loads(line)["custom_id"] for line in output}
    assert answered == {"line-0", "line-2", "line-3"}
    (failed,) = prompts.with_name("prompts.errors.jsonl").read_text().splitlines()
    assert json.loads(failed)["custom_id"] == "line-1"

    (listed,) = json.loads(batchd(daemon.url, "list", "--json").stdout)["data"]
    assert listed["metadata"] == {"k": "v"}
    batch_id = listed["id"]
    assert "4 of 4 lines, 1 failed" in batchd(daemon.url, "show", batch_id).stdout
    assert batchd(daemon.url, "results", batch_id).stdout.splitlines() == output
    refused = batchd(daemon.url, "cancel", batch_id)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Cannot cancel a batch with status 'completed'" in refused.stderr

    files = json.loads(batchd(daemon.url, "files", "list", "--json").stdout)["data"]
    assert {file["purpose"] for file in files} == {"batch", "batch_output"}
    input_id = listed["input_file_id"]
    assert batchd(daemon.url, "files", "get", input_id).stdout == prompts.read_text()
    assert batchd(daemon.url, "files", "delete", input_id).returncode == 0
    assert "No such File object" in batchd(daemon.url, "files", "get", input_id).stderr


def test_an_input_that_is_not_valid_is_told_line_by_line(
    daemon: BatchdProcess, prompts: Path
) -> None:
    write_input(prompts, ["ok"])
    with prompts.open("a") as out:
        out.write("not json\n")
    done = batchd(daemon.url, "submit", prompts, "--wait")
    assert done.returncode == 1
    assert "line 2: invalid_json_line" in done.stdout


def test_names_that_are_not_utf8_are_no_obstacle(daemon: BatchdProcess, prompts: Path) -> None:
    path = prompts.rename(prompts.with_name("caf\udce9.jsonl"))
    write_input(path, ["ok"] * 4)
    done = batchd(daemon.url, "submit", path, "--wait", "--split", "2")
    assert done.returncode == 0, done.stderr
    assert len(path.with_name("caf\udce9.output.jsonl").read_text().splitlines()) == 4
    shown = batchd(daemon.url, "show", "b\udce9")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("batchd: No batch found with id")
    after = batchd(daemon.url, "results", done.stdout.split()[0], "--after", "\udce9")
    assert (after.returncode, after.stdout) == (1, "")
    assert len(after.stderr.splitlines()) == 1


def test_waiting_outlasts_a_killed_daemon(daemon: BatchdProcess, prompts: Path) -> None:
    write_input(prompts, ["slow:0.2"] * 200)
    with shell(daemon.url, "submit", prompts, "--wait", terminal=False) as waiting:
        waiting.until("in_progress")
        daemon.kill()
        waiting.until("waiting for batchd")
        daemon.start()
        waiting.until("200 of 200 lines answered")
        assert waiting.code() == 0
    assert len(prompts.with_name("prompts.output.jsonl").read_text().splitlines()) == 200


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_the_ids_that_the_daemon_has(daemon: BatchdProcess, prompts: Path) -> None:
    batch_id = batchd(daemon.url, "submit", prompts).stdout.strip()
    script = (
        'eval "$(batchd completion bash)"\n'
        f'COMP_WORDS=(batchd show "{batch_id[:7]}"); COMP_CWORD=2\n'
        '_batchd_completion batchd; echo "${COMPREPLY[*]}"\n'
    )
    here = str(Path(sys.executable).parent)
    env = os.environ | {"PATH": f"{here}:{os.environ['PATH']}", "BATCHD_URL": daemon.url}
    done = subprocess.run(  # noqa: S603 - our own program
        [shutil.which("bash") or "", "--norc", "-c", script],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    assert (done.stdout, done.stderr) == (f"{batch_id}\n", "")


def test_a_retry_can_be_left_with_ctrl_c_and_goes_on(daemon: BatchdProcess, prompts: Path) -> None:
    write_input(prompts, ["400|slow:0.3"] * 40)
    first = batchd(daemon.url, "submit", prompts, "--wait").stdout.split()[0]
    with shell(daemon.url, "retry", first, "--wait") as retrying:
        retrying.until("of 40 lines")
        retrying.interrupt()
        retrying.until("-o FILE")
        assert retrying.code() == 1
    second = re.findall(r"batchd wait (batch_\w+)", retrying.seen)[0]
    assert second != first
    assert "40 of 40 lines answered" in batchd(daemon.url, "wait", second).stdout


def test_check_finds_the_running_daemon_and_its_backend_well(daemon: BatchdProcess) -> None:
    done = batchd(daemon.url, "check", "--config", daemon.config)
    assert done.returncode == 0, done.stdout
    assert 'ok  backend "model"' in done.stdout


@pytest.mark.local_model
@pytest.mark.timeout(120)
def test_the_demo_runs_a_real_model_and_stops_what_it_started(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    directory = tmp_path / "demo"
    with shell("", "demo", "--directory", directory, "--lines", "3") as demo:
        demo.until("To go on", within=100)
        assert demo.code() == 0
    assert len((directory / "prompts.output.jsonl").read_text().splitlines()) == 3
    assert "3 of 3 lines answered" in demo.seen
    assert "batchd_stopped" in (directory / "daemon.log").read_text()
