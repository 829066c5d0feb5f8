import io
import sys
import tempfile
from io import FileIO
from pathlib import Path

import pytest

from batchd.cli.errors import CommandFailed
from batchd.cli.inputs import kept_stdin
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import FakeApi


def give(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_kept_for_as_long_as_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    give(monkeypatch, b"x" * 600_000)
    with kept_stdin() as path:
        assert path.read_bytes() == b"x" * 600_000
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_keep_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    give(monkeypatch, b"x")
    with pytest.raises(CommandFailed, match=r"cannot be kept in .*none: .*\$TMPDIR"), kept_stdin():
        pass


@pytest.mark.parametrize("size", [1, 600_000])
def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    def full(**_: object) -> FileIO:
        return FileIO("/dev/full", "wb")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    give(monkeypatch, b"x" * size)
    with pytest.raises(CommandFailed, match="No space left on device; name"), kept_stdin():
        pass


def test_a_standard_input_that_cannot_be_read_is_not_blamed_on_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Path("/proc/self/mem").open(encoding="utf-8") as broken:
        monkeypatch.setattr(sys, "stdin", broken)
        why = "standard input cannot be read: Input/output error"
        with pytest.raises(CommandFailed, match=why), kept_stdin():
            pass


@pytest.mark.parametrize(
    ("text", "is_size"),
    [("50MiB", True), ("200 MB", True), ("123", True), ("1g", True), ("0", False), ("x", False)],
)
def test_sizes_are_written_as_in_the_configuration(
    run: Run, prompts: Path, text: str, *, is_size: bool
) -> None:
    assert (run("submit", prompts, "--split-size", text).code == 0) is is_size


def test_an_empty_standard_input_is_said(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, b"")
    result = run("submit", "-")
    assert result.code == 1
    assert "standard input is empty" in result.err
    assert api.files == {}
