"""A copy of the storage directory, taken beside the daemon that works in it.

A daemon can be started on the copy: it finishes the batches that were running. In this order,
because each step names what the one before it has made sure of:

    the spool is kept         from here on the daemon removes no bytes
    the ledgers are measured  what is written later may belong to a status that the copy has not
    the database is copied    one read transaction: the moment that the copy shows
    the spool is copied       what that database names, and nothing else

Files and input holds get a second name (a hard link), for no daemon ever writes to them. Ledgers
and indexes are written to, so they are copied, and the two directories never share what changes.
Where links do not reach (another filesystem) everything is copied.

The copy grows under the name ``DIR.incomplete`` and gets its own once all of it is on disk.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import msgspec

from batchd.disk import Disk, cannot_link, is_full, make_like
from batchd.errors import BatchdError, ConfigError
from batchd.spool import Spool
from batchd.store import copies
from batchd.store.snapshot import Snapshot, Unfinished

_PIECE = 1 << 20
# What a backup that was broken off can have left; a storage directory has a ``lock`` besides.
_OURS = frozenset({"batchd.db", "batchd.db-journal", "incoming", "files", "batches"})

Tell = Callable[[int, int], None]


class BackupFailed(BatchdError):
    """The backup could not be made."""


class TargetRefused(BackupFailed):
    """A backup cannot be put there."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. ``replaced``: what an earlier backup had left when it was broken off."""

    linked: int
    linked_bytes: int
    copied: int
    copied_bytes: int
    unfinished: int
    missing: list[str]
    replaced: str | None = None


def back_up(storage: Path, target: Path, tell: Tell) -> Report:
    """Copy a storage directory to ``target``, which must not be there or be empty.

    ``tell`` hears how many files are done, and of how many. ``ConfigError`` if there is nothing to
    copy, ``TargetRefused`` or ``BackupFailed`` if it can't be copied there.
    """
    target, disk = target.resolve(), Disk()
    source = Spool(storage, disk)
    if not source.database.exists():
        raise ConfigError(f"there is nothing to back up in {storage}: it has no batchd.db")
    _check_target(storage, target)
    building = target.with_name(target.name + ".incomplete")
    with _full_said(target), _claimed(building) as replaced:
        with source.kept():
            report = _Copying(source, Spool(building, disk), tell).run()
        building.rename(target)
        disk.sync_directory(target.parent)
    return msgspec.structs.replace(report, replaced=str(building) if replaced else None)


def _check_target(storage: Path, target: Path) -> None:
    if target.is_relative_to(storage.resolve()):
        raise TargetRefused(f"{target} is in the storage directory itself: name another place")
    if not target.parent.is_dir():
        raise TargetRefused(f"there is no directory {target.parent}")
    if target.is_mount():
        raise TargetRefused(f"{target} is where a filesystem is mounted: name a directory in it")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise TargetRefused(f"{target} is there already: name a directory that is not there yet")


@contextlib.contextmanager
def _full_said(target: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise BackupFailed(f"there is no room for a backup at {target}") from error
        raise


@contextlib.contextmanager
def _claimed(building: Path) -> Generator[bool]:
    """An empty directory for us alone, and whether it was there; removed if we break off."""
    was_there = False
    try:
        building.mkdir(mode=0o700)
    except FileExistsError:
        was_there = True
    descriptor = os.open(building, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _claim(building, descriptor)
        try:
            yield was_there
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _claim(building: Path, descriptor: int) -> None:
    """Make sure that nobody else builds here, and remove what one that was killed has left."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BackupFailed(f"another backup is being written to {building}") from None
    left = os.listdir(descriptor)
    if os.fstat(descriptor).st_uid != os.geteuid() or not _OURS.issuperset(left):
        raise BackupFailed(f"{building} is in the way and not an unfinished backup: move it away")
    for name in left:
        path = building / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


class _Copying:
    """One backup under way."""

    def __init__(self, source: Spool, target: Spool, tell: Tell) -> None:
        self._source = source
        self._target = target
        self._tell = tell
        self._like = source.directory.stat()
        self._linked = self._linked_bytes = 0
        self._copied = self._copied_bytes = 0
        self._missing: list[str] = []

    def run(self) -> Report:
        """Copy everything; all of it is on disk when this returns."""
        source, target = self._source, self._target
        for folder in target.folders:
            folder.mkdir()
        sizes = self._ledger_sizes()
        copies.copy(source.database, target.database)
        with Snapshot.of(target.database) as snapshot:
            if not snapshot.is_whole():
                raise ConfigError(f"the database {source.database} is damaged")
            self._link_files(list(snapshot.live_files()))
            unfinished = snapshot.unfinished()
        for batch in unfinished:
            if batch.was_validated:
                self._copy_batch(batch, sizes)
        for folder in (*target.folders, target.directory):
            self._finish(folder)
        return Report(
            linked=self._linked,
            linked_bytes=self._linked_bytes,
            copied=self._copied,
            copied_bytes=self._copied_bytes,
            unfinished=len(unfinished),
            missing=self._missing,
        )

    def _ledger_sizes(self) -> Mapping[str, int]:
        """How long each ledger is, with what is not yet synced."""
        with Snapshot.of(self._source.database) as live:
            ledgers = [file_id for batch in live.unfinished() for file_id in batch.ledgers]
        disk = self._source.disk
        return {file_id: disk.size(self._source.file(file_id)) or 0 for file_id in ledgers}

    def _link_files(self, file_ids: list[str]) -> None:
        for done, file_id in enumerate(file_ids, start=1):
            self._link(self._source.file(file_id), self._target.file(file_id))
            self._tell(done, len(file_ids))

    def _copy_batch(self, batch: Unfinished, sizes: Mapping[str, int]) -> None:
        source, target = self._source, self._target
        for file_id, known_end in batch.ledgers.items():
            if size := max(known_end, sizes.get(file_id, 0)):
                self._copy(source.file(file_id), target.file(file_id), size)
        folder = target.input(batch.id).parent
        folder.mkdir()
        self._link(source.input(batch.id), target.input(batch.id))
        self._copy(source.index(batch.id), target.index(batch.id))
        self._finish(folder)

    def _link(self, source: Path, target: Path) -> None:
        try:
            target.hardlink_to(source)
        except FileNotFoundError:
            self._missing.append(str(source))
        except OSError as error:
            if not cannot_link(error):
                raise
            self._copy(source, target)
        else:
            self._linked += 1
            self._linked_bytes += target.stat().st_size

    def _copy(self, source: Path, target: Path, size: int | None = None) -> None:
        """Copy a file, or as much as there is of its first ``size`` bytes."""
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            self._missing.append(str(source))
            return
        with os.fdopen(descriptor, "rb") as old, target.open("xb") as new:
            found = os.fstat(descriptor)
            left = found.st_size if size is None else size
            while left and (data := old.read(min(left, _PIECE))):
                left -= new.write(data)
            new.flush()
            make_like(new.fileno(), found)
            os.fsync(new.fileno())
            self._copied += 1
            self._copied_bytes += new.tell()

    def _finish(self, folder: Path) -> None:
        """A directory is complete: it gets the mode of the original, and is synced."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            make_like(descriptor, self._like)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
