"""A real llama.cpp server with the small real model, as a process of its own, for benchmarks."""

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from batchd.backends.local import ENVIRONMENT, MODEL, installed_program
from tests.support.model_server import bind

_READY_WITHIN = 60.0

# The options that matter here, in the words of llama.cpp's command line: --parallel SLOTS,
# --ctx-size (the sum of the slots'), --cache-ram MIB (prompts that left their slot), --metrics.
_SERVE = """
import signal, sys
packages, model, alias, port, slots, context, cache_ram, threads = sys.argv[1:]
sys.path.append(packages)
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = model, [alias]
params.hostnames, params.port = ["127.0.0.1"], int(port)
params.n_parallel, params.n_ctx = int(slots), int(slots) * int(context)
params.cache_ram_mib, params.verbosity = int(cache_ram), -1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
params.ui, params.endpoint_metrics, params.endpoint_slots, params.offline = False, True, True, True
server = xllamacpp.Server(params)
while True:
    signal.pause()
"""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """``cache_ram`` in MiB: 0 is ``--cache-ram 0``, 8192 llama.cpp's default."""

    slots: int = 4
    context: int = 2048  # of each slot
    cache_ram: int = 8192


class LlamaServer:
    """Opened with ``with``."""

    model = MODEL

    def __init__(self, options: Options, log: Path) -> None:
        self._options = options
        self._log = log
        with bind() as reserved:
            self.port: int = reserved.getsockname()[1]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        options = self._options
        python, _, _, _, packages, name, model = installed_program()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [
                    *(python, "-I", "-c", _SERVE, packages, model, name, str(self.port)),
                    *(str(options.slots), str(options.context), str(options.cache_ram)),
                    str(os.cpu_count() or 1),
                ],
                env={**ENVIRONMENT, "PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _READY_WITHIN
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                sys.exit(
                    f"llama.cpp did not start: {self._log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200  # noqa: PLR2004 - HTTP's OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
