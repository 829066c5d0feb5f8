"""A small machine with a real systemd: this one's files under an overlay, booted in a container.

Needs root, systemd-nspawn, and the system's own Python in the version that runs the tests, whose
compiled packages are used inside. The mounts are in a namespace of their own, which ends with the
container: nothing stays mounted, whatever happens.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

Seen = TypeVar("Seen")

ROOT = Path(__file__).parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"
PATIENCE = 30.0
BETWEEN_LOOKS = 0.05

# basic.target and no more: none of the services that are installed on this machine.
TARGET = "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n"

BOOT = r"""
set -eu
umask 022
mount -t tmpfs -o size=512m,mode=755 tmpfs "$BASE"
mkdir "$BASE/upper" "$BASE/work" "$BASE/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$BASE/upper,workdir=$BASE/work" "$BASE/root"
cd "$BASE/root"
rm -rf etc/systemd/system/*.wants opt/batchd etc/batchd var/lib/batchd var/spool/batchd
: > etc/machine-id
: > etc/fstab
cp -dR "$SEED/." .
ln -sf test.target etc/systemd/system/default.target
for unit in systemd-networkd systemd-resolved systemd-logind console-getty; do
    ln -sf /dev/null "etc/systemd/system/$unit.service"
done
cd /
exec systemd-nspawn --quiet --directory="$BASE/root" --machine="$NAME" --boot --register=no \
    --keep-unit --private-network --link-journal=no --console=pipe --kill-signal=SIGRTMIN+3 \
    --bind-ro="$PACKAGES:/opt/batchd/packages"
"""


class Machine:
    """The booted machine. ``leader`` is its process 1 as this machine numbers it."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._root = Path(f"/proc/{leader}/root")

    def run(self, *command: str, check: bool = True) -> str:
        return run(["nsenter", "--target", str(self._leader), "--all", *command], check=check)

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.run("systemctl", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", unit, f"--property={name}", "--value")

    def write(self, path: str, text: str) -> None:
        file = self._root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def remove(self, path: str) -> None:
        """Remove the file or directory ``path``, if it is there."""
        self.run("rm", "-rf", path)


def missing() -> str | None:
    """Why no such machine can be had here, or None."""
    if os.geteuid() != 0:
        return "booting a systemd needs root"
    for program in ("systemd-nspawn", "nsenter", "unshare", SYSTEM_PYTHON):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    version = run([SYSTEM_PYTHON, "-Ic", "import sys; print(*sys.version_info[:2])"])
    if version.split() != [str(part) for part in sys.version_info[:2]]:
        return f"{SYSTEM_PYTHON} is {version}, another version than runs the tests"
    return None


def run(command: list[str], *, check: bool = True) -> str:
    """What ``command`` prints."""
    done = subprocess.run(  # noqa: S603 - the commands are the tests' own
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")
    return done.stdout.strip()


def until(see: Callable[[], Seen]) -> Seen:
    """The first true value of ``see``, which is asked again and again."""
    end = time.monotonic() + PATIENCE
    while not (seen := see()):
        if time.monotonic() > end:
            raise AssertionError(f"nothing seen for {PATIENCE} s; last: {seen!r}")
        time.sleep(BETWEEN_LOOKS)
    return seen


@contextlib.contextmanager
def booted(base: Path) -> Generator[Machine]:
    """A machine on which batchd is installed as docs/systemd.md says, and not started."""
    seed = base / "seed"
    _plant(seed)
    top = base / "machine"
    top.mkdir()
    console = base / "console.log"
    with console.open("w") as out:
        container = subprocess.Popen(  # noqa: S603 - the script above, its settings in variables
            [str(shutil.which("unshare")), "--mount", "--propagation=private", "sh", "-c", BOOT],
            env=os.environ
            | {
                "BASE": str(top),
                "SEED": str(seed),
                "NAME": f"batchd-{os.getpid()}",
                "PACKAGES": sysconfig.get_path("platlib"),
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        machine = Machine(until(lambda: _leader(container, console)))
        until(
            lambda: machine.systemctl("is-system-running", check=False) in {"running", "degraded"}
        )
        machine.run("systemd-sysusers")
        machine.run("systemd-tmpfiles", "--create", "batchd.conf")
        yield machine
    finally:
        _power_off(container)


def _plant(seed: Path) -> None:
    """What docs/systemd.md installs, by hand: the packages are lent instead of fetched."""
    files = {
        "systemd/batchd.service": "etc/systemd/system/batchd.service",
        "systemd/batchd.sysusers": "etc/sysusers.d/batchd.conf",
        "systemd/batchd.tmpfiles": "etc/tmpfiles.d/batchd.conf",
    }
    for source, target in files.items():
        (seed / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, seed / target)
    (seed / "etc/systemd/system/test.target").write_text(TARGET)
    run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(seed / "opt/batchd")])
    (own,) = (seed / "opt/batchd/lib").glob("python3*/site-packages")
    (own / "lent.pth").write_text("/opt/batchd/packages\n")
    for package in ("batchd", "tests/support"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, own / package, ignore=ignore)


def _leader(container: subprocess.Popen[bytes], console: Path) -> int:
    """The child that is process 1 inside, or 0 as long as there is none."""
    if container.poll() is not None:
        raise AssertionError(f"the machine did not boot: {console.read_text()}")
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
    for child in children.read_text().split():
        with contextlib.suppress(FileNotFoundError):
            status = Path(f"/proc/{child}/status").read_text()
            if status.partition("NSpid:")[2].split("\n")[0].split()[-1] == "1":
                return int(child)
    return 0


def _power_off(container: subprocess.Popen[bytes]) -> None:
    container.send_signal(signal.SIGTERM)
    try:
        container.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        container.kill()
        container.wait(PATIENCE)
    # The container leaves its empty control groups behind where there is no v2 hierarchy.
    for group in Path("/sys/fs/cgroup").glob("*/payload"):
        for directory in sorted(group.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                directory.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
