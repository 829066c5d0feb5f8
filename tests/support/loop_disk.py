"""A filesystem whose power can be cut: an image file with ext4 or xfs on it, on a loop device.

A cut is the kernel's own shutdown of that filesystem: what it had not yet given to its disk is
gone, and every later call fails. A sync that is under way at that instant may return without having
reached the disk, so whoever writes there is frozen first (``freeze``).
"""

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import small_disk
from tests.support.waiting import wait_until

_MIB = 1 << 20
_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN
_WITHOUT_FLUSHING_THE_LOG = 2
_SIZES = {"ext4": 96 * _MIB, "xfs": 320 * _MIB}  # xfs wants 300 MB
_QUIETLY = {"ext4": ("-q", "-F"), "xfs": ("-q", "-f")}


def missing(filesystem: str) -> str | None:
    """Why such a filesystem can't be had here, or None."""
    if (why := small_disk.missing()) is not None:
        return why
    for program in (f"mkfs.{filesystem}", "mount", "umount", "losetup"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    free = subprocess.run(["losetup", "--find"], capture_output=True, check=False)  # noqa: S607 - found above
    if free.returncode:
        return "there are no loop devices"
    if not _kernel_knows(filesystem):
        return f"the kernel has no {filesystem}"
    return None


class LoopDisk:
    """``with LoopDisk(mount_point, "ext4") as disk: … disk.cut_power(); disk.power_on()``."""

    def __init__(self, mount_point: Path, filesystem: str) -> None:
        self.root = mount_point
        self.filesystem = filesystem
        self._image = mount_point.with_name(f"{mount_point.name}.{filesystem}")

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True)
        with self._image.open("xb") as image:
            image.truncate(_SIZES[self.filesystem])
        _run(f"mkfs.{self.filesystem}", *_QUIETLY[self.filesystem], str(self._image))
        self._mount()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Lazily: it is gone at once, whoever still has a file open on it.
        _run("umount", "--lazy", str(self.root), check=False)
        self._image.unlink()

    def cut_power(self) -> None:
        """From now on nothing reaches the disk, and what has not reached it is lost."""
        root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(root, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(root)

    def power_on(self) -> None:
        """Show what the disk had at the cut; nobody may have a file open on it any more."""
        _run("umount", str(self.root))
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.root))


def _kernel_knows(filesystem: str) -> bool:
    if filesystem in Path("/proc/filesystems").read_text().split():
        return True
    modprobe = shutil.which("modprobe")
    return modprobe is not None and _run(modprobe, filesystem, check=False).returncode == 0


def freeze(pid: int) -> None:
    """Stop a process group dead: returns when no thread of its leader runs any more."""
    os.killpg(pid, signal.SIGSTOP)
    wait_until(lambda: set(_thread_states(pid)) <= {"T"})


def _thread_states(pid: int) -> Iterator[str]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has just ended
            yield (task / "stat").read_text().rpartition(") ")[2][0]


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(  # noqa: S603 - the commands are the tests' own
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    )
    if check and done.returncode:
        raise OSError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done
