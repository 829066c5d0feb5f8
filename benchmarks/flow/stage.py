"""What a scenario is played on: virtual GPU servers, the real daemon, and a client of it."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.flow.client import FlowClient
from benchmarks.flow.gpu_process import GpuProcess
from benchmarks.flow.gpu_settings import GpuSettings
from tests.support.batchd_process import BatchdProcess

# The daemon's own, not the quick ones of the tests.
_RETRIES = {"first_delay": 1, "max_delay": 60}


_LOG_TAIL = 4_000  # characters


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    directory: Path
    gpus: list[GpuProcess]
    batchd: BatchdProcess
    client: FlowClient

    @property
    def gpu(self) -> GpuProcess:
        return self.gpus[0]


@contextlib.contextmanager
def stage(
    gpus: Sequence[GpuSettings],
    *,
    backend: Mapping[str, object] | None = None,
    settings: Mapping[str, object] | None = None,
) -> Generator[Stage]:
    """Fresh servers and a fresh daemon. ``backend`` is said of each of its backends."""
    directory = Path(tempfile.mkdtemp(prefix="batchd-flow-"))
    try:
        with contextlib.ExitStack() as stack:
            opened = [
                stack.enter_context(GpuProcess(directory, given, f"gpu-{number}"))
                for number, given in enumerate(gpus, 1)
            ]
            tables: dict[str, object] = {
                "retries": _RETRIES,
                "backends": [
                    {"name": gpu.name, "base_url": gpu.base_url, **(backend or {})}
                    for gpu in opened
                ],
                **(settings or {}),
            }
            batchd = stack.enter_context(BatchdProcess(directory, settings=tables))
            client = FlowClient(batchd.port)
            try:
                yield Stage(directory=directory, gpus=opened, batchd=batchd, client=client)
            except Exception:
                say(f"batchd said at last:\n{batchd.log_text()[-_LOG_TAIL:]}")
                raise
    finally:
        shutil.rmtree(directory)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def row(cells: Iterable[str], widths: Iterable[int]) -> str:
    """The first cell to the left, the others to the right."""
    pairs = list(zip(cells, widths, strict=True))
    return f"{pairs[0][0]:<{pairs[0][1]}}" + "".join(
        f"{cell:>{width}}" for cell, width in pairs[1:]
    )


def verdict(faults: Sequence[str]) -> int:
    """Say what was broken; the exit code."""
    for fault in faults:
        say(f"BROKEN: {fault}")
    return 1 if faults else 0
