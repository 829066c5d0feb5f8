"""``batchd backup``: what it says, and to whom."""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from tests.support.parts import opened, requests
from tests.unit.cli.conftest import Run


async def fill(directory: Path) -> None:
    async with opened(directory) as parts:
        for name in "abc":
            await parts.upload(requests(name))
        await parts.running(requests("de"))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    asyncio.run(fill(tmp_path / "state"))
    return tmp_path / "state"


def test_it_says_what_it_did(offline: Run, storage: Path, tmp_path: Path) -> None:
    result = offline("backup", tmp_path / "copy", "--directory", storage)
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(
        rf"backed up {storage} to {tmp_path}/copy in \d\.\d s: 5 files linked \(\d+ B\), 1 copied "
        r"\(32 B\), unfinished batches: 1\n",
        result.out,
    )


def test_it_tells_machines(offline: Run, storage: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[storage]\ndirectory = "{storage}"\n')
    result = offline("backup", tmp_path / "copy", "--config", config, "--json")
    told = json.loads(result.out)
    assert told.pop("seconds") >= 0
    assert told == {
        "storage": str(storage),
        "backup": str(tmp_path / "copy"),
        "linked": 5,
        "linked_bytes": sum(len(requests(names)) for names in ("a", "b", "c", "de", "de")),
        "copied": 1,
        "copied_bytes": 32,
        "unfinished_batches": 1,
        "missing": [],
        "replaced": None,
    }


def test_what_is_not_as_it_should_be_is_said_aside(
    offline: Run, storage: Path, tmp_path: Path
) -> None:
    half = tmp_path / "copy.incomplete"
    half.mkdir()
    gone = min((storage / "files").iterdir())
    gone.unlink()
    result = offline("backup", tmp_path / "copy", "--directory", storage)
    assert result.code == 0
    assert result.err == (
        f"batchd: {half}, left by a backup that was broken off, was removed\n"
        f"batchd: 1 files were not there, the first is {gone}\n"
    )


def test_a_place_that_cannot_be_is_wrong_usage(offline: Run, storage: Path, tmp_path: Path) -> None:
    result = offline("backup", tmp_path, "--directory", storage)
    assert result.code == 2
    assert result.err.endswith(
        f"Error: {tmp_path} is there already: name a directory that is not there yet\n"
    )


def test_nothing_to_back_up_is_a_wrong_configuration(offline: Run, tmp_path: Path) -> None:
    result = offline("backup", tmp_path / "copy", "--directory", tmp_path)
    assert result.code == 78
    assert result.err == f"batchd: there is nothing to back up in {tmp_path}: it has no batchd.db\n"


def test_what_is_in_the_way_is_a_failure(offline: Run, storage: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.incomplete").mkdir()
    (tmp_path / "copy.incomplete" / "mine").mkdir()
    result = offline("backup", tmp_path / "copy", "--directory", storage)
    assert (result.code, len(result.err.splitlines())) == (1, 1)


def test_a_terminal_sees_how_far_it_is(
    offline: Run, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.cli.backup._REDRAW", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = offline("backup", tmp_path / "copy", "--directory", storage)
    shown = re.findall(r"(\d) of 4 files", result.err)
    assert shown == ["1", "2", "3", "4"]
    assert result.err.endswith("\r\x1b[K")
