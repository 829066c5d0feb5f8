"""The spool: names of everything under the storage directory, and how bytes get there.

    batchd.db -wal -shm         SQLite's
    lock                        held (flock) by the one daemon of this directory
    sync-failed                 a sync failed: the next start copies ledgers instead of trusting
    incoming/<random>           an upload being written; nobody but its writer reads it
    files/<file_id>             a file; complete and never modified once a row names it, or the
                                ledger of an unfinished batch that holds this id
    batches/<batch_id>/input    the batch's own hold on its input: a hard link
    batches/<batch_id>/index    where each request line of the input is

Publishing is a rename, but the row is the commit: a crash leaves at worst a name in ``incoming``,
or one in ``files`` or ``batches`` that no row names. Neither is repaired; the sweeper removes both
once they are older than ``retention.orphan_age``.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Generator
from pathlib import Path

from batchd.disk import Disk
from batchd.errors import ConfigError

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

    def prepare(self) -> None:
        """Make the directories; ``ConfigError`` if the place is unusable or open to others."""
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
            for folder in (self._incoming, self._files, self._batches):
                self.disk.make_directory(folder)
            if not self.database.exists() and any(self._files.iterdir()):
                # A new database would make every file an orphan, to be swept.
                raise ConfigError(
                    f"the storage directory {self.directory} has files but no batchd.db: put the "
                    "database back, or move the files away"
                )
        except OSError as error:
            raise ConfigError(
                f"the storage directory {self.directory} cannot be used: {error.strerror}"
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Hold the directory for this process; ``ConfigError`` if another daemon has it."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another batchd is running on the storage directory {self.directory}"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def incoming(self, name: str) -> Path:
        return self._incoming / name

    def file(self, file_id: str) -> Path:
        return self._files / file_id

    def input(self, batch_id: str) -> Path:
        return self._batches / batch_id / "input"

    def index(self, batch_id: str) -> Path:
        return self._batches / batch_id / "index"

    def scratch(self, batch_id: str) -> Path:
        return self._batches / batch_id / "scratch"

    def publish(self, incoming: Path, file_id: str) -> None:
        """Turn a finished upload, already synced, into a file."""
        self.disk.rename(incoming, self.file(file_id))

    def hold(self, file_id: str, batch_id: str) -> None:
        """Give a batch its own hold on a file. ``FileNotFoundError`` if the file has gone."""
        self.disk.make_directory(self._batches / batch_id)
        self.disk.link_or_copy(self.file(file_id), self.input(batch_id))

    def release(self, batch_id: str) -> None:
        """Let go of a batch's input and index."""
        self.disk.remove_directory(self._batches / batch_id)

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
