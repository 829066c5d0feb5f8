"""Damage of a storage directory, end to end: what is done about it, and that it is said everywhere.

One batch is killed half done, once; each test harms a copy of what that left. The model server is a
process of its own with a log of its own, so that it can say which lines were sent again.
"""

import http.client
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from batchd.model import BatchRecord
from batchd.store.readonly import ReadOnly
from batchd.upkeep.fsck import fsck
from tests.support import strace
from tests.support.batchd_process import BatchdProcess
from tests.support.checker import check
from tests.support.eventlog import Event
from tests.support.jobs import Jobs, JsonObject, Refused, backends, request_lines, result_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

GOOD, REFUSED = 900, 100
SLOTS = 8
SECTOR = 512
DATA = b"".join(
    request_lines(GOOD // 100, prefix=f"good-{part}")
    + request_lines(REFUSED // 100, "400", prefix=f"refused-{part}")
    for part in range(100)
)

Harm = Callable[[Path, int], None]


class Half(msgspec.Struct, frozen=True):
    """What a kill left of a batch that was half done, and what its model server had seen."""

    state: Path
    batch: BatchRecord
    server: ModelProcess
    events: list[Event]


def row(state: Path, batch_id: str) -> BatchRecord:
    with ReadOnly.opened(state / "batchd.db") as database:
        record = database.batch(batch_id)
    assert record is not None
    return record


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Half]:
    directory = tmp_path_factory.mktemp("half-done")
    with ModelProcess(directory) as server:
        server.set(delay=0.06)
        settings = {"backends": backends(server.base_url, max_in_flight=SLOTS)}
        with BatchdProcess(directory / "batchd", settings=settings) as batchd:
            jobs = Jobs(batchd.url)
            batch_id = jobs.start(DATA)

            def is_half_known() -> bool:
                """The row has been told how far the ledgers are good, and they have grown since."""
                record = row(batchd.state, batch_id)
                if min(record.output_end, record.error_end) <= 4 * SECTOR:
                    return False
                size = (batchd.state / "files" / str(record.output_file_id)).stat().st_size
                return size - record.output_end > 8 * SECTOR

            wait_until(is_half_known, within=20)
            batchd.kill()
        wait_until(lambda: server.counts().in_flight == 0)
        server.set(delay=0)
        record = row(batchd.state, batch_id)
        assert 0.1 * (GOOD + REFUSED) < record.counts.completed < 0.9 * (GOOD + REFUSED)
        yield Half(batchd.state, record, server, server.events)


class Copy:
    """A copy of that directory, a daemon for it, and its file system check."""

    def __init__(self, half: Half, directory: Path) -> None:
        self.half = half
        self.batch_id = half.batch.id
        self.batchd = BatchdProcess(
            directory,
            settings={"backends": backends(half.server.base_url, max_in_flight=SLOTS)},
        )
        self.state = self.batchd.state
        # Hard links in it are copied as files of their own, which a harm then has to itself.
        shutil.copytree(half.state, self.state)
        self.jobs = Jobs(self.batchd.url)

    def ledger(self, which: str) -> tuple[Path, int]:
        batch = self.half.batch
        if which == "output":
            return self.state / "files" / str(batch.output_file_id), batch.output_end
        return self.state / "files" / str(batch.error_file_id), batch.error_end

    def fsck(self, *more: str) -> JsonObject:
        """What the command says."""
        command = [sys.executable, "-m", "batchd", "fsck", "--json", "--directory", str(self.state)]
        done = subprocess.run([*command, *more], capture_output=True, check=False)  # noqa: S603 - our own program
        assert done.returncode in {0, 1}, done.stderr
        found: JsonObject = json.loads(done.stdout)
        assert found["ok"] == (done.returncode == 0)
        return found

    def found(self) -> list[tuple[str, str]]:
        """What it finds: kinds and paths. The same look in this process, which is sooner."""
        look = fsck(self.state, quick=False, orphan_age=86400, now=time.time)
        return [(one.kind.value, one.path) for step in look for one in step.findings]

    def notes(self) -> list[str]:
        return self.jobs.get(self.batch_id)["batchd"]["notes"]

    def counted(self, kind: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.batchd.port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        return f'batchd_damage_total{{kind="{kind}"}} 1.0\n' in text

    def logged(self, kind: str) -> list[str]:
        lines = self.batchd.log_text().splitlines()
        return [line for line in lines if f"damage_found kind={kind} " in line]

    def wait_for_scrub(self) -> None:
        wait_until(lambda: "scrubbed" in self.batchd.log_text(), within=20)


@pytest.fixture
def copy(half: Half, tmp_path: Path) -> Iterator[Copy]:
    copy = Copy(half, tmp_path / "batchd")
    yield copy
    copy.batchd.kill()


def flip(path: Path, known_end: int) -> None:
    data = bytearray(path.read_bytes())
    data[known_end // 2] ^= 0x20
    path.write_bytes(data)


def zero_a_sector(path: Path, known_end: int) -> None:
    with path.open("r+b") as file:
        file.seek(known_end // 2 // SECTOR * SECTOR)
        file.write(bytes(SECTOR))


def cut(path: Path, known_end: int) -> None:
    with path.open("r+b") as file:
        file.truncate(known_end // 2)


def remove(path: Path, _known_end: int) -> None:
    path.unlink()


def whole_lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


@pytest.mark.parametrize("which", ["output", "error"])
@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (flip, "ledger_damaged"),
        (zero_a_sector, "ledger_damaged"),
        (cut, "ledger_short"),
        (remove, "ledger_missing"),
    ],
    ids=["flip", "sector", "cut", "remove"],
)
def test_only_the_damaged_lines_of_a_ledger_run_again_and_it_is_said_everywhere(
    copy: Copy, which: str, harm: Harm, kind: str
) -> None:
    ledger, known_end = copy.ledger(which)
    other, _ = copy.ledger("error" if which == "output" else "output")
    written = {*whole_lines(ledger), *whole_lines(other)}
    harm(ledger, known_end)
    harmed = ledger.read_bytes() if ledger.exists() else None
    kept = [line for line in (*whole_lines(ledger), *whole_lines(other)) if line in written]
    assert copy.found() == [(kind, f"files/{ledger.name}")]
    before = len(copy.half.server.events)
    copy.batchd.start()
    account = copy.jobs.account(DATA, copy.batch_id)
    # Each line once, and sent again were those without a result that verifies, and no other.
    events = copy.half.server.events[before:]
    again = {event.nonce for event in events if event.event == "start"}
    assert again == _nonces() - {f"nonce of {json.loads(line)['custom_id']}" for line in kept}
    lost = len(written) - len(kept)
    print(f"{kind}: {lost} of {len(written)} results lost, {len(again)} lines sent")  # noqa: T201 - to read
    assert lost > 0
    log = [*copy.half.events, *events]
    summary = check(account, log=log, resent_allowed=lost + 2 * SLOTS)
    assert (account.batch["status"], summary.output_lines, summary.refused) == (
        "completed",
        GOOD,
        REFUSED,
    )
    # Said on the batch, in the log and in the metric.
    assert [f"the {which} file was" in note for note in copy.notes()] == [True]
    assert len(copy.logged(kind)) == 1
    assert f"batch={copy.batch_id}" in copy.logged(kind)[0]
    assert copy.counted(kind)
    # What was damaged is kept, and is what is left to find.
    aside = ledger.with_name(f"{ledger.name}.damaged")
    left = [("kept_aside", f"files/{aside.name}")] if harmed is not None else []
    assert copy.found() == left
    if harmed is not None:
        assert aside.read_bytes() == harmed
    copy.wait_for_scrub()
    assert len(copy.logged("kept_aside")) == len(left)
    assert copy.batchd.terminate() == 0
    assert copy.found() == left


def _nonces() -> set[str]:
    return {f"nonce of {json.loads(line)['custom_id']}" for line in DATA.splitlines()}


def test_a_start_that_has_mended_a_ledger_leaves_nothing_for_the_next_one(copy: Copy) -> None:
    ledger, known_end = copy.ledger("output")
    flip(ledger, known_end)
    harmed = ledger.read_bytes()
    copy.half.server.set(delay=5)
    try:
        for _ in range(3):
            copy.batchd.start()
            copy.batchd.kill()
    finally:
        copy.half.server.set(delay=0)
    assert len(copy.logged("ledger_damaged")) == 1
    assert copy.logged("ledger_short") == []
    assert ledger.with_name(f"{ledger.name}.damaged").read_bytes() == harmed
    copy.batchd.start()
    assert len(copy.notes()) == 1
    check(copy.jobs.account(DATA, copy.batch_id))


def test_a_ledger_that_cannot_be_read_costs_its_lines_and_not_the_start(copy: Copy) -> None:
    strace.require()
    ledger, _ = copy.ledger("output")
    written = {*whole_lines(ledger), *whole_lines(copy.ledger("error")[0])}
    harmed = ledger.read_bytes()
    copy.half.server.set(delay=5)
    copy.batchd.prefix = strace.injecting("read", "error=EIO", path=ledger)
    try:
        copy.batchd.start()
        copy.batchd.kill()
    finally:
        copy.half.server.set(delay=0)
    copy.batchd.prefix = []
    assert len(copy.logged("ledger_damaged")) == 1
    assert ledger.with_name(f"{ledger.name}.damaged").read_bytes() == harmed
    before = len(copy.half.server.events)
    copy.batchd.start()
    account = copy.jobs.account(DATA, copy.batch_id)
    again = {event.nonce for event in copy.half.server.events[before:] if event.event == "start"}
    assert len(again) == GOOD + REFUSED - len(written - set(harmed.split(b"\n")))
    check(account)


def test_a_sector_that_a_power_cut_left_zeroed_above_the_known_end_is_no_damage(
    copy: Copy,
) -> None:
    ledger, known_end = copy.ledger("output")
    written = whole_lines(ledger)
    with ledger.open("r+b") as file:
        file.seek((known_end // SECTOR + 2) * SECTOR)
        file.write(bytes(SECTOR))
    kept = set(whole_lines(ledger)) & set(written)
    assert len(written) - 4 < len(kept) < len(written)
    assert copy.found() == []
    copy.batchd.start()
    account = copy.jobs.account(DATA, copy.batch_id)
    check(account)
    # Good lines behind the hole were not thrown away.
    assert account.output is not None
    assert kept <= set(account.output.split(b"\n"))
    assert copy.notes() == []
    assert "damage_found" not in copy.batchd.log_text()
    assert not list((copy.state / "files").glob("*.damaged"))


# -- what a batch that runs cannot do without


def cut_index(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def garble_index(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize(
    ("name", "harm", "kind"),
    [
        ("index", Path.unlink, "index_missing"),
        ("index", cut_index, "index_size"),
        ("index", garble_index, "index_damaged"),
        ("input", Path.unlink, "input_missing"),
        ("input", cut_index, "input_size"),
    ],
    ids=["no-index", "half-an-index", "garbled-index", "no-input", "half-an-input"],
)
def test_without_its_input_a_batch_ends_with_what_it_has_and_says_so(
    copy: Copy, name: str, harm: Callable[[Path], None], kind: str
) -> None:
    path = copy.state / "batches" / copy.batch_id / name
    harm(path)
    place = f"batches/{copy.batch_id}/{name}"
    assert copy.found() == [(kind, place)]
    done = copy.half.batch.counts
    copy.batchd.start()
    batch = copy.jobs.wait(copy.batch_id)
    assert batch["status"] == "completed"
    counts = batch["request_counts"]
    assert counts["completed"] >= done.completed
    assert counts["completed"] + counts["failed"] == counts["total"] == GOOD + REFUSED
    errors = copy.jobs.content(batch["error_file_id"])
    assert errors is not None
    ended = [json.loads(line) for line in errors.splitlines()]
    lost = [line for line in ended if line["error"] and line["error"]["code"] == "server_error"]
    assert {line["error"]["message"] for line in lost} == {
        "The input file was lost before this request was executed."
    }
    print(f"{kind}: {counts}, {len(lost)} lines lost")  # noqa: T201 - to read
    assert counts["failed"] - len(lost) >= done.failed
    assert any("the input could not be read to the end" in note for note in copy.notes())
    assert "input_lost" in copy.batchd.log_text()
    assert copy.found() == []


def test_the_start_says_what_a_batch_that_cannot_run_yet_has_lost(copy: Copy) -> None:
    """While the model server is away the batch waits, and what it needs is looked at meanwhile."""
    index = copy.state / "batches" / copy.batch_id / "index"
    garble_index(index)
    copy.batchd.configure(backend="http://127.0.0.1:9/v1", settings={})
    copy.batchd.start()
    wait_until(lambda: bool(copy.logged("index_damaged")), within=20)
    wait_until(lambda: any(f"batches/{copy.batch_id}/index" in note for note in copy.notes()))
    assert copy.counted("index_damaged")


# -- what has ended


@pytest.fixture(scope="module")
def whole(half: Half, tmp_path_factory: pytest.TempPathFactory) -> Half:
    """The same batch, brought to its end; the daemon has ended too."""
    copy = Copy(half, tmp_path_factory.mktemp("ended") / "batchd")
    with copy.batchd:
        copy.jobs.wait(copy.batch_id)
        assert copy.batchd.terminate() == 0
    assert copy.found() == []
    return msgspec.structs.replace(half, state=copy.state)


@pytest.fixture
def ended(whole: Half, tmp_path: Path) -> Iterator[Copy]:
    copy = Copy(whole, tmp_path / "batchd")
    yield copy
    copy.batchd.kill()


@pytest.mark.parametrize(
    ("harm", "kind"),
    [(cut, "file_size"), (remove, "file_missing")],
    ids=["cut", "remove"],
)
def test_a_finished_file_that_is_damaged_is_refused_and_said(
    ended: Copy, harm: Harm, kind: str
) -> None:
    output, _ = ended.ledger("output")
    harm(output, output.stat().st_size)
    assert ended.found() == [(kind, f"files/{output.name}")]
    ended.batchd.start()
    ended.wait_for_scrub()
    with pytest.raises(Refused) as caught:
        ended.jobs.content(output.name)
    assert caught.value.status == 500
    assert caught.value.error["error"]["code"] == "file_corrupt"
    assert "batchd fsck" in caught.value.error["error"]["message"]
    # The download meets what the start has said, and does not say it again.
    assert len(ended.logged(kind)) == 1
    assert ended.counted(kind)
    assert [f"files/{output.name} (of {ended.batch_id})" in note for note in ended.notes()] == [
        True
    ]
    assert ended.found() == [(kind, f"files/{output.name}")]
    # What is not damaged is served all the same.
    batch = ended.jobs.get(ended.batch_id)
    assert len(result_lines(ended.jobs.content(batch["error_file_id"]))) == REFUSED
    ended.jobs.delete_file(output.name)
    assert ended.found() == []


@pytest.mark.parametrize("harm", [flip, zero_a_sector], ids=["flip", "sector"])
def test_a_finished_file_that_has_changed_within_is_found_by_the_scrub(
    ended: Copy, harm: Harm
) -> None:
    output, _ = ended.ledger("output")
    harm(output, output.stat().st_size)
    (finding,) = ended.fsck()["findings"]
    assert (finding["kind"], finding["path"]) == ("result_lines", f"files/{output.name}")
    assert ended.fsck("--quick")["findings"] == []
    ended.batchd.start()
    ended.wait_for_scrub()
    (said,) = ended.logged("result_lines")
    assert f"line={finding['line']} offset={finding['offset']} count={finding['count']}" in said
    assert ended.counted("result_lines")
    (note,) = ended.notes()
    assert f"line {finding['line']} at byte {finding['offset']}" in note


def test_an_upload_that_has_changed_is_found_by_the_scrub(ended: Copy) -> None:
    upload = ended.state / "files" / ended.half.batch.input_file_id
    flip(upload, upload.stat().st_size)
    assert ended.found() == [("file_changed", f"files/{upload.name}")]
    ended.batchd.start()
    ended.wait_for_scrub()
    assert len(ended.logged("file_changed")) == 1


def test_an_upload_that_was_cut_is_not_run(ended: Copy) -> None:
    """Cut at a line's end it would be a good input with fewer lines."""
    upload = ended.state / "files" / ended.half.batch.input_file_id
    upload.write_bytes(b"".join(upload.read_bytes().splitlines(keepends=True)[:10]))
    ended.batchd.start()
    batch = ended.jobs.create(upload.name)
    failed = ended.jobs.wait(str(batch["id"]))
    assert failed["status"] == "failed"
    (error,) = failed["errors"]["data"]
    assert error["code"] == "file_corrupt"
    assert upload.name in error["message"]


# -- the database


def zero_a_page(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096)


def empty(database: Path) -> None:
    database.write_bytes(b"")


def text(database: Path) -> None:
    database.write_bytes(b"this is no database\n" * 1000)


@pytest.mark.parametrize(
    ("harm", "kind", "sentence"),
    [
        (zero_a_page, "database_damaged", "is damaged ("),
        (text, "database_damaged", "is damaged (file is not a database)"),
        (empty, "database_missing", "has files but no batchd.db, or an empty one"),
        (Path.unlink, "database_missing", "has files but no batchd.db, or an empty one"),
    ],
    ids=["page", "text", "empty", "missing"],
)
def test_on_a_damaged_database_batchd_does_not_start_and_says_what_to_do(
    ended: Copy, harm: Callable[[Path], None], kind: str, sentence: str
) -> None:
    database = ended.state / "batchd.db"
    harm(database)
    before = database.read_bytes() if database.exists() else None
    assert {kind for kind, _ in ended.found()} == {kind}
    ended.batchd.launch()
    assert ended.batchd.wait() == 78
    said = ended.batchd.log_text()
    assert sentence in said
    assert "backup" in said
    assert "Traceback" not in said
    # Nothing was made in its place, and no file was touched.
    assert (database.read_bytes() if database.exists() else None) == before
    files = sorted(path.name for path in (ended.state / "files").iterdir())
    batch = ended.half.batch
    ids = (batch.input_file_id, batch.output_file_id, batch.error_file_id)
    assert files == sorted(str(file_id) for file_id in ids)
