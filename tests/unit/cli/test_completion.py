import socket
import time

import pytest
from click.shell_completion import ShellComplete

from batchd.cli.main import batchd
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import COMPLETED, RUNNING, FakeApi

ASKED = {"endpoint": "/v1/embeddings", "input_file_id": "file-1", "completion_window": "24h"}


def offered(*typed: str) -> list[str]:
    """What a shell is offered behind these words, the last of which is not complete."""
    *args, incomplete = typed
    completed = ShellComplete(batchd, {}, "batchd", "_BATCHD_COMPLETE")
    return [item.value for item in completed.get_completions(args, incomplete)]


@pytest.fixture
def batches(api: FakeApi, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHD_URL", url)
    for changes in (RUNNING, COMPLETED, RUNNING, {"status": "failed"}):
        api.batches[api.add_batch(ASKED)["id"]] |= changes
    api.batches["batch_3"]["batchd"]["paused_at"] = 1
    api.add_file("in.jsonl", b"x")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(offline: Run, shell: str) -> None:
    result = offline("completion", shell)
    assert result.code == 0
    assert "_BATCHD_COMPLETE" in result.out
    assert offline("completion", "cmd").code == 2


@pytest.mark.usefixtures("batches")
def test_each_command_is_offered_the_ids_that_suit_it() -> None:
    assert offered("show", "") == ["batch_4", "batch_3", "batch_2", "batch_1"]
    assert offered("results", "batch_4", "") == ["batch_3", "batch_2", "batch_1"]
    assert offered("cancel", "") == ["batch_3", "batch_1"]
    assert offered("pause", "") == ["batch_1"]
    assert offered("resume", "") == ["batch_3"]
    assert offered("priority", "") == ["batch_3", "batch_1"]
    assert offered("retry", "") == ["batch_2"]
    assert offered("wait", "batch_3") == ["batch_3"]
    assert offered("files", "get", "fi") == ["file-1"]
    assert offered("backends", "resume", "h") == ["hosted"]
    assert offered("pri") == ["priority"]


@pytest.mark.usefixtures("batches")
def test_a_daemon_that_refuses_offers_nothing(
    api: FakeApi, capfd: pytest.CaptureFixture[str]
) -> None:
    api.refuse("GET", 401, "No key.")
    assert offered("show", "") == []
    assert capfd.readouterr() == ("", "")


def test_a_daemon_that_is_away_or_silent_offers_nothing_quickly(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        monkeypatch.setenv("BATCHD_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert offered("show", "") == []
        assert time.monotonic() - began < 5  # half a second, on a machine that has the time
    assert offered("show", "") == []
    assert offered("show", "--url", "nonsense", "") == []
    assert capfd.readouterr() == ("", "")
