"""One fake API, one way to run a command against it, and one input file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from batchd.cli.main import main
from tests.unit.cli.fake_api import FakeApi, serving

LINE = '{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}\n'


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def url(api: FakeApi) -> Iterator[str]:
    with serving(api) as url:
        yield url


@pytest.fixture
def offline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line as it stands."""
    monkeypatch.setattr("batchd.cli.waiting._LONGEST_PAUSE", 0.01)
    for name in ("BATCHD_URL", "BATCHD_API_KEY", "BATCHD_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str | Path) -> Result:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def run(offline: Run, url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line against the fake API."""
    monkeypatch.setenv("BATCHD_URL", url)
    return offline


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(LINE)
    return path
