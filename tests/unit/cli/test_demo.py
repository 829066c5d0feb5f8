import json
import tomllib
from pathlib import Path

import pytest

from batchd.cli.demo import prepare, shown
from batchd.cli.errors import CommandFailed
from batchd.config import parse
from tests.unit.cli.conftest import Run


def test_the_demo_writes_a_configuration_that_the_daemon_accepts(tmp_path: Path) -> None:
    directory = tmp_path / 'de"mo'
    prepare(directory, "http://127.0.0.1:8123", 30)
    text = (directory / "config.toml").read_text()
    config = parse(text, "config.toml")
    assert config.local
    assert config.server.listen == ("127.0.0.1:8123",)
    assert config.storage.directory == directory / "state"
    assert tomllib.loads(text)["local"] is True
    assert len((directory / "prompts.jsonl").read_text().splitlines()) == 30


def test_a_directory_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    prepare(tmp_path, "http://127.0.0.1:1", 1)  # empty: welcome
    (tmp_path / "prompts.output.jsonl").write_text("of an earlier run")
    prepare(tmp_path, "http://127.0.0.1:2", 2)  # its own: again
    assert not (tmp_path / "prompts.output.jsonl").exists()
    (tmp_path / "config.toml").write_text("local = true\n")
    with pytest.raises(CommandFailed, match="is not a demo's"):
        prepare(tmp_path, "http://127.0.0.1:3", 3)
    assert (tmp_path / "config.toml").read_text() == "local = true\n"


def test_answers_are_shown_beside_their_prompts_and_cut() -> None:
    def line(custom_id: str, content: str) -> str:
        body = {"choices": [{"message": {"content": content}}]}
        return json.dumps({"custom_id": custom_id, "response": {"body": body}})

    lines = [line(f"prompt-{number}", "word " * 200) for number in range(3, 12)]
    found = list(shown([line("prompt-2", "It is\n\x1b[2Jhot."), *lines]))
    assert found[0] == ("Give one interesting fact about a volcano.", "It is [2Jhot.")
    assert len(found) == 5
    assert len(found[1][1]) == 300
    assert found[1][1].endswith("…")


def test_without_the_local_model_the_demo_says_what_to_install(
    offline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none(_name: str) -> None: ...

    monkeypatch.setattr("importlib.util.find_spec", find_none)
    result = offline("demo", "--directory", tmp_path / "demo")
    assert result.code == 1
    assert "pip install" in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "demo").exists()
