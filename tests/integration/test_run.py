"""``batchd run`` in this process: nothing that it does may block the loop, and nothing stays."""

import gc
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchd.cli.main import main
from tests.support.jobs import request_line, request_lines
from tests.support.model_process import ModelProcess


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """What a process does for its whole life is undone here."""
    interval, level = sys.getswitchinterval(), logging.root.level
    yield
    sys.setswitchinterval(interval)
    logging.root.setLevel(level)
    gc.unfreeze()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(request_lines(30) + request_line("bad-1", "400"))
    return path


def test_a_file_is_run_from_its_lines_to_its_results(
    model_process: ModelProcess, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--backend", model_process.base_url, "--in-order", "--json"]
    assert main(["run", str(prompts), *options]) == 0
    batch = json.loads(capsys.readouterr().out)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 31, "completed": 30, "failed": 1}
    answers = Path(batch["output_path"]).read_text().splitlines()
    assert [json.loads(line)["custom_id"] for line in answers] == [f"line-{n}" for n in range(30)]
    assert sorted(path.name for path in prompts.parent.glob("prompts*")) == [
        "prompts.errors.jsonl",
        "prompts.jsonl",
        "prompts.output.jsonl",
    ]


def test_an_input_that_is_not_valid_leaves_nothing(
    model_process: ModelProcess, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts.write_bytes(request_line("a") + request_line("a"))
    assert main(["run", str(prompts), "--backend", model_process.base_url]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "prompts.jsonl is not valid: nothing was sent."
    assert told[1].startswith("line 2: duplicate_custom_id: ")
    assert list(prompts.parent.glob("prompts*")) == [prompts]
    assert model_process.events == []


def test_a_name_that_is_not_utf8_is_no_obstacle(
    model_process: ModelProcess, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = prompts.rename(prompts.with_name("caf\udce9.jsonl"))
    assert main(["run", str(path), "--backend", model_process.base_url]) == 0
    assert "30 of 31 lines answered, 1 failed" in capsys.readouterr().out
    assert len(path.with_name("caf\udce9.output.jsonl").read_bytes().splitlines()) == 30
    assert len(path.with_name("caf\udce9.errors.jsonl").read_bytes().splitlines()) == 1
