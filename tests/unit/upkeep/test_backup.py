"""A backup: what the copy has and has not, what it shares, and what happens in between."""

import asyncio
import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from batchd.closing import Closing
from batchd.disk import Disk
from batchd.errors import ConfigError
from batchd.ids import batch_tag
from batchd.model import BatchRecord, Counts, Progress, RequestLine, Usage
from batchd.spool import Spool
from batchd.states import Event
from batchd.store import copies
from batchd.store.migrations import migrations
from batchd.upkeep.backup import BackupFailed, Report, TargetRefused, back_up
from batchd.wire.lines import CANCELLED, never_run_line, reply_line
from tests.support.fakes import OK
from tests.support.parts import Parts, opened, requests

# Another filesystem than the one that tests write to, if there is one.
ELSEWHERE = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it


def done(batch: BatchRecord, names: str) -> bytes:
    """Result lines of the first lines of a batch."""
    tag = batch_tag(batch.id)
    return b"".join(
        reply_line(tag, RequestLine(index, name, "m", b"{}"), OK)
        for index, name in enumerate(names)
    )


def never_run(batch: BatchRecord, names: str) -> bytes:
    tag = batch_tag(batch.id)
    return b"".join(
        never_run_line(tag, index, name, CANCELLED) for index, name in enumerate(names, start=100)
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Storage:
    """A storage directory with its daemon's parts, and a place for backups of it."""

    def __init__(self, parts: Parts, place: Path) -> None:
        self.parts = parts
        self.place = place
        self.spool = parts.spool

    async def back_up(self, name: str = "copy") -> Report:
        return await asyncio.to_thread(self.back_up_now, name)

    def back_up_now(self, name: str = "copy") -> Report:
        return back_up(self.spool.directory, self.place / name, lambda _done, _of: None)

    def copy(self, name: str = "copy") -> Spool:
        return Spool(self.place / name, Disk())

    async def running(
        self, data: bytes, *, output: bytes = b"", errors: bytes = b""
    ) -> BatchRecord:
        """A batch in progress, and what its ledgers hold by now."""
        batch = await self.parts.running(data)
        for file_id, lines in ((batch.output_file_id, output), (batch.error_file_id, errors)):
            if lines:
                self.spool.file(str(file_id)).write_bytes(lines)
        return batch

    async def end(self, batch: BatchRecord) -> None:
        """What the finalizer does last."""
        size = self.spool.file(str(batch.output_file_id)).stat().st_size
        closing = Closing(counts=Counts(1, 1), usage=Usage(), output_bytes=size, error_bytes=0)
        await self.parts.batches.advance(batch.id, Event.LINES_DONE)
        await self.parts.batches.finished(batch.id, Event.PUBLISHED, closing)
        await asyncio.to_thread(self.spool.release, batch.id)


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Storage]:
    async with opened(tmp_path / "state") as parts:
        held = contextlib.ExitStack()
        await asyncio.to_thread(held.enter_context, parts.spool.locked())
        yield Storage(parts, tmp_path)
        await asyncio.to_thread(held.close)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[object, object, None]], None]:
    """Does something on the test's loop right after the database was copied."""

    def plan(happening: Coroutine[object, object, None]) -> None:
        copy, loop = copies.copy, asyncio.get_running_loop()

        def copy_and_more(path: Path, target: Path) -> None:
            copy(path, target)
            asyncio.run_coroutine_threadsafe(happening, loop).result(5)

        monkeypatch.setattr(copies, "copy", copy_and_more)

    return plan


Meanwhile = Callable[[Coroutine[object, object, None]], None]


async def test_a_copy_has_what_the_database_names_and_nothing_else(it: Storage) -> None:
    file, spool = await it.parts.upload(requests("a")), it.spool
    deleted = await it.parts.upload(requests("b"))
    await it.parts.files.delete("local", deleted.id)
    waiting = await it.parts.create(file.id)
    batch = await it.running(requests("ab"), output=done(await it.parts.row(waiting.id), "a"))
    for orphan in (spool.incoming("x"), spool.file("file-x"), spool.file(f"{file.id}.damaged")):
        orphan.write_bytes(b"x")
    report = await it.back_up()
    copy = it.copy()
    assert names(copy.directory) == {"batchd.db", "incoming", "files", "batches"}
    assert names(copy.file("x").parent) == {file.id, batch.input_file_id, batch.output_file_id}
    assert names(copy.input("x").parent.parent) == {batch.id}
    assert names(copy.input(batch.id).parent) == {"input", "index"}
    assert names(copy.incoming("x").parent) == set()
    assert names(it.place) == {"state", "copy"}
    assert (report.linked, report.copied, report.unfinished, report.missing) == (3, 2, 2, [])
    assert report.linked_bytes == 2 * len(requests("ab")) + len(requests("a"))


async def test_what_is_written_to_is_copied_and_what_is_not_is_shared(it: Storage) -> None:
    batch = await it.running(requests("ab"))
    ledger = it.spool.file(str(batch.output_file_id))
    ledger.write_bytes(done(batch, "a"))
    await it.back_up()
    copy = it.copy()
    for shared in (it.spool.file(batch.input_file_id), it.spool.input(batch.id)):
        assert (it.place / "copy" / shared.relative_to(it.spool.directory)).samefile(shared)
    for own in (ledger, it.spool.index(batch.id), it.spool.database):
        twin = it.place / "copy" / own.relative_to(it.spool.directory)
        assert not twin.samefile(own)
        assert own == it.spool.database or twin.read_bytes() == own.read_bytes()
    with copy.index(batch.id).open("ab") as index:  # as a daemon may that works on the copy
        index.write(b"more")
    with copy.file(str(batch.output_file_id)).open("ab") as output:
        output.write(done(batch, "ab"))
    assert it.spool.index(batch.id).stat().st_size == 32
    assert ledger.read_bytes() == done(batch, "a")


async def test_the_copy_has_the_modes_of_the_original(it: Storage) -> None:
    batch = await it.running(requests("ab"), output=b"torn")
    it.spool.directory.chmod(0o710)
    it.spool.file(str(batch.output_file_id)).chmod(0o604)
    it.spool.database.chmod(0o640)
    old = os.umask(0o077)
    try:
        await it.back_up()
    finally:
        os.umask(old)
    copy = it.copy()
    folders = [copy.directory, *copy.folders, copy.input(batch.id).parent]
    assert {mode(folder) for folder in folders} == {0o710}
    assert mode(copy.file(str(batch.output_file_id))) == 0o604
    assert mode(copy.database) == 0o640


async def test_the_database_of_the_copy_is_whole_and_closed(it: Storage) -> None:
    """What is in the WAL only is in the copy, and no WAL is left beside it."""
    await it.parts.upload(requests("a"))
    assert it.spool.database.with_name("batchd.db-wal").stat().st_size > 0
    before = it.spool.database.read_bytes()
    await it.back_up()
    assert it.spool.database.read_bytes() == before, "the original was checkpointed"
    with contextlib.closing(sqlite3.connect(it.copy().database)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM file").fetchone() == (1,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_backup_is_restored_by_backing_it_up_and_stays_as_it_was(it: Storage) -> None:
    batch = await it.running(requests("ab"), output=b"torn")
    await it.back_up("copy")
    it.spool = it.copy()
    before = {path: path.stat() for path in it.spool.directory.rglob("*") if path.is_file()}
    await it.back_up("restored")
    after = {path: path.stat() for path in it.spool.directory.rglob("*") if path.is_file()}
    assert [path.name for path in after] == [path.name for path in before]
    assert [found.st_mtime_ns for found in after.values()] == [
        found.st_mtime_ns for found in before.values()
    ]
    restored = it.copy("restored")
    assert await status_in(restored.database, batch.id) == "in_progress"
    assert not restored.index(batch.id).samefile(it.spool.index(batch.id))


async def test_a_file_that_is_deleted_in_between_is_in_the_copy(
    it: Storage, meanwhile: Meanwhile
) -> None:
    file = await it.parts.upload(requests("a"))
    meanwhile(it.parts.files.delete("local", file.id))
    report = await it.back_up()
    assert report.missing == []
    assert it.copy().file(file.id).read_bytes() == requests("a")
    assert it.spool.file(file.id).exists(), "an orphan now, for the sweeper"


async def test_a_batch_that_ends_in_between_goes_on_in_the_copy(
    it: Storage, meanwhile: Meanwhile
) -> None:
    batch = await it.parts.running(requests("a"))
    it.spool.file(str(batch.output_file_id)).write_bytes(done(batch, "a"))
    await it.parts.files.delete("local", batch.input_file_id)
    meanwhile(it.end(batch))
    report = await it.back_up()
    assert report.missing == []
    copy = it.copy()
    assert copy.file(str(batch.output_file_id)).read_bytes() == done(batch, "a")
    assert not copy.file(str(batch.output_file_id)).samefile(
        it.spool.file(str(batch.output_file_id))
    )
    assert copy.input(batch.id).read_bytes() == requests("a")
    assert copy.index(batch.id).stat().st_size == 16
    assert await status_in(copy.database, batch.id) == "in_progress"


async def test_lines_that_were_never_run_are_not_in_the_ledger_of_a_batch_that_runs(
    it: Storage, meanwhile: Meanwhile
) -> None:
    """It is cancelled in between: in the copy it is in progress, and its lines will run."""
    batch = await it.parts.running(requests("abc"))
    output = it.spool.file(str(batch.output_file_id))
    errors = it.spool.file(str(batch.error_file_id))
    output.write_bytes(done(batch, "a"))
    errors.write_bytes(b"")

    async def cancel() -> None:
        await it.parts.batches.advance(batch.id, Event.CANCEL)
        with errors.open("ab") as ledger:
            ledger.write(never_run(batch, "bc"))

    meanwhile(cancel())
    await it.back_up()
    copy = it.copy()
    assert await status_in(copy.database, batch.id) == "in_progress"
    assert copy.file(output.name).read_bytes() == done(batch, "a")
    assert not copy.file(errors.name).exists()
    assert errors.read_bytes()


async def test_a_ledger_is_copied_as_far_as_its_row_knows_it_at_least(
    it: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows, and the row learns of it, after the ledgers were measured."""
    batch = await it.running(requests("abc"), output=b"")
    ledger = it.spool.file(str(batch.output_file_id))
    copy, loop = copies.copy, asyncio.get_running_loop()

    async def grow() -> None:
        ledger.write_bytes(done(batch, "ab"))
        progress = Progress(Counts(3, 2), output_end=len(done(batch, "ab")))
        await it.parts.batches.checkpoint(batch.id, progress)

    def grow_and_copy(path: Path, target: Path) -> None:
        asyncio.run_coroutine_threadsafe(grow(), loop).result(5)
        copy(path, target)

    monkeypatch.setattr(copies, "copy", grow_and_copy)
    await it.back_up()
    assert it.copy().file(ledger.name).read_bytes() == done(batch, "ab")


async def test_what_is_missing_is_named_and_the_rest_copied(it: Storage) -> None:
    gone, kept = await it.parts.upload(requests("a")), await it.parts.upload(requests("b"))
    batch = await it.parts.running(requests("c"))
    it.spool.file(gone.id).unlink()
    it.spool.index(batch.id).unlink()
    report = await it.back_up()
    assert report.missing == [str(it.spool.file(gone.id)), str(it.spool.index(batch.id))]
    assert it.copy().file(kept.id).exists()


async def test_where_no_link_can_be_made_everything_is_copied(
    it: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await it.parts.upload(requests("a"))

    def refuse(_new: Path, _old: Path) -> None:
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    report = await it.back_up()
    assert (report.linked, report.copied, report.copied_bytes) == (0, 1, len(requests("a")))
    assert it.copy().file(file.id).read_bytes() == requests("a")
    assert not it.copy().file(file.id).samefile(it.spool.file(file.id))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    if not ELSEWHERE.is_dir() or ELSEWHERE.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip(f"{ELSEWHERE} is not another filesystem")
    place = ELSEWHERE / f"batchd-test-{os.getpid()}"
    place.mkdir()
    yield place
    for path in sorted(place.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    place.rmdir()


async def test_a_copy_on_another_filesystem_is_whole(it: Storage, elsewhere: Path) -> None:
    batch = await it.running(requests("ab"), output=b"torn")
    it.place = elsewhere
    report = await it.back_up()
    assert (report.linked, report.copied) == (0, 4)
    copy = it.copy()
    assert copy.file(batch.input_file_id).read_bytes() == requests("ab")
    assert copy.input(batch.id).read_bytes() == requests("ab")
    assert copy.file(str(batch.output_file_id)).read_bytes() == b"torn"
    assert names(elsewhere) == {"copy"}


async def test_an_error_that_is_no_lack_of_links_breaks_it_off_and_leaves_nothing(
    it: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await it.parts.upload(requests("a"))

    def refuse(_new: Path, _old: Path) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(PermissionError):
        await it.back_up()
    assert names(it.place) == {"state"}


async def test_a_full_disk_is_said_and_leaves_nothing(
    it: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await it.running(requests("a"), output=b"torn")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackupFailed, match=f"there is no room for a backup at {it.place}/copy"):
        await it.back_up()
    assert names(it.place) == {"state"}


async def test_what_a_killed_backup_left_is_removed_by_the_next(it: Storage) -> None:
    file = await it.parts.upload(requests("a"))
    left = it.place / "copy.incomplete"
    for folder in ("files", "batches", "incoming"):
        (left / folder).mkdir(parents=True)
    (left / "files" / "file-old").write_bytes(b"old")
    (left / "batchd.db").write_bytes(b"half")
    report = await it.back_up()
    assert report.replaced == str(left)
    assert names(it.place) == {"state", "copy"}
    assert names(it.copy().file("x").parent) == {file.id}
    assert (await it.back_up("second")).replaced is None


async def test_what_no_backup_has_left_is_not_removed(it: Storage) -> None:
    mine = it.place / "copy.incomplete"
    (mine / "files").mkdir(parents=True)
    (mine / "lock").write_bytes(b"")  # as in a storage directory
    with pytest.raises(BackupFailed, match=r"copy\.incomplete is in the way and not an unfinished"):
        await it.back_up()
    assert names(mine) == {"files", "lock"}


async def test_two_backups_to_one_place_do_not_mix(it: Storage) -> None:
    (it.place / "copy.incomplete").mkdir()
    descriptor = os.open(it.place / "copy.incomplete", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(BackupFailed, match="another backup is being written to"):
            await it.back_up()
    finally:
        os.close(descriptor)
    await it.back_up()


async def test_an_empty_directory_is_taken(it: Storage) -> None:
    (it.place / "copy").mkdir()
    await it.back_up()
    assert it.copy().database.exists()


async def test_a_place_that_cannot_be_a_backup_is_refused(
    it: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (it.place / "full").mkdir()
    (it.place / "full" / "file").write_bytes(b"")
    (it.place / "link").symlink_to(it.spool.directory / "files")
    for name, reason in {
        "state": "is in the storage directory itself",
        "state/files/copy": "is in the storage directory itself",
        "link/copy": "is in the storage directory itself",
        "full": "is there already",
        "full/file": "is there already",
        "nowhere/copy": "there is no directory",
    }.items():
        with pytest.raises(TargetRefused, match=reason):
            await it.back_up(name)

    def is_mounted(path: Path) -> bool:
        return path.name == "mounted"

    monkeypatch.setattr(Path, "is_mount", is_mounted)
    with pytest.raises(TargetRefused, match="is where a filesystem is mounted"):
        await it.back_up("mounted")
    assert names(it.place) == {"state", "full", "link"}


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("PRAGMA user_version = 99", "has schema version 99, newer than this batchd's"),
        ("PRAGMA user_version = 0", "is not a database of batchd"),
        ("PRAGMA application_id = 1", "is not a database of batchd"),
        ("DROP TABLE file", "cannot be read: no such table"),
    ],
)
async def test_a_database_that_is_not_ours_is_not_backed_up(
    it: Storage, statement: str, reason: str
) -> None:
    await it.parts.database.write(lambda tx: tx.execute(statement))
    with pytest.raises(ConfigError, match=reason):
        await it.back_up()
    assert names(it.place) == {"state"}


def test_a_directory_without_a_database_is_not_backed_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to back up in"):
        back_up(tmp_path, tmp_path / "copy", lambda _done, _of: None)
    (tmp_path / "state" / "files").mkdir(parents=True)
    (tmp_path / "state" / "batchd.db").write_bytes(b"no database, but long enough" * 100)
    with pytest.raises(ConfigError, match="file is not a database"):
        back_up(tmp_path / "state", tmp_path / "copy", lambda _done, _of: None)
    assert names(tmp_path) == {"state"}


async def test_a_damaged_database_is_not_backed_up(it: Storage) -> None:
    for number in range(200):
        await it.parts.upload(requests("a") + b" " * number)
    await it.back_up("damaged")
    it.spool = it.copy("damaged")
    with it.spool.database.open("r+b") as database:
        database.seek(-4096, os.SEEK_END)
        database.write(b"\xff" * 4096)
    with pytest.raises(ConfigError, match=r"damaged/batchd\.db is damaged"):
        await it.back_up()
    assert names(it.place) == {"state", "damaged"}


async def test_it_says_how_far_it_is(it: Storage) -> None:
    for name in "abc":
        await it.parts.upload(requests(name))
    heard: list[tuple[int, int]] = []
    await asyncio.to_thread(
        back_up, it.spool.directory, it.place / "copy", lambda done, of: heard.append((done, of))
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]


async def test_an_older_database_can_be_backed_up(
    it: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await asyncio.to_thread(migrations)
    newer = [*known, (len(known) + 1, "")]
    monkeypatch.setattr("batchd.store.snapshot.migrations", lambda: newer)
    await it.back_up()
    assert it.copy().database.exists()


async def test_removals_wait_for_no_backup_and_backups_only_for_the_removal_under_way(
    it: Storage,
) -> None:
    file = await it.parts.upload(requests("a"))
    inside, go_on = threading.Event(), threading.Event()

    class SlowDisk(Disk):
        def remove(self, path: Path) -> None:
            inside.set()
            assert go_on.wait(5)
            super().remove(path)

    it.spool.disk = SlowDisk()
    removing = asyncio.create_task(asyncio.to_thread(it.spool.discard, file.id))
    assert await asyncio.to_thread(inside.wait, 5)
    backing_up = asyncio.create_task(it.back_up())
    done, _ = await asyncio.wait([backing_up], timeout=0.2)
    assert not done, "a backup began in the midst of a removal"
    go_on.set()
    assert await removing
    assert (await backing_up).missing == [str(it.spool.file(file.id))]


async def status_in(database: Path, batch_id: str) -> str:
    def read() -> str:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            found = connection.execute("SELECT status FROM batch WHERE id = ?", (batch_id,))
            return str(found.fetchone()[0])

    return await asyncio.to_thread(read)
