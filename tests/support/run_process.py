"""``batchd run`` as a process, driven from synchronous tests: started, interrupted, started again.

One directory holds the input, the results and what the process wrote, through any number of starts.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.support.batchd_process import to_toml
from tests.support.checker import Account

ROOT = Path(__file__).parents[2]


class Ended(msgspec.Struct, frozen=True):
    """How one start ended, and what it wrote."""

    code: int
    out: bytes
    err: str

    @property
    def batch(self) -> dict[str, Any]:
        """What ``--json`` printed."""
        return json.loads(self.out)


class RunProcess:
    """``backend`` is the model server's base URL; options are given at each start."""

    def __init__(self, directory: Path, backend: str | None) -> None:
        self.directory = directory
        self.input = directory / "in.jsonl"
        self.output = directory / "out.jsonl"
        self.errors = directory / "out.errors.jsonl"
        self.state = directory / "out.jsonl.batchd"
        self.home = directory / "home"
        self._backend = ["--backend", backend] if backend else []
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def configure(self, settings: Mapping[str, object]) -> Path:
        """Write a configuration; its path."""
        path = self.directory / "run.toml"
        path.write_text(to_toml(settings))
        return path

    def start(
        self,
        *options: str | Path,
        source: str | Path | None = None,
        stdin: bytes | None = None,
        terminal: int | None = None,
    ) -> None:
        """Start it; without ``-o`` among the options the answers go to ``output``.

        ``terminal``: a descriptor of one, to be its standard error.
        """
        assert not self.is_running, "It runs already."
        self._starts += 1
        given = self.directory / f"stdin-{self._starts}"
        given.write_bytes(stdin or b"")
        named = [] if "-o" in options else ["-o", str(self.output)]
        command = ["run", str(source or self.input), *named, *self._backend, *map(str, options)]
        with (
            given.open("rb") as source_file,
            self._written("out").open("wb") as out,
            self._written("err").open("wb") as err,
        ):
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "batchd", *command],
                cwd=self.directory,
                env=self._environment(),
                stdin=source_file,
                stdout=out,
                stderr=err if terminal is None else terminal,
                start_new_session=True,
            )

    def wait(self, *, within: float = 40) -> Ended:
        """Wait until it has ended by itself."""
        code = self._running().wait(within)
        return Ended(code, self._written("out").read_bytes(), self.told())

    def run(
        self,
        *options: str | Path,
        source: str | Path | None = None,
        stdin: bytes | None = None,
        within: float = 40,
    ) -> Ended:
        """Start it, and wait until it has ended."""
        self.start(*options, source=source, stdin=stdin)
        return self.wait(within=within)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL. Nothing happens when it is not running."""
        if self.is_running:
            self.signal(signal.SIGKILL)
            self._running().wait()

    def told(self) -> str:
        """What it has written to standard error by now."""
        return self._written("err").read_text(errors="replace")

    def recorded(self, state: Path | None = None) -> list[str]:
        """The custom_ids of all lines that have their result on disk, while it is unfinished."""
        place = state or self.state
        word = place / "run.json"
        if not word.exists():
            return []
        kept = json.loads(word.read_bytes())["input_file_id"]
        files = [path for path in (place / "files").iterdir() if path.name != kept]
        lines = [line for path in files for line in path.read_bytes().split(b"\n")[:-1]]
        # Near the beginning of each; to decode tens of thousands of lines takes a while.
        return [_custom_id(line) for line in lines]

    def account(self, batch: Mapping[str, Any]) -> Account:
        """What went in and what came out, once it has ended."""
        return Account(
            input=self.input.read_bytes(),
            output=self.output.read_bytes() or None,
            errors=self.errors.read_bytes() if self.errors.exists() else None,
            batch=batch,
        )

    def _written(self, name: str) -> Path:
        return self.directory / f"{name}-{self._starts}"

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "It was never started."
        return self._process

    def _environment(self) -> dict[str, str]:
        """Ours, without what would configure batchd behind the test's back."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith("BATCHD_")}
        return kept | {
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
        }


_CUSTOM_ID = re.compile(rb'"custom_id":"([^"]*)"')


def _custom_id(line: bytes) -> str:
    found = _CUSTOM_ID.search(line)
    assert found is not None, line
    return found[1].decode()


def listening_sockets(pid: int) -> Sequence[str]:
    """The TCP sockets of a process on which it accepts connections."""
    own = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [
        row.split()
        for name in ("tcp", "tcp6")
        for row in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]
