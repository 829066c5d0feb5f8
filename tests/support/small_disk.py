"""A filesystem that is small, can be filled to the last byte, and can be made larger: a tmpfs."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

_PIECES = (1 << 16, 1 << 12, 1)


def missing() -> str | None:
    """Why nothing can be mounted here, or None."""
    if os.geteuid() != 0:
        return "mounting a filesystem needs root"
    unshare = shutil.which("unshare")
    # Root in a container may not mount either; it then can't have mounts of its own.
    if unshare is None or subprocess.run([unshare, "--mount", "true"], check=False).returncode:  # noqa: S603 - found just now
        return "this root may not mount a filesystem"
    return None


class SmallDisk:
    """``with SmallDisk(mount_point, 24 << 20) as disk: … disk.fill(); disk.enlarge(128 << 20)``."""

    def __init__(self, mount_point: Path, size: int) -> None:
        self.root = mount_point
        self._size = size

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self._size},mode=0750", "tmpfs", str(self.root))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Lazily: it is gone at once, whoever still has a file open on it.
        _run("umount", "--lazy", str(self.root))

    @property
    def free(self) -> int:
        found = os.statvfs(self.root)
        return found.f_bavail * found.f_frsize

    def fill(self) -> None:
        """Another program writes until there is no room for one more byte."""
        with (self.root / "of-another-program").open("ab", buffering=0) as file:
            for size in _PIECES:
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def enlarge(self, size: int) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self.root))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=30)  # noqa: S603 - our own commands
