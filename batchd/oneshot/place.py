"""The place of a run: the directory that holds its state while it is unfinished.

    ABOUT        for people; without it a directory is no run's, and is left alone
    run.json     what is run here: the input's checksum, its endpoint, the batch it became
    run.log      what the engine says
    results/     results being made: in the order of the input, or none
    and everything that a storage directory has (``spool``)

``run.json`` is the one word that counts. It is written when the batch is committed and before
anything is sent, and it goes first when the results are where they belong:

    state                     left by a crash in            what the next run does with it
    no directory              -                             begins
    ABOUT, no run.json        beginning, or clearing away   clears it away and begins
    run.json, batch goes on   running                       goes on
    run.json, batch ended     handing results over          hands over what is not there yet

The lock is on the directory itself, so that it goes with it; whoever gets it looks whether the
directory is still there.
"""

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Generator
from pathlib import Path

import msgspec

from batchd.disk import NETWORK, Disk, filesystem
from batchd.errors import BatchdError

_TRIES = 100
_ABOUT = "ABOUT"
_ABOUT_TEXT = (
    b"This is the state of a `batchd run` that is not done yet. The same command again goes on\n"
    b"where it stopped. To give up what it has done, remove this directory.\n"
)
_OURS = frozenset(
    {
        *(_ABOUT, "run.json", "run.json.new", "run.log", "results"),
        *("incoming", "files", "batches", "lock", "sync-failed"),
        *("ballast", "ballast.new", "ballast.given-up"),
        *("batchd.db", "batchd.db-wal", "batchd.db-shm", "batchd.db-journal", "local-server.log"),
    }
)


class RunRefused(BatchdError):
    """This run cannot be done as asked."""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run.json`` says. ``input`` is what the input was called."""

    batch_id: str
    input_file_id: str
    input: str
    sha256: str
    endpoint: str


class Place:
    """A locked one; ``locked`` gives it."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self.directory = directory
        self._disk = disk
        self._word = directory / "run.json"
        self._fresh = directory / "run.json.new"

    @property
    def log(self) -> Path:
        return self.directory / "run.log"

    @property
    def results(self) -> Path:
        return self.directory / "results"

    def begun(self) -> Begun | None:
        """What is being run here; None if nothing is."""
        try:
            return msgspec.json.decode(self._word.read_bytes(), type=Begun)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError:
            raise RunRefused(
                f"{self._word} is not what `batchd run` wrote there: remove {self.directory} to "
                "begin anew"
            ) from None

    def settle(self, source: str, sha256: str, endpoint: str, *, force: bool) -> Begun | None:
        """What was begun here of this input; None if nothing was, and nothing is in the way.

        ``RunRefused`` if another input was; with ``force`` that is given up.
        """
        begun = self.begun()
        if begun is None or (begun.sha256, begun.endpoint) == (sha256, endpoint):
            if begun is None:
                self.clear()
            return begun
        if not force:
            other = f"{begun.input!r} for {begun.endpoint}"
            kept = self.directory / "files" / begun.input_file_id
            raise RunRefused(
                f"{self.directory} holds an unfinished run of {other}, and {source} is not that: "
                f"run that again to finish it (its input is kept as {kept}), name another output "
                "with -o, or give up what it has done with --force"
            )
        self.clear()
        return None

    def begin(self, begun: Begun) -> None:
        """From now on this is what is run here."""
        self._disk.remove(self._fresh)
        self._write(self._fresh, msgspec.json.encode(begun) + b"\n")
        self._disk.rename(self._fresh, self._word)

    def end(self) -> None:
        """Nothing is run here any more; what is left is cleared away by ``locked``."""
        self._disk.remove(self._word)
        self._disk.sync_directory(self.directory)

    def claim(self) -> None:
        """Mark an empty directory as a run's. ``RunRefused`` if it is in other use."""
        names = self._names()
        foreign = [name for name in names if not _is_ours(name)]
        if names and _ABOUT not in names:  # the storage of a daemon, perhaps
            foreign = names
        if foreign:
            raise RunRefused(
                f"{self.directory} is where `batchd run` would keep its state, but "
                f"{min(foreign)} in it is not a run's: move it away, or name another place with "
                "--state"
            )
        if not names:
            self._write(self.directory / _ABOUT, _ABOUT_TEXT)

    def clear(self) -> None:
        """Remove all that a run keeps here, but for the mark that it is a run's."""
        self.end()  # first: without it the rest is nothing
        for name in filter(_is_ours, self._names()):
            path = self.directory / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif name != _ABOUT:
                path.unlink()

    def leave(self) -> None:
        """Remove it all, and the directory, unless somebody has put something into it."""
        self.clear()
        self._disk.remove(self.directory / _ABOUT)
        with contextlib.suppress(OSError):
            self.directory.rmdir()
        self._disk.sync_directory(self.directory.parent)

    def _names(self) -> list[str]:
        return os.listdir(self.directory)  # noqa: PTH208 - names are all that is wanted

    def _write(self, path: Path, data: bytes) -> None:
        """Of what is written so nothing has been sent before."""
        try:
            descriptor = self._disk.open_append(path)
            try:
                self._disk.append(descriptor, data)
                self._disk.sync(descriptor)
            finally:
                self._disk.close(descriptor)
        except OSError as error:
            raise RunRefused(
                f"{self.directory} cannot be written: {error.strerror}; nothing was sent: run the "
                "same command again when that is mended, or name another place with --state"
            ) from None


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith("batchd.db.before-")  # a copy before an upgrade


@contextlib.contextmanager
def locked(directory: Path, disk: Disk) -> Generator[Place]:
    """The place at ``directory``, made if need be, for this process alone.

    ``RunRefused`` if another run has it, or it is in other use. On the way out it goes, unless
    something is begun there.
    """
    descriptor = _locked(directory, disk)
    try:
        place = Place(directory, disk)
        place.claim()
        try:
            yield place
        finally:
            if place.begun() is None:
                place.leave()
    finally:
        os.close(descriptor)


def _locked(directory: Path, disk: Disk) -> int:
    for _ in range(_TRIES):
        try:
            _make(directory, disk)
            descriptor = os.open(
                directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        except FileNotFoundError:
            if directory.parent.is_dir():
                continue  # whoever had it has cleared it away just now
            raise
        try:
            _refuse_others(directory, os.fstat(descriptor))  # before anything in it is believed
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, directory):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            break
        except RunRefused:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise RunRefused(
        f"another `batchd run` is at work on the same output (its state is in {directory})"
    )


def _refuse_others(directory: Path, found: os.stat_result) -> None:
    """Whoever may write there could make a run read, write or remove something else."""
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        raise RunRefused(
            f"{directory} is where `batchd run` would keep its state, but it is another user's, or "
            "writable by everybody: move it away, or name another place with --state"
        )


def _make(directory: Path, disk: Disk) -> None:
    """``FileNotFoundError`` if it is being cleared away."""
    with contextlib.suppress(FileExistsError):
        disk.make_directory(directory)
    if not stat.S_ISDIR(directory.lstat().st_mode):
        raise RunRefused(
            f"{directory} is where `batchd run` would keep its state, but it is a file or a link: "
            "move it away, or name another place with --state"
        )
    kind = filesystem(directory)
    if kind in NETWORK:
        with contextlib.suppress(OSError):  # not new, and not empty
            directory.rmdir()
        raise RunRefused(
            f"the state cannot be kept in {directory}: that is on the network ({kind}), where "
            "SQLite's WAL does not work; name a directory on a disk of this machine with --state"
        )


def _is_at(descriptor: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), directory.stat())
    except FileNotFoundError:
        return False
