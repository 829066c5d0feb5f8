"""What earlier versions have left on disk is read, and finished, by this one.

``tests/fixtures/make_storage.py`` says what is in such a directory. Each is tried as it is and as a
backup of it.
"""

import json
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.checker import Summary, check
from tests.support.eventlog import Event
from tests.support.jobs import TERMINAL, Account, Jobs, JsonObject, Refused, result_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
OLD = sorted((ROOT / "tests" / "fixtures").glob("storage-*"))
AFTER = "SELECT id FROM file WHERE deleted_at IS NULL AND seq < (SELECT seq FROM file WHERE id = ?)"


def batchd_command(*args: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "batchd", *map(str, args)]
    return subprocess.run(  # noqa: S603 - our own program
        command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


class Old:
    """An old storage directory, a daemon of today that works in it, and what clients were shown."""

    def __init__(
        self, directory: Path, state: Path, shown: JsonObject, model: ModelProcess
    ) -> None:
        self.state = state
        self.shown = shown
        self.model = model
        self.inbox = directory / "inbox"
        self.untouched = directory / "untouched"
        self.batchd = BatchdProcess(
            directory,
            backend=model.base_url,
            settings={
                "storage": {"directory": str(state)},
                "inbox": {"directory": str(self.inbox), "settle": "100ms"},
            },
        )
        self.jobs = Jobs(self.batchd.url)

    def batch(self, name: str) -> JsonObject:
        """What was shown of a batch, by what it is called."""
        batch_id = self.shown["ids"][name]
        return next(batch for batch in self.shown["batches"] if batch["id"] == batch_id)

    def input(self, name: str) -> bytes:
        """From the file, or from the batch's own hold if that was deleted."""
        batch = self.batch(name)
        file = self.untouched / "files" / batch["input_file_id"]
        hold = self.untouched / "batches" / batch["id"] / "input"
        return (file if file.exists() else hold).read_bytes()

    def finished(self, name: str) -> Summary:
        """What became of a batch, once it has ended and was found to be a true account."""
        batch = self.jobs.wait(self.batch(name)["id"])
        assert batch["status"] in TERMINAL
        return check(self.account(name))

    def account(self, name: str) -> Account:
        return self.jobs.account(self.input(name), self.batch(name)["id"])

    def rows(self, statement: str, *params: str) -> list[Any]:
        database = self.untouched / "batchd.db"
        with closing(sqlite3.connect(f"{database.as_uri()}?immutable=1", uri=True)) as connection:
            return [row[0] for row in connection.execute(statement, params)]


@pytest.fixture(params=OLD, ids=lambda path: path.name)
def fixture(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(params=["itself", "a backup"])
def old(
    request: pytest.FixtureRequest, fixture: Path, tmp_path: Path, model_process: ModelProcess
) -> Iterator[Old]:
    extract(fixture, tmp_path)
    (tmp_path / "state").rename(tmp_path / "untouched")
    extract(fixture, tmp_path)
    state = tmp_path / "state"
    if request.param == "a backup":
        state = tmp_path / "backup"
        done = batchd_command("backup", state, "--directory", tmp_path / "state")
        assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads((fixture / "expected.json").read_text(encoding="utf-8"))
    it = Old(tmp_path, state, shown, model_process)
    with it.batchd:
        yield it


def extract(fixture: Path, place: Path) -> None:
    with tarfile.open(fixture / "state.tar.gz") as tar:
        tar.extractall(place, filter="data")


def test_there_is_a_directory_of_the_first_release_at_least() -> None:
    assert "storage-0.1.0" in [path.name for path in OLD]


def test_every_object_reads_as_before(old: Old) -> None:
    for batch in old.shown["batches"]:
        if batch["status"] in TERMINAL:
            found = old.jobs.get(batch["id"])
            ours = {name: found["batchd"][name] for name in batch["batchd"]}  # later ones add some
            assert {**found, "batchd": ours} == batch
    for file in old.shown["files"]:
        content = old.jobs.content(file["id"])
        assert content == (old.untouched / "files" / file["id"]).read_bytes()
    known = {file["id"] for file in old.shown["files"]}
    assert [file for file in old.jobs.page("files") if file["id"] in known] == old.shown["files"]
    for file_id in old.shown["deleted"]:
        with pytest.raises(Refused):
            old.jobs.content(file_id)


def test_lists_keep_their_order_and_cursors_their_place(old: Old) -> None:
    ids = [batch["id"] for batch in old.shown["batches"]]
    assert [batch["id"] for batch in old.jobs.page("batches")] == ids
    for at, batch_id in enumerate(ids):
        found = old.jobs.page("batches", f"after={batch_id}")
        assert [batch["id"] for batch in found] == ids[at + 1 :]
    assert len(old.shown["deleted"]) == 2
    for file_id in old.shown["deleted"]:
        behind = old.rows(f"{AFTER} ORDER BY seq DESC", file_id)
        assert behind, "it stands at the end of the list"
        assert [file["id"] for file in old.jobs.page("files", f"after={file_id}")] == behind


def test_what_was_unfinished_finishes_exactly(old: Old) -> None:
    figures = {name: old.finished(name) for name in ("in_progress", "waiting", "validating")}
    assert {name: figure.output_lines for name, figure in figures.items()} == {
        "in_progress": 10,
        "waiting": 10,
        "validating": 4,
    }
    for name, status in (("finalizing", "expired"), ("cancelling", "cancelled")):
        figure = old.finished(name)
        assert (figure.output_lines, figure.never_run) == (5, 5)
        assert old.jobs.get(old.batch(name)["id"])["status"] == status
    wait_until(lambda: not any((old.state / "batches").iterdir()))
    assert old.jobs.page("batches")[0]["status"] == "completed"


def test_no_line_that_has_a_result_is_sent_again(old: Old) -> None:
    for name in ("in_progress", "waiting", "validating", "finalizing", "cancelling"):
        old.finished(name)
    unanswered = [f"{name}-{number}" for name in ("running", "waiting") for number in range(5)]
    unanswered += [f"new-{number}" for number in range(4)]
    assert sorted(sendings(old.model.events)) == sorted(f"nonce of {line}" for line in unanswered)
    before = old.untouched / "files" / str(output_file_of(old, "waiting"))
    lines = before.read_bytes()
    assert lines
    assert (old.account("waiting").output or b"").startswith(lines)


def sendings(events: list[Event]) -> list[str]:
    return [event.nonce for event in events if event.event == "start"]


def output_file_of(old: Old, name: str) -> object:
    statement = "SELECT output_file_id FROM batch WHERE id = ?"
    return old.rows(statement, old.shown["ids"][name])[0]


def test_the_inbox_goes_on_where_it_was(old: Old) -> None:
    outbox = old.inbox / "outbox"
    status = outbox / "waiting.status.json"
    wait_until(
        lambda: status.exists() and b'"status":"completed"' in status.read_bytes(), within=10
    )
    assert sorted(path.name for path in outbox.iterdir()) == [
        "waiting.output.jsonl",
        "waiting.status.json",
    ]
    delivered = (outbox / "waiting.output.jsonl").read_bytes()
    assert len(result_lines(delivered)) == 10


def test_nothing_is_damaged_before_or_after(old: Old) -> None:
    for name in ("in_progress", "waiting", "validating", "finalizing", "cancelling"):
        old.finished(name)
    assert old.batchd.terminate() == 0
    # What no daemon has brought up to date yet is not looked at, and fsck says so.
    for directory, code in ((old.untouched, 78), (old.state, 0)):
        done = batchd_command("fsck", "--directory", directory, "--json")
        assert json.loads(done.stdout)["findings"] == []
        assert done.returncode == code
        assert ("older than this batchd's" in done.stderr) is (code != 0)
