"""``batchd fsck``: words for people, one object for machines, and an exit code for both."""

import asyncio
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batchd.store.migrations import migrations
from tests.support.fakes import Clock
from tests.support.parts import opened, requests
from tests.unit.cli.conftest import Run
from tests.unit.upkeep.conftest import Storage, flip

KEYS = ["ok", "directory", "quick", "error", "checked", "findings", "notes"]


class Left:
    """A storage directory whose daemon has ended, and the names of some things in it."""

    def __init__(self, directory: Path, storage: Storage) -> None:
        self.directory = directory
        self.upload = storage.input
        self.output = storage.output
        self.batch = storage.ended.id


@pytest.fixture
def left(tmp_path: Path) -> Left:
    async def fill() -> Storage:
        async with opened(tmp_path / "state", clock=Clock(time.time())) as parts:
            storage = Storage(parts)
            await storage.fill()
            return storage

    return Left(tmp_path / "state", asyncio.run(fill()))


def test_where_nothing_is_damaged_it_says_what_was_looked_at(offline: Run, left: Left) -> None:
    result = offline("fsck", "--directory", left.directory)
    assert (result.code, result.err) == (0, "")
    assert result.out == "checked 8 files, 16 lines, 4.2 KiB: nothing is damaged\n"
    quick = offline("fsck", "--quick", "--directory", left.directory)
    assert quick.out == "checked 8 files, 0 lines, 0 B: nothing is damaged\n"


def test_whether_this_user_may_look_is_found_by_looking(
    offline: Run, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(os, "access", refuse)
    assert offline("fsck", "--directory", left.directory, "--json").code == 0


def test_each_finding_is_a_line_with_what_can_be_done(offline: Run, left: Left) -> None:
    left.upload.unlink()
    flip(left.output, 300)
    result = offline("fsck", "--directory", left.directory)
    assert result.code == 1
    first, second, last = result.out.splitlines()
    size = len(requests("abcdef"))
    assert first == (
        f"damaged  files/{left.upload.name} is missing; it had {size} bytes: restore the file from "
        "a backup, or delete it (batchd files delete)"
    )
    assert second.startswith(
        f"damaged  files/{left.output.name} (of {left.batch}) has bad lines: 1"
    )
    assert "line 2 at byte" in second
    assert last.endswith(": 2 damaged")


def test_json_is_one_object_with_the_same_keys_always(offline: Run, left: Left) -> None:
    good = json.loads(offline("fsck", "--json", "--directory", left.directory).out)
    assert list(good) == KEYS
    assert (good["ok"], good["error"], good["findings"], good["notes"]) == (True, None, [], [])
    assert good["directory"] == str(left.directory)
    assert (good["checked"]["files"], good["checked"]["lines"]) == (8, 16)
    left.upload.unlink()
    orphan = left.directory / "files" / "orphan"
    orphan.write_bytes(b"12345")
    os.utime(orphan, (0, 0))
    result = offline("fsck", "--json", "--quick", "--directory", left.directory)
    bad = json.loads(result.out)
    assert (result.code, list(bad), bad["ok"], bad["quick"]) == (1, KEYS, False, True)
    (finding,) = bad["findings"]
    assert (finding["kind"], finding["file"]) == ("file_missing", left.upload.name)
    assert finding["advice"].startswith("restore")
    assert bad["notes"] == [{"kind": "orphan", "path": "files/orphan", "bytes": 5}]
    result = offline("fsck", "--json", "--directory", left.directory / "none")
    none = json.loads(result.out)
    assert (result.code, list(none), none["ok"]) == (78, KEYS, False)
    assert none["error"] in result.err


def test_notes_are_counted_for_people(offline: Run, left: Left) -> None:
    orphan = left.directory / "files" / "orphan"
    orphan.touch()
    os.utime(orphan, (0, 0))
    result = offline("fsck", "--directory", left.directory)
    assert result.code == 0
    assert result.out.endswith(": nothing is damaged (--json has 1 notes)\n")


def test_the_directory_and_the_age_of_orphans_come_from_the_configuration(
    offline: Run, left: Left, tmp_path: Path
) -> None:
    (left.directory / "files" / "orphan").touch()
    os.utime(left.directory / "files" / "orphan", (time.time() - 100, time.time() - 100))
    config = tmp_path / "config.toml"
    config.write_text(
        f'[storage]\ndirectory = "{left.directory}"\n[retention]\norphan_age = "60s"\n'
    )
    for more in ((), ("--directory", left.directory)):
        found = json.loads(offline("fsck", "--json", "--config", config, *more).out)
        assert (found["directory"], len(found["notes"])) == (str(left.directory), 1)
    config.write_text("[storage]\nno_such = 1\n")
    wrong = offline("fsck", "--config", config)
    assert wrong.code == 78
    assert "no_such" in wrong.err


def test_where_there_is_nothing_to_look_at_it_says_so(offline: Run, tmp_path: Path) -> None:
    result = offline("fsck", "--directory", tmp_path / "none")
    assert (result.code, result.out) == (78, "")
    assert result.err == f"batchd: there is no storage directory {tmp_path / 'none'}\n"
    assert offline("fsck", "--no-such-option").code == 2


def test_a_database_of_a_newer_batchd_is_no_damage(
    offline: Run, left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.store.readonly.migrations", lambda: [(0, migrations()[0][1])])
    result = offline("fsck", "--directory", left.directory)
    assert (result.code, result.out) == (78, "")
    assert "newer than this batchd's" in result.err


def test_a_terminal_is_shown_how_far_it_has_come(left: Left) -> None:
    ours, theirs = pty.openpty()
    program = "import batchd.cli.fsck as f; f._REDRAW = 0; from batchd.cli.main import main; main()"
    command = [sys.executable, "-c", program, "fsck", "--directory", str(left.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:  # noqa: S603 - our own program
        os.close(theirs)
        assert process.stdout is not None
        out = process.stdout.read().decode()
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert out.endswith("nothing is damaged\n")
    assert "\r\x1b[K8 files, 16 lines, 4.2 KiB" in shown
    assert shown.endswith("\r\x1b[K")
