"""The spool: names of everything under the storage directory, and how bytes get there.

    batchd.db -wal -shm         SQLite's
    batchd.db.before-N          a copy from before an upgrade, for the operator
    ballast                     given up when the disk is full (``room``)
    ballast.given-up            there while it is
    lock                        held (flock) by the one daemon of this directory
    sync-failed                 a sync failed: the next start copies ledgers instead of trusting
    incoming/<random>           an upload being written; nobody but its writer reads it
    files/<file_id>             a file; complete and never modified once a row names it, or the
                                ledger of an unfinished batch that holds this id
    batches/<batch_id>/input    the batch's own hold on its input: a hard link
    batches/<batch_id>/index    where each request line of the input is
    batches/<batch_id>/order    in which order they go out, if not as in the input; derived

Publishing is a rename, but the row is the commit: a crash leaves at worst a name in ``incoming``,
or one in ``files`` or ``batches`` that no row names. Neither is repaired; the sweeper removes both
once they are older than ``retention.orphan_age``.

While a backup runs, nothing under ``files`` and ``batches`` is removed: what its copy of the
database names must be there still when it gets to it. Backups share a lock on the directory
``files``, each removal wants it alone, and one that cannot have it leaves the bytes as orphans.
"""

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Generator
from pathlib import Path

from batchd.disk import PASSING, Disk
from batchd.errors import ConfigError, SpoolError

_WORLD_WRITABLE = stat.S_IWOTH


class Spool:
    """Paths under one storage directory; creates nothing until ``prepare``."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self.directory = directory
        self.disk = disk
        self.database = directory / "batchd.db"
        self._sync_failed = directory / "sync-failed"
        self._incoming = directory / "incoming"
        self._files = directory / "files"
        self._batches = directory / "batches"
        self.folders = (self._incoming, self._files, self._batches)
        self._removing = threading.Lock()  # two threads with one descriptor have one flock
        self._removals: int | None = None

    def prepare(self) -> None:
        """Make the directories.

        ``ConfigError`` if the place is unusable or open to others, ``SpoolError`` if that may pass.
        """
        try:
            self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            found = self.directory.stat()
            if found.st_mode & _WORLD_WRITABLE:
                raise ConfigError(
                    f"the storage directory {self.directory} is writable by everybody: chmod o-w it"
                )
            if found.st_uid != os.geteuid():
                raise ConfigError(
                    f"the storage directory {self.directory} belongs to user {found.st_uid}, not "
                    f"to {os.geteuid()}: run batchd as its owner, or chown it"
                )
            for folder in self.folders:
                self.disk.make_directory(folder)
            if not self.disk.size(self.database) and self.holds_anything():
                # A new database would make every file an orphan, to be swept.
                raise ConfigError(
                    f"the storage directory {self.directory} has files but no batchd.db, or an "
                    "empty one: put the database back from a backup, or move the files away"
                )
        except OSError as error:
            kind = SpoolError if error.errno in PASSING else ConfigError
            raise kind(
                f"the storage directory {self.directory} cannot be used: {error.strerror}"
            ) from None

    def holds_anything(self) -> bool:
        """Whether there are bytes that a row has named, and so was a database."""
        return any(folder.is_dir() and any(folder.iterdir()) for folder in self.folders[1:])

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Hold the directory for this process; ``ConfigError`` if another daemon has it."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            if not _locked_alone(descriptor):
                raise ConfigError(
                    f"another batchd is running on the storage directory {self.directory}"
                )
            with _opened_directory(self._files) as removals:
                self._removals = removals
                try:
                    yield
                finally:
                    with self._removing:
                        self._removals = None
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def kept(self) -> Generator[None]:
        """Inside, the daemon of this directory removes nothing under ``files`` and ``batches``."""
        with _opened_directory(self._files) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield

    def incoming(self, name: str) -> Path:
        return self._incoming / name

    def file(self, file_id: str) -> Path:
        return self._files / file_id

    def input(self, batch_id: str) -> Path:
        return self._batches / batch_id / "input"

    def index(self, batch_id: str) -> Path:
        return self._batches / batch_id / "index"

    def order(self, batch_id: str) -> Path:
        return self._batches / batch_id / "order"

    def attempts(self, batch_id: str) -> Path:
        return self._batches / batch_id / "attempts"

    def scratch(self, batch_id: str) -> Path:
        return self._batches / batch_id / "scratch"

    def publish(self, incoming: Path, file_id: str) -> None:
        """Turn a finished upload, already synced, into a file."""
        self.disk.rename(incoming, self.file(file_id))

    def hold(self, file_id: str, batch_id: str) -> None:
        """Give a batch its own hold on a file. ``FileNotFoundError`` if the file has gone."""
        self.disk.make_directory(self._batches / batch_id)
        self.disk.link_or_copy(self.file(file_id), self.input(batch_id))

    def discard(self, file_id: str) -> bool:
        """Remove a file's bytes; False while a backup runs, and they are the sweeper's then."""
        with self._may_remove() as allowed:
            if allowed:
                self.disk.remove(self.file(file_id))
        return allowed

    def release(self, batch_id: str) -> bool:
        """Let go of a batch's input and what is made of it; False as in ``discard``."""
        with self._may_remove() as allowed:
            if allowed:
                self.disk.remove_directory(self._batches / batch_id)
        return allowed

    @contextlib.contextmanager
    def _may_remove(self) -> Generator[bool]:
        """Whether no backup runs; inside, none begins. Without ``locked`` nobody is asked."""
        with self._removing:
            allowed = self._removals is None or _locked_alone(self._removals)
            try:
                yield allowed
            finally:
                if allowed and self._removals is not None:
                    fcntl.flock(self._removals, fcntl.LOCK_UN)

    def is_distrusted(self) -> bool:
        """Whether a sync has failed since ledgers were last read back."""
        return self.disk.size(self._sync_failed) is not None

    def distrust(self) -> None:
        """Leave word that a sync has failed: the page cache may not tell the truth."""
        self.disk.close(self.disk.open_append(self._sync_failed))

    def trust_again(self) -> None:
        self.disk.remove(self._sync_failed)

    def strays(self, before: float) -> tuple[list[Path], list[str], list[str]]:
        """What was last changed before an instant: uploads, names of files, names of batches."""
        incoming = [self._incoming / name for name in self.disk.names(self._incoming, before)]
        files = self.disk.names(self._files, before)
        return incoming, files, self.disk.names(self._batches, before)


def _locked_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _opened_directory(path: Path) -> Generator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
