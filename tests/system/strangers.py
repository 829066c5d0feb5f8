"""Other Unix users of this machine: a daemon that runs as one, and those who drop files.

They are uids and nothing else; the kernel asks for no more. Python has to be one that they may run:
the system's, if the one that runs the tests is hidden from them.
"""

import contextlib
import functools
import http.client
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.batchd_process import BatchdProcess
from tests.system.machine import SYSTEM_PYTHON

BATCHD, ANNA, EVE = 61001, 61002, 61003
USERS = 61010  # the group of those who may drop files

PACKAGES = sysconfig.get_paths()["purelib"]
# BatchdProcess names the Python that runs the tests; this puts another in its place.
_OTHER_PYTHON = 'shift; exec "$0" "$@"'

# Reads orders, one JSON object a line, and answers each with a line: what came of it.
_DROPPER = r"""
import json, os, socket, sys, threading, time

inbox = sys.argv[1]
os.umask(0o027)

def at(name):
    return os.path.join(os.fsencode(inbox), os.fsencode(name))

def put(name, text, mode=0o640, date=None):
    hidden = at("." + str(os.getuid()) + ".part")
    with open(hidden, "wb") as file:
        file.write(text.encode())
    os.chmod(hidden, mode)
    if date is not None:
        os.utime(hidden, (date, date))
    os.rename(hidden, at(name))

def good(order):
    if order.get("sidecar") is not None:
        put(order["name"][:-6] + ".toml", order["sidecar"], date=order.get("sidecar_date"))
    put(order["name"], order["text"], date=order.get("date"))

def in_pieces(order):
    def write():
        with open(at(order["name"]), "wb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o640)
            for line in order["text"].splitlines(keepends=True):
                file.write(line.encode())
                time.sleep(order["pause"])
    threading.Thread(target=write).start()

def listening(order):
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(inbox)
        listener.bind(order["name"])

def hard(order):
    own = at(".second-name")
    with open(own, "wb") as file:
        file.write(order["text"].encode())
    os.link(own, at(order["name"]))

def ask(order):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(order["target"])
        client.sendall(b"GET /v1/batches HTTP/1.0\r\nHost: localhost\r\n\r\n")
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    return " ".join(batch["id"] for batch in json.loads(body)["data"])

kinds = {
    "ask": ask,
    "good": good,
    "put": lambda order: put(order["name"], order["text"]),
    "in pieces": in_pieces,
    "link": lambda order: os.symlink(order["target"], at(order["name"])),
    "pipe": lambda order: os.mkfifo(at(order["name"])),
    "socket": listening,
    "directory": lambda order: os.mkdir(at(order["name"])),
    "hard link": hard,
    "link to another's": lambda order: os.link(order["target"], at(order["name"])),
    "unreadable": lambda order: put(order["name"], order["text"], 0o000),
    "try to replace": lambda order: os.rename(at(order["victim"]), at(order["name"])),
    "read": lambda order: open(order["target"], "rb").close(),
}
for line in sys.stdin:
    order = json.loads(line)
    try:
        found = kinds[order["kind"]](order)
    except OSError as error:
        found = type(error).__name__
    print("done" if found is None else found, flush=True)
"""


class User:
    """One who drops files, as a process of that user."""

    def __init__(self, uid: int, inbox: Path) -> None:
        self.uid = uid
        self._inbox = inbox
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [python(), "-I", "-c", _DROPPER, self._inbox],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            user=self.uid,
            group=self.uid,
            extra_groups=[USERS],
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.communicate(timeout=10)

    def do(self, kind: str, name: str = "", **more: object) -> str:
        """``done``, what was asked for, or the error that the kernel gave."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"kind": kind, "name": name, **more}) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


class Deleter:
    """Deletes the files of a key whose names begin so, as soon as it can see them."""

    def __init__(self, port: int, key: str, prefix: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}"}
        self._prefix = prefix
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.deleted = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            # The daemon is killed now and then.
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                self._delete_all()

    def _delete_all(self) -> None:
        for file in self._ask("GET", "/v1/files?limit=20&order=desc").get("data", []):
            if file["filename"].startswith(self._prefix):
                self.deleted += self._ask("DELETE", f"/v1/files/{file['id']}").get("deleted", False)

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        with contextlib.closing(connection):
            connection.request(method, path, headers=self._headers)
            return json.load(connection.getresponse())


def daemon(directory: Path, settings: dict[str, object]) -> BatchdProcess:
    """batchd as a user of its own, who owns its directory."""
    directory.mkdir()
    os.chown(directory, BATCHD, BATCHD)
    other = ["setpriv", f"--reuid={BATCHD}", f"--regid={BATCHD}", f"--groups={USERS}"]
    return BatchdProcess(
        directory,
        settings=settings,
        environment={"PYTHONPATH": PACKAGES, "PYTHONDONTWRITEBYTECODE": "1"},
        prefix=[*other, "sh", "-c", _OTHER_PYTHON, python()],
    )


def make_inbox(path: Path) -> None:
    """As the packaging's tmpfiles make it: sticky, and not readable for those who drop."""
    path.mkdir()
    os.chown(path, BATCHD, USERS)
    path.chmod(0o3730)


@functools.cache
def python() -> str:
    """A Python that anybody may run, with the packages that batchd needs."""
    return next((found for found in (sys.executable, SYSTEM_PYTHON) if _runs(found)), "")


def missing() -> str | None:
    """Why this cannot be tried here, or None."""
    if os.geteuid() != 0:
        return "running things as other users needs root"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed"
    return None if python() else "no Python here can be run by other users"


def _runs(candidate: str) -> bool:
    command = [candidate, "-c", "import batchd.cli.main, batchd.daemon"]
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command,
            cwd=Path(__file__).parents[2],
            env={"PYTHONPATH": PACKAGES, "PYTHONDONTWRITEBYTECODE": "1"},
            user=BATCHD,
            group=BATCHD,
            extra_groups=[],
            capture_output=True,
            timeout=30,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0
