import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from batchd.cli.progress import Track
from batchd.cli.run import default_errors, default_output
from tests.unit.cli.conftest import Run

if TYPE_CHECKING:
    from batchd.cli.objects import Batch

HEAVY = ("aiohttp", "aiosqlite", "msgspec", "rich", "uvloop")
STDIO = Path("-")


def test_its_help_imports_nothing_that_only_running_needs() -> None:
    code = f"import sys, batchd.cli.run; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--max-in-flight", "0"), "write a number from 1, or 'auto'"),
        (("--max-in-flight", "many"), "write a number from 1, or 'auto'"),
        (("--backend", "http://127.0.0.1:8000"), "did you mean http://127.0.0.1:8000/v1?"),
        (("--backend", "http://127.0.0.1:8000/"), "did you mean http://127.0.0.1:8000/v1?"),
        (("--api-key-env", "KEY"), "--api-key-env is for --backend"),
        (("-o", "prompts.jsonl"), "the results cannot go to the input"),
        (("--errors", "./prompts.jsonl"), "the results cannot go to the input"),
        (("-o", "a.jsonl", "--errors", "a.jsonl"), "cannot go to the same place"),
        (("-o", "-", "--errors", "-"), "cannot go to the same place"),
        (("-o", "-", "--json"), "standard output cannot have both --json and results"),
        (("--backend", "ftp://host/v1"), "must start with http:// or https://"),
        (("--backend", "http://host:80000/v1"), "the URL names 'host:80000', which is no host"),
        (("--backend", "http://a..b/v1"), "the URL names 'a..b', which is no host"),
    ],
)
def test_options_that_make_no_sense_are_a_usage_error(
    offline: Run,
    prompts: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    why: str,
) -> None:
    monkeypatch.chdir(prompts.parent)
    code, out, err = offline("run", prompts.name, *options)
    assert (code, out) == (2, "")
    assert why in " ".join(err.split())


def test_a_width_that_the_built_in_model_would_not_take_is_refused(
    offline: Run, prompts: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("local = true\n")
    code, out, err = offline("run", prompts, "--config", config, "--max-in-flight", "3")
    assert (code, out) == (2, "")
    assert "--max-in-flight: the built-in model (local = true) has its own" in " ".join(err.split())
    assert set(tmp_path.iterdir()) == {prompts, config}


def test_a_directory_is_no_input(offline: Run, tmp_path: Path) -> None:
    code, _, err = offline("run", tmp_path, "--backend", "http://127.0.0.1:9/v1")
    assert code == 2
    assert "is a directory" in err


def test_results_that_could_not_be_written_are_refused_before_anything_is_made(
    offline: Run, prompts: Path, tmp_path: Path
) -> None:
    backend = ("--backend", "http://127.0.0.1:9/v1")
    for output, why in ((tmp_path / "no" / "out.jsonl", "no directory"), (tmp_path, "a directory")):
        code, _, err = offline("run", prompts, "-o", output, *backend)
        assert code == 1
        assert why in err
    assert list(tmp_path.iterdir()) == [prompts]


@pytest.mark.parametrize(
    ("source", "output", "errors"),
    [
        ("in.jsonl", "in.output.jsonl", "in.errors.jsonl"),
        ("in", "in.output.jsonl", "in.errors.jsonl"),
        ("a/in.jsonl", "a/in.output.jsonl", "a/in.errors.jsonl"),
        ("-", "-", "stdin.errors.jsonl"),
    ],
)
def test_results_go_beside_the_input_if_nothing_else_is_asked(
    source: str, output: str, errors: str
) -> None:
    assert default_output(Path(source)) == Path(output)
    assert default_errors(Path(source), Path(output)) == Path(errors)


@pytest.mark.parametrize(
    ("output", "errors"),
    [("out.jsonl", "out.errors.jsonl"), ("-", "in.errors.jsonl"), ("/dev/null", "in.errors.jsonl")],
)
def test_errors_go_beside_the_answers_if_those_are_a_file(output: str, errors: str) -> None:
    assert default_errors(Path("in.jsonl"), Path(output)) == Path(errors)


def test_tokens_and_their_rate_are_shown_with_the_speed() -> None:
    track = Track("in.jsonl")
    for now in (0, 10):
        found: dict[str, Any] = {
            "request_counts": {"total": 100, "completed": 5 * now, "failed": 0},
            "usage": {"input_tokens": 1000 * now, "output_tokens": 500 * now},
        }
        track.update(cast("Batch", found), now)
    assert track.speed() == ", 5.0/s, 10 s left, 15,000 tokens (1,500/s)"
