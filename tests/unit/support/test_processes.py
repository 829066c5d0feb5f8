"""The programs under test as processes: configuration, start, failure to start, kill."""

import http.client
import json
import signal
import tomllib
from pathlib import Path

import pytest

from tests.support.batchd_process import BatchdProcess, to_toml
from tests.support.eventlog import sent
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until


def ask(port: int, nonce: str, *, patience: float = 5) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    try:
        connection.request("POST", "/v1/completions", json.dumps({"prompt": nonce}))
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_model_server_is_killed_and_comes_back_with_its_log(tmp_path: Path) -> None:
    with ModelProcess(tmp_path) as model:
        assert ask(model.port, "a") == 200
        assert model.counts().ended == 1
        model.set(behave="503")
        assert ask(model.port, "b") == 503
        model.kill()
        with pytest.raises(ConnectionRefusedError):
            ask(model.port, "c")
        model.start()
        assert ask(model.port, "c") == 200
        assert sent(model.events) == {"a": 1, "b": 1, "c": 1}


def test_the_configuration_is_toml_with_what_a_test_needs_and_what_it_says(tmp_path: Path) -> None:
    settings = {"retries": {"fault_limit": 2}, "auth": {"keys_file": "/k"}, "local": False}
    batchd = BatchdProcess(tmp_path, backend="http://127.0.0.1:1/v1", settings=settings)
    written = tomllib.loads(batchd.config.read_text())
    assert written["local"] is False
    assert written["server"]["listen"] == [f"127.0.0.1:{batchd.port}"]
    assert written["storage"]["directory"] == str(tmp_path / "state")
    assert written["backends"] == [{"name": "model", "base_url": "http://127.0.0.1:1/v1"}]
    assert written["retries"]["fault_limit"] == 2
    assert written["retries"]["first_delay"] < 1


@pytest.mark.parametrize(
    "tables",
    [
        {"a": {"text": 'quote " back \\ line \n ä €', "list": ["x", "y"], "yes": True}},
        {"top": 1, "many": [{"a": 0.5}, {"a": 2}], "empty": {}},
        {"nothing": [], "last": "x"},
    ],
)
def test_toml_reads_as_it_was_meant(tables: dict[str, object]) -> None:
    assert tomllib.loads(to_toml(tables)) == tables


def test_a_start_that_fails_shows_what_the_program_said(tmp_path: Path) -> None:
    batchd = BatchdProcess(tmp_path, prefix=["/bin/sh", "-c", "echo it is broken >&2; exit 3"])
    with pytest.raises(AssertionError, match=r"exited with 3[^$]*it is broken"):
        batchd.start()
    assert batchd.exit_code == 3


def test_a_program_that_never_gets_ready_is_given_up_and_killed(tmp_path: Path) -> None:
    batchd = BatchdProcess(tmp_path, prefix=["/bin/sh", "-c", "echo waiting; exec sleep 60"])
    with pytest.raises(AssertionError, match=r"is not ready[^$]*waiting"):
        batchd.start(within=0.2)
    assert batchd.exit_code == -signal.SIGKILL


def test_a_running_program_shows_its_memory_and_ends_on_a_signal(tmp_path: Path) -> None:
    batchd = BatchdProcess(tmp_path, prefix=["/bin/sh", "-c", "echo up; exec sleep 60"])
    batchd.launch()
    try:
        wait_until(lambda: "up" in batchd.log_text())
        wait_until(lambda: batchd.vm_hwm() > 100_000)
        assert batchd.terminate() == -signal.SIGTERM
    finally:
        batchd.kill()


def test_the_environment_does_not_configure_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHD_CONFIG", "/elsewhere")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    shell = ["/bin/sh", "-c", 'echo "[$BATCHD_CONFIG$NOTIFY_SOCKET$EXTRA]"']
    batchd = BatchdProcess(tmp_path, prefix=shell, environment={"EXTRA": "mine"})
    batchd.launch()
    assert batchd.wait() == 0
    assert batchd.log_text() == "[mine]\n"


def test_a_hung_model_server_answers_when_it_goes_on(model_process: ModelProcess) -> None:
    model_process.pause()
    with pytest.raises(TimeoutError):
        ask(model_process.port, "a", patience=0.1)
    model_process.go_on()
    assert ask(model_process.port, "b") == 200
