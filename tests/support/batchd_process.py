"""The real program as a subprocess, driven from synchronous tests.

One directory holds its configuration, its state and what it wrote to stdout and stderr, through any
number of starts. Settings are given as nested mappings and written as TOML.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from tests.support import mutants
from tests.support.model_server import bind

READY_WITHIN = 20.0
# Waits between attempts are for people; a test need not sit through them.
QUICK_RETRIES = {"first_delay": 0.02, "max_delay": 0.2}

Table = Mapping[str, object]


class BatchdProcess:
    """``with BatchdProcess(tmp_path, backend=server.base_url) as batchd: … batchd.base_url``.

    ``settings`` are merged section by section over what a test needs. ``prefix`` is put before the
    command (``strace -f …``); signals go to the whole process group. ``program`` is what Python
    runs: batchd as it is shipped or as the session is to be run (``mutants``), if nothing is given.
    """

    def __init__(  # noqa: PLR0913 - how it is started, all by name
        self,
        directory: Path,
        *,
        backend: str | None = None,
        settings: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        program: Sequence[str] | None = None,
    ) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.log = directory / "batchd.log"
        self.config = directory / "config.toml"
        self.environment = dict(environment or {})
        self.prefix = list(prefix)
        self.program = list(program or mutants.program(mutants.chosen()))
        self._process: subprocess.Popen[bytes] | None = None
        with bind() as reserved:
            self.port: int = reserved.getsockname()[1]
        self.configure(backend=backend, settings=settings or {})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return self.url + "/v1"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and before the first start."""
        return None if self._process is None else self._process.poll()

    def configure(self, *, backend: str | None, settings: Mapping[str, object]) -> None:
        """Write the configuration that the next start reads."""
        tables: dict[str, object] = {
            "server": {"listen": [f"127.0.0.1:{self.port}"]},
            "storage": {"directory": str(self.state)},
            "retries": QUICK_RETRIES,
        }
        if backend is not None:
            tables["backends"] = [{"name": "model", "base_url": backend}]
        for name, given in settings.items():
            old = tables.get(name)
            both = isinstance(old, dict) and isinstance(given, Mapping)
            tables[name] = {**cast("Table", old), **cast("Table", given)} if both else given
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text(to_toml(tables))

    def start(self, *, within: float = READY_WITHIN) -> None:
        """Start it and wait until it says that it is well."""
        self.launch()
        deadline = time.monotonic() + within
        while self._healthz() != 200:
            if self.exit_code is not None or time.monotonic() > deadline:
                why = "is not ready" if self.exit_code is None else f"exited with {self.exit_code}"
                self.kill()
                raise AssertionError(f"batchd {why}. It said:\n{self.log_text()[-8000:]}")
            time.sleep(0.02)

    def launch(self) -> None:
        """Start it and wait for nothing: for tests of the start itself."""
        assert self._process is None or self.exit_code is not None, "batchd runs already."
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [*self.prefix, sys.executable, *self.program, "serve", "--config", self.config],
                cwd=Path(__file__).parents[2],
                env=self._clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, *, within: float = 30) -> int:
        """Wait until it has ended by itself; its exit code."""
        return self._running().wait(within)

    def kill(self) -> None:
        """SIGKILL. Nothing happens when it is not running."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def terminate(self, *, within: float = 30) -> int:
        """SIGTERM, then wait; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within=within)

    def signal(self, number: signal.Signals) -> None:
        # The process may have ended by itself, and then its group is gone.
        with contextlib.suppress(ProcessLookupError):
            if self.exit_code is None:
                os.killpg(self._running().pid, number)

    def restart(self, *, within: float = READY_WITHIN) -> None:
        """Kill it if it runs, then start it on the same directory and port."""
        self.kill()
        self.start(within=within)

    def vm_hwm(self) -> int:
        """The most memory it has had resident, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("/proc shows no VmHWM.")

    def reset_vm_hwm(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "batchd was never started."
        return self._process

    def _clean_environment(self) -> dict[str, str]:
        """Ours, without what would configure batchd behind the test's back."""
        foreign = ("BATCHD_", "OPENAI_", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
        return kept | {"PYTHONUNBUFFERED": "1"} | self.environment

    def _healthz(self) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


def to_toml(tables: Mapping[str, object]) -> str:
    """Top-level values, then one table for each mapping and for each member of a list of them."""
    values = "".join(
        _assignment(key, value) for key, value in tables.items() if not _is_section(value)
    )
    sections: list[str] = []
    for name, value in tables.items():
        if isinstance(value, Mapping):
            sections.append(_section(f"[{name}]", cast("Table", value)))
        elif _is_section(value):
            sections += [_section(f"[[{name}]]", table) for table in cast("list[Table]", value)]
    return "\n".join([values, *sections])


def _is_section(value: object) -> bool:
    if isinstance(value, Mapping):
        return True
    members = cast("list[object]", value) if isinstance(value, list) else []
    return bool(members) and isinstance(members[0], Mapping)


def _section(head: str, table: Table) -> str:
    return head + "\n" + "".join(_assignment(key, value) for key, value in table.items())


def _assignment(key: str, value: object) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's too, but for characters beyond ASCII,
    # which JSON would write as pairs of surrogates.
    return f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
