"""Each kind of damage is found, said with its place, and nothing else is."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from batchd.disk import Disk
from batchd.engine.inspection import Inspection, Places, Rules
from batchd.findings import Finding, Note, NoteKind
from batchd.jsonl import ENTRY_SIZE, IndexWriter
from batchd.model import BatchRecord, Counts, FileRecord, Progress
from batchd.spool import Spool
from batchd.states import Event
from batchd.upkeep import inputs, leftovers
from batchd.upkeep import steps as stepwise
from tests.support.fakes import START
from tests.support.parts import requests
from tests.unit.upkeep.conftest import DAY, Looked, Storage, flip, replace, result

Harm = Callable[[Storage], None]


def names(folder: Path) -> dict[str, bytes]:
    """Every file below a directory with its bytes, but for SQLite's memory of its readers."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found if not path.name.endswith("-shm")}


async def test_nothing_is_found_where_nothing_is_damaged(storage: Storage) -> None:
    before = names(storage.spool.directory)
    looked = await storage.look()
    assert (looked.findings, looked.notes) == ([], [])
    # Two uploads, two result files; of the batch that runs its input, its index and its ledgers.
    assert (looked.files, looked.lines) == (8, 6 + 4 + 6)
    uploads = 2 * len(requests("abcdef"))
    results = sum(path.stat().st_size for path in (storage.output, storage.errors))
    ledgers = storage.running.output_end + storage.running.error_end
    assert looked.bytes == uploads + len(requests("abcdef")) + results + ledgers
    assert names(storage.spool.directory) == before


async def test_a_quick_look_reads_no_bytes(storage: Storage) -> None:
    flip(storage.input, 5)
    flip(storage.output, 5)
    looked = await storage.look(quick=True)
    assert (looked.findings, looked.files, looked.lines, looked.bytes) == ([], 8, 0, 0)


def upload(storage: Storage) -> str:
    return f"files/{storage.running.input_file_id}"


def output(storage: Storage) -> str:
    return f"files/{storage.ended.output_file_id}"


def errors(storage: Storage) -> str:
    return f"files/{storage.ended.error_file_id}"


def ledger(storage: Storage) -> str:
    return f"files/{storage.running.output_file_id}"


def hold(storage: Storage) -> str:
    return f"batches/{storage.running.id}/input"


def index(storage: Storage) -> str:
    return f"batches/{storage.running.id}/index"


def indexed(path: Path, *entries: tuple[int, int]) -> None:
    writer = IndexWriter(path)
    for offset, length in entries:
        writer.add(offset, length)
    writer.close()


def other_line(storage: Storage) -> bytes:
    """A good line in place of one of the same size."""
    return storage.output.read_bytes().replace(result(storage.ended, 2), result(storage.ended, 1))


LINE = len(requests("a"))

SIZES: list[tuple[str, Callable[[Storage], str], str, Harm]] = [
    (
        "file_missing",
        upload,
        f"is missing; it had {6 * LINE} bytes",
        lambda storage: storage.input.unlink(),
    ),
    (
        "file_size",
        upload,
        f"has {LINE} bytes instead of {6 * LINE}",
        lambda storage: replace(storage.input, requests("a")),
    ),
    ("file_missing", output, "is missing; it had", lambda storage: storage.output.unlink()),
    ("file_size", errors, "has 0 bytes instead of", lambda storage: replace(storage.errors, b"")),
    ("input_missing", hold, "is missing", lambda storage: storage.hold.unlink()),
    (
        "input_size",
        hold,
        f"has {LINE} bytes instead of {6 * LINE}",
        lambda storage: replace(storage.hold, requests("a")),
    ),
    ("index_missing", index, "is missing", lambda storage: storage.index.unlink()),
    (
        "index_size",
        index,
        f"has {3 * ENTRY_SIZE} bytes instead of {6 * ENTRY_SIZE}",
        lambda storage: indexed(storage.index, (0, 1), (1, 1), (2, 1)),
    ),
    (
        "ledger_missing",
        ledger,
        "bytes of it were known",
        lambda storage: storage.ledger.unlink(),
    ),
    (
        "ledger_short",
        ledger,
        "has only 10 of the",
        lambda storage: replace(storage.ledger, storage.ledger.read_bytes()[:10]),
    ),
    (
        "kept_aside",
        lambda storage: ledger(storage) + ".damaged",
        "is a damaged result file that a start has kept",
        lambda storage: storage.ledger.with_name(storage.ledger.name + ".damaged").touch(),
    ),
    (
        "sync_failed",
        lambda _: "sync-failed",
        "says that the disk has failed to write",
        lambda storage: storage.spool.distrust(),
    ),
]

CONTENTS: list[tuple[str, Callable[[Storage], str], str, Harm]] = [
    (
        "file_changed",
        upload,
        "is not what was uploaded",
        lambda storage: flip(storage.input, 3 * LINE + 9),
    ),
    (
        "result_lines",
        output,
        "has bad lines: 1, the first of them line 3 at byte",
        lambda storage: flip(storage.output, 2 * len(result(storage.ended, 0)) + 70),
    ),
    (
        "result_lines",
        output,
        "has bad lines: 1, the first of them line 3 at byte",
        lambda storage: replace(storage.output, other_line(storage)),
    ),
    ("input_changed", hold, "is not what was uploaded", lambda storage: flip(storage.hold, 70)),
    (
        "index_damaged",
        index,
        "does not fit its input: 1 bad entries, the first is that of request 2",
        lambda storage: flip(storage.index, ENTRY_SIZE),
    ),
    (
        "ledger_damaged",
        ledger,
        "has bad lines: 1, the first of them line 2 at byte",
        lambda storage: flip(storage.ledger, len(result(storage.running, 0)) + 60),
    ),
]


@pytest.mark.parametrize(
    ("kind", "path", "words", "harm"), SIZES, ids=lambda one: one if isinstance(one, str) else ""
)
async def test_what_is_missing_or_lies_around_is_found_at_a_glance(
    storage: Storage, kind: str, path: Callable[[Storage], str], words: str, harm: Harm
) -> None:
    await asyncio.to_thread(harm, storage)
    for quick in (True, False):
        looked = await storage.look(quick=quick)
        assert looked.kinds == [(kind, path(storage))]
        assert words in looked.findings[0].sentence


@pytest.mark.parametrize(
    ("kind", "path", "words", "harm"), CONTENTS, ids=lambda one: one if isinstance(one, str) else ""
)
async def test_what_has_changed_is_found_by_reading_it(
    storage: Storage, kind: str, path: Callable[[Storage], str], words: str, harm: Harm
) -> None:
    await asyncio.to_thread(harm, storage)
    assert (await storage.look(quick=True)).findings == []
    looked = await storage.look()
    assert looked.kinds == [(kind, path(storage))]
    assert words in looked.findings[0].sentence
    assert looked.findings[0].batch == (
        None if kind == "file_changed" else batch_in(looked, storage)
    )


def batch_in(looked: Looked, storage: Storage) -> str:
    of_ended = looked.findings[0].kind.value.startswith("result")
    return storage.ended.id if of_ended else storage.running.id


async def test_counts_that_the_lines_do_not_bear_out_are_said(storage: Storage) -> None:
    change = "UPDATE batch SET counts = json_set(counts, '$.failed', 2) WHERE id = ?"
    await storage.parts.database.write(lambda tx: tx.execute(change, (storage.ended.id,)))
    looked = await storage.look()
    assert looked.kinds == [("result_counts", errors(storage))]
    assert "has 1 good lines instead of 2" in looked.findings[0].sentence


async def test_the_first_bad_line_is_told_with_its_place_and_all_are_counted(
    storage: Storage,
) -> None:
    size = len(result(storage.ended, 0))
    for line in (1, 3):
        flip(storage.output, line * size + 60)
    (finding,) = (await storage.look()).findings
    assert (finding.count, finding.line, finding.offset) == (2, 2, size)


async def test_damage_that_takes_a_newline_makes_one_bad_line_of_two(storage: Storage) -> None:
    size = len(result(storage.ended, 0))
    flip(storage.output, size - 1)
    (finding,) = (await storage.look()).findings
    assert (finding.count, finding.line, finding.offset) == (1, 1, 0)


async def test_a_torn_tail_is_a_note_and_no_damage(storage: Storage) -> None:
    for tail in (b'{"id":"batch_req_', bytes(4096), b"bad\n" + result(storage.running, 5)):
        good = storage.ledger.read_bytes()
        replace(storage.ledger, good + tail)
        looked = await storage.look()
        assert looked.findings == []
        torn = Note(kind=NoteKind.TORN_TAIL, path=ledger(storage), bytes=len(tail))
        assert looked.notes == ([torn] if not tail.endswith(b"\n") else [])
        replace(storage.ledger, good)


async def test_the_same_line_in_both_ledgers_is_damage_below_the_known_end(
    storage: Storage,
) -> None:
    twice = result(storage.running, 1, refused=True)
    storage.write(storage.running.error_file_id, twice)
    assert len(twice) == storage.running.error_end
    looked = await storage.look()
    assert looked.kinds == [("ledger_damaged", f"files/{storage.running.error_file_id}")]


async def test_orphans_are_notes_once_they_are_old_and_nobody_owns_them(storage: Storage) -> None:
    orphans = [
        storage.spool.incoming("upload"),
        storage.spool.file("file-of-nobody"),
        storage.spool.input("batch_of_nobody"),
        storage.spool.input(storage.ended.id),
    ]
    for path in orphans:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    young = await storage.look(now=orphans[0].stat().st_mtime + DAY - 60)
    assert (young.findings, young.notes) == ([], [])
    for path in [*storage.spool.directory.rglob("*"), *storage.spool.folders]:
        os.utime(path, (START - DAY - 1, START - DAY - 1))
    old = await storage.look()
    assert old.findings == []
    assert {note.path for note in old.notes} == {
        "incoming/upload",
        "files/file-of-nobody",
        "batches/batch_of_nobody",
        f"batches/{storage.ended.id}",
    }
    assert {note.kind for note in old.notes} == {NoteKind.ORPHAN}


async def test_deleted_and_expired_files_need_no_bytes(storage: Storage) -> None:
    await storage.parts.files.delete("local", storage.running.input_file_id)
    storage.output.unlink()
    storage.errors.unlink()
    assert len((await storage.look()).findings) == 2
    assert (await storage.look(now=START + 3600)).findings == []


async def test_a_batch_that_is_being_validated_may_have_half_a_hold(storage: Storage) -> None:
    waiting = await storage.parts.create(storage.running.input_file_id)
    await asyncio.to_thread(storage.spool.hold, waiting.input_file_id, waiting.id)
    storage.spool.index(waiting.id).write_bytes(b"half")
    assert (await storage.look()).findings == []


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + requests("ab"),
        b"\n \r\n" + requests("a") + b"\t\n" + requests("b").replace(b"\n", b"\r\n"),
        requests("ab")[:-1],
        b"\xef\xbb\xbf\n" + requests("ab") + b"   ",
        requests("ab") + b"\r\n\r",
    ],
)
async def test_an_index_that_the_validator_made_fits(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    batch = await storage.parts.running(data)
    rules = Rules(
        endpoint="/v1/chat/completions",
        max_requests=9,
        max_embedding_inputs=9,
        mixed_models=True,
    )
    places = Places(
        input=storage.spool.input(batch.id),
        index=storage.spool.index(batch.id),
        order=storage.spool.order(batch.id),
        scratch=storage.spool.scratch(batch.id),
    )
    inspection = Inspection(places, rules, None)
    verdict = await asyncio.to_thread(inspection.judge)
    assert (verdict.total, verdict.errors) == (2, [])
    await storage.parts.database.write(
        lambda tx: tx.execute(
            "UPDATE batch SET counts = json_set(counts, '$.total', 2) WHERE id = ?", (batch.id,)
        )
    )
    for piece in (3, 4, 7, 1 << 20):
        monkeypatch.setattr(stepwise, "PIECE", piece)
        assert (await storage.look()).findings == []


async def test_what_cannot_be_read_is_said(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(stepwise, "pieces", fail)
    monkeypatch.setattr("batchd.upkeep.inputs.pieces", fail)
    looked = await storage.look()
    assert {finding.kind.value for finding in looked.findings} == {"unreadable"}
    assert {finding.path for finding in looked.findings} == {
        hold(storage),
        ledger(storage),
        f"files/{storage.running.error_file_id}",
        output(storage),
        errors(storage),
        upload(storage),
        f"files/{storage.ended.input_file_id}",
    }
    assert "cannot be read (Input/output error)" in looked.findings[0].sentence


# -- races: what a daemon does meanwhile is no damage


async def test_a_file_that_is_deleted_in_between_is_not_missing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, size = asyncio.get_running_loop(), Disk.size
    file_id = storage.running.input_file_id

    def deleted_before(disk: Disk, path: Path) -> int | None:
        if path.name == file_id and path.exists():
            work = storage.parts.files.delete("local", file_id)
            asyncio.run_coroutine_threadsafe(work, loop).result(5)
        return size(disk, path)

    monkeypatch.setattr(Disk, "size", deleted_before)
    looked = await storage.look()
    assert looked.findings == []
    assert not storage.input.exists()


async def test_damage_of_a_batch_that_moves_on_all_the_time_is_said_all_the_same(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, sizes = asyncio.get_running_loop(), inputs.sizes
    looks = 0

    async def move_on() -> None:
        storage.running = await storage.parts.row(storage.running.id)
        progress = Progress(
            Counts(6, looks, 1),
            output_end=storage.running.output_end,
            error_end=storage.running.error_end,
        )
        await storage.parts.batches.checkpoint(storage.running.id, progress)

    def moving(spool: Spool, record: BatchRecord, upload: FileRecord | None) -> list[Finding]:
        nonlocal looks
        looks += 1
        asyncio.run_coroutine_threadsafe(move_on(), loop).result(5)
        return sizes(spool, record, upload)

    monkeypatch.setattr(inputs, "sizes", moving)
    await asyncio.to_thread(storage.index.unlink)
    looked = await storage.look(quick=True)
    assert looked.kinds == [("index_missing", index(storage))]
    assert looks == 3


async def test_names_that_go_while_they_are_looked_at_are_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_NAMES", 2)
    for number in range(5):
        storage.spool.file(f"x-{number}.damaged").touch()
    scan, gone = os.scandir, storage.spool.file("x-3.damaged")

    @contextlib.contextmanager
    def going(folder: Path) -> Generator[list[os.DirEntry[str]]]:
        with scan(folder) as found:
            names = sorted(found, key=lambda entry: entry.name)
        gone.unlink(missing_ok=True)
        yield names

    monkeypatch.setattr("batchd.upkeep.leftovers.os.scandir", going)
    paths = [finding.path for finding in (await storage.look()).findings]
    assert paths == [f"files/x-{number}.damaged" for number in (0, 1, 2, 4)]


async def test_a_batch_that_ends_in_between_needs_no_hold(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, sizes = asyncio.get_running_loop(), inputs.sizes

    async def end() -> None:
        await storage.parts.batches.advance(storage.running.id, Event.CANCEL)
        await storage.parts.batches.never_started(storage.running.id, Event.PUBLISHED)

    def ended_before(spool: Spool, record: BatchRecord, upload: FileRecord | None) -> list[Finding]:
        asyncio.run_coroutine_threadsafe(end(), loop).result(5)
        storage.spool.release(storage.running.id)
        storage.ledger.unlink()
        return sizes(spool, record, upload)

    monkeypatch.setattr(inputs, "sizes", ended_before)
    assert (await storage.look()).findings == []
