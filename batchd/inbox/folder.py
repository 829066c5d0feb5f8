"""One directory, held by descriptor: names are looked up in it alone, and no link is followed.

Everything here blocks. Invariants: nothing that has a name is overwritten, but for what bears our
own mark (``replace``); a name that appears is complete and on disk. Two ways lead to that:

* Our own bytes are written and synced under a temporary dot-name, then linked to their name: a link
  fails where there is one already.
* A dropped file cannot be linked (the kernel forbids links to others' files), only renamed, and a
  rename overwrites. So its new name is taken first with an empty file that only we can have made
  (``O_EXCL``, mode 000), and the rename replaces that. After a crash such an empty file is
  recognized and its name used again.
"""

import contextlib
import errno
import fcntl
import io
import os
import signal
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from batchd.inbox.settling import Seen

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Filesystems without hard links say so in several ways.
_NO_LINK = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
_PIECE = 1 << 20

Content = bytes | Path


class Dropped:
    """A file of the inbox, open for reading. It may be anybody's, and still change."""

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor
        self.seen = self.look()

    def look(self) -> Seen:
        return _seen(self._name, os.fstat(self._descriptor))

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def has_writer(self) -> bool | None:
        """Whether somebody has it open for writing; None where only its owner may ask."""
        # A lease is refused while there is a writer. The signal for one who comes in between is
        # one that is ignored; the usual one would end this process.
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(self._descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return True if error.errno == errno.EAGAIN else None
        return False

    def close(self) -> None:
        os.close(self._descriptor)


class Folder:
    """A directory by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def at(cls, name: "str | Path", parent: "Folder | None" = None) -> "Folder":
        """The directory of that name, itself and no link to it."""
        return cls(os.open(name, _DIRECTORY, dir_fd=parent.descriptor if parent else None))

    @property
    def path(self) -> Path:
        """A path by descriptor: whatever has the name now, it leads to this directory."""
        return Path(f"/proc/self/fd/{self.descriptor}")

    def close(self) -> None:
        os.close(self.descriptor)

    def sync(self) -> None:
        """Have the names on disk."""
        os.fsync(self.descriptor)

    def status(self) -> os.stat_result:
        return os.fstat(self.descriptor)

    def names(self) -> Iterator[str]:
        """One by one: there may be very many."""
        with os.scandir(self.descriptor) as entries:
            for entry in entries:
                yield entry.name

    def look(self, name: str) -> Seen | None:
        """What has this name; None if nothing has."""
        try:
            found = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return _seen(name, found)

    def open(self, name: str) -> Dropped:
        """Open a file that may be a trap; its kind is still to be looked at."""
        descriptor = os.open(name, _READ, dir_fd=self.descriptor)
        try:
            return Dropped(name, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def is_free(self, name: str) -> bool:
        """Whether nothing has this name, or only what a crash left of taking it."""
        seen = self.look(name)
        return seen is None or self.is_placeholder(seen)

    def is_placeholder(self, seen: Seen) -> bool:
        """Whether it is what a name is taken with before a file is moved to it."""
        ours = seen.is_regular and seen.uid == os.geteuid()
        return ours and seen.size == 0 and stat.S_IMODE(seen.mode) == 0

    def may_hold(self, name: str, content: Content) -> bool:
        """Whether ``content`` has this name already, or can get it."""
        return self.look(name) is None or self._holds(name, content)

    def publish(self, name: str, content: Content) -> bool:
        """Put ``content`` under this name; False if something else has it."""
        if self.look(name) is not None:
            return self._holds(name, content)
        return self._place(name, content)

    def replace(self, name: str, content: bytes, mark: bytes, *, durable: bool = True) -> bool:
        """Put ``content`` in the place of what is marked as ours; False if something else has it.

        What is not ``durable`` may be empty after a power cut, and is replaced again.
        """
        if self.look(name) is None:
            return self._place(name, content)
        if not self.is_marked(name, mark):
            return False
        with self._temporary(name, content, durable=durable) as temporary:
            here = self.descriptor
            os.rename(temporary, name, src_dir_fd=here, dst_dir_fd=here)
        if durable:
            self.sync()
        return True

    def is_marked(self, name: str, mark: bytes) -> bool:
        """Whether it is a file that begins with ``mark``, or ours and blank since a power cut."""
        with self._held(name) as held:
            if held is None:
                return False
            head = held.read(len(mark))
            is_ours = os.fstat(held.fileno()).st_uid == os.geteuid()
        return head == mark or (is_ours and not head.strip(b"\0"))

    def remove_marked(self, name: str, mark: bytes) -> None:
        """Remove what is marked as ours, and nothing else."""
        if self.is_marked(name, mark):
            self._remove(name)

    def adopt(self, source: "Folder", name: str, new_name: str) -> None:
        """Move what ``source`` has here; ``FileExistsError`` if the new name is not free."""
        self._take_name(new_name)
        try:
            os.rename(name, new_name, src_dir_fd=source.descriptor, dst_dir_fd=self.descriptor)
        except OSError:
            self._remove(new_name)
            raise
        self.sync()
        source.sync()

    def _place(self, name: str, content: Content) -> bool:
        with self._temporary(name, content) as temporary:
            try:
                self._link(temporary, name)
            except FileExistsError:
                return False
        self.sync()
        return True

    @contextlib.contextmanager
    def _temporary(self, name: str, content: Content, *, durable: bool = True) -> Generator[str]:
        temporary = f".{name}.tmp"
        self._remove(temporary)
        try:
            with (
                _opened(content) as source,
                os.fdopen(os.open(temporary, _CREATE, 0o640, dir_fd=self.descriptor), "wb") as out,
            ):
                while piece := source.read(_PIECE):
                    out.write(piece)
                out.flush()
                if durable:
                    os.fsync(out.fileno())
            yield temporary
        finally:
            self._remove(temporary)

    def _link(self, temporary: str, name: str) -> None:
        try:
            os.link(
                temporary,
                name,
                src_dir_fd=self.descriptor,
                dst_dir_fd=self.descriptor,
                follow_symlinks=False,
            )
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            self.adopt(self, temporary, name)

    def _take_name(self, name: str) -> None:
        try:
            os.close(os.open(name, _CREATE, 0o000, dir_fd=self.descriptor))
        except FileExistsError:
            seen = self.look(name)
            if seen is None or not self.is_placeholder(seen):
                raise

    def _holds(self, name: str, content: Content) -> bool:
        with self._held(name) as held, _opened(content) as wanted:
            if held is None:
                return False
            while (piece := wanted.read(_PIECE)) == held.read(_PIECE):
                if not piece:
                    return True
        return False

    @contextlib.contextmanager
    def _held(self, name: str) -> Generator[BinaryIO | None]:
        """The file of that name, open for reading; None if it is none, or may not be read."""
        with contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(name, _READ, dir_fd=self.descriptor)
            except OSError:
                yield None
                return
            stack.callback(os.close, descriptor)
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            yield stack.enter_context(open(descriptor, "rb", closefd=False)) if is_file else None

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)


def _opened(content: Content) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _seen(name: str, found: os.stat_result) -> Seen:
    return Seen(
        name=name,
        mode=found.st_mode,
        device=found.st_dev,
        inode=found.st_ino,
        links=found.st_nlink,
        uid=found.st_uid,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
    )
