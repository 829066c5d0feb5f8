"""The disk, as the parts that must survive a crash use it: the seam a simulation replaces.

Everything here blocks. Coroutines go through ``run``, which a simulated disk answers at once.
Errors are ``OSError``s; ``is_full`` tells the one kind that is a pause from those that are the end.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Where a hard link cannot be made although both names are ours.
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP})
_COPY_PIECE = 1 << 20

# Errors that may be gone when the same is tried again: none is a matter of the configuration.
PASSING = _FULL | {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "fuse.sshfs"})
_MOUNTS = Path("/proc/self/mountinfo")


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def cannot_link(error: OSError) -> bool:
    """Whether a copy will do where this error came of a hard link."""
    return error.errno in _NO_LINK


def make_like(descriptor: int, found: os.stat_result) -> None:
    """Give an open file or directory the mode of another; as root, its owner too."""
    if os.geteuid() == 0:
        os.fchown(descriptor, found.st_uid, found.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))


def filesystem(path: Path) -> str | None:
    """The kind of filesystem that ``path`` is on (``ext4``); None if the kernel does not say."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for mount in mounts:
        place, _, kind = mount.partition(" - ")
        if place.split()[2] == wanted:
            return kind.split()[0]
    return None


class Disk:
    """The real one."""

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work off the event loop."""
        return await asyncio.to_thread(work, *args, **kwargs)

    def open_append(self, path: Path) -> int:
        """A descriptor that appends to ``path``; a new name is on disk when this returns."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
            try:
                self.sync_directory(path.parent)
            except OSError:
                # Nothing is in it yet: without its name on disk it must not be found next time.
                os.close(descriptor)
                path.unlink()
                raise
            return descriptor

    def open_read(self, path: Path) -> BinaryIO:
        return path.open("rb")

    def append(self, descriptor: int, data: bytes) -> None:
        """Write all of ``data``; part of it may be written when this raises."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def allocate(self, path: Path, size: int) -> None:
        """Make a new file that takes up ``size`` bytes; it is on disk but for its name."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def size(self, path: Path) -> int | None:
        """The size of a file; None if there is no such name."""
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None

    def names(self, folder: Path, before: float) -> list[str]:
        """The names in a directory that were last changed before an instant."""
        return [path.name for path in folder.iterdir() if _older(path, before)]

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_directory(self, path: Path) -> None:
        """Create ``path``; its name is on disk when this returns."""
        path.mkdir(mode=0o750, exist_ok=True)
        self.sync_directory(path.parent)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file its new name for good: both directories are synced."""
        old.rename(new)
        self.sync_directory(new.parent)
        if old.parent != new.parent:
            self.sync_directory(old.parent)

    def link_or_copy(self, source: Path, target: Path) -> None:
        """A second hold on the bytes of ``source``. Replaces what a crash left at ``target``."""
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source)
        except OSError as error:
            if not cannot_link(error):
                raise
            self._copy(source, target)
        self.sync_directory(target.parent)

    def _copy(self, source: Path, target: Path) -> None:
        with source.open("rb") as old, target.open("xb") as new:
            shutil.copyfileobj(old, new, _COPY_PIECE)
            new.flush()
            os.fsync(new.fileno())

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_directory(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)

    def free(self, path: Path) -> int:
        """Bytes that may still be written to the filesystem of ``path``."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


def _older(path: Path, before: float) -> bool:
    try:
        return path.lstat().st_mtime < before
    except FileNotFoundError:
        return False
