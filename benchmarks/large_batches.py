"""Runs very large batches through the real daemon and prints what they cost it.

Of each batch: the daemon's memory high-water mark, how long `GET /v1/batches/{id}` took in each of
its phases, and lines per second next to what a bare client loop gets from the same model server.
It ends with 1 if a limit is broken or a result is missing.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import msgspec

from benchmarks import bare_client
from benchmarks.job import Client, Results, write_input
from benchmarks.polling import BareServer, Poller, Sample
from benchmarks.process_cost import Cost, cost_of
from benchmarks.tables import latency_row, latency_table, megabytes, stall_list
from tests.support.batchd_process import BatchdProcess
from tests.support.model_process import ModelProcess

_TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})
_LONGEST_PHASE = 3600.0
_LONGEST_STALL = 0.1
_REST = 1.0  # seconds without work before and after


class Case(msgspec.Struct, frozen=True):
    """A batch to run, and the limit on the daemon's resident memory."""

    name: str
    count: int
    line_size: int
    memory: int
    bare_seconds: float


LARGE = Case("large", 50_000, 2_000, 150_000_000, 5)
MANY = Case("many", 1_000_000, 200, 200_000_000, 10)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one case came to."""

    case: Case
    phases: list[tuple[str, float, float, Cost]]  # name, begin, end, the daemon's cost at its end
    samples: list[Sample]
    bare_samples: list[Sample]
    limits: list[bare_client.Limit]
    results: Results

    @property
    def rate(self) -> float:
        """Lines per second while they ran."""
        _, begin, end, _ = self.phases[self._running]
        return self.case.count / (end - begin)

    @property
    def cpu(self) -> float:
        """CPU seconds for each line while they ran."""
        before, after = self.phases[self._running - 1][3], self.phases[self._running][3]
        return (after.cpu - before.cpu) / self.case.count

    @property
    def _running(self) -> int:
        return [name for name, *_ in self.phases].index("in_progress")

    @property
    def memory(self) -> int:
        return self.phases[-1][3].high_water

    @property
    def longest_stall(self) -> float:
        return max(sample.took for sample in self.samples)


def measure(case: Case, directory: Path) -> Measured:
    """Run one case in an empty directory."""
    input_path = directory / "input.jsonl"
    size = write_input(input_path, count=case.count, line_size=case.line_size)
    say(f"\n== {case.name}: {case.count:,} lines, {megabytes(size)}")
    model = ModelProcess(directory)
    model.log = Path(os.devnull)
    settings = {
        "batches": {"max_requests": case.count},
        "server": {"max_upload_size": "1GiB"},
    }
    with (
        model,
        BatchdProcess(directory, backend=model.base_url, settings=settings) as batchd,
        BareServer() as bare,
    ):
        client = Client(batchd.port)
        first = bare_client.measure(model.base_url, input_path, case.bare_seconds)
        with Poller(bare.port, "/") as beside:
            phases, samples, batch_id = _run(batchd, client, input_path, directory)
            bare_samples = beside.stop()
        results = client.results(batch_id, case.count)
        last = bare_client.measure(model.base_url, input_path, case.bare_seconds)
    return Measured(
        case=case,
        phases=phases,
        samples=samples,
        bare_samples=bare_samples,
        limits=[first, last],
        results=results,
    )


def _run(
    batchd: BatchdProcess, client: Client, input_path: Path, directory: Path
) -> tuple[list[tuple[str, float, float, Cost]], list[Sample], str]:
    phases: list[tuple[str, float, float, Cost]] = []

    @contextlib.contextmanager
    def phase(name: str) -> Generator[None]:
        begin = time.monotonic()
        yield
        phases.append((name, begin, time.monotonic(), cost_of(batchd.pid)))

    small = _small_batch(client, directory)
    with Poller(batchd.port, f"/v1/batches/{small}") as poller:
        poller.next_status(_LONGEST_PHASE)
        with phase("rest"):
            time.sleep(_REST)
        with phase("upload"):
            file_id = client.upload(input_path)
        batch_id = client.create(file_id)
        poller.watch(f"/v1/batches/{batch_id}")
        status = poller.next_status(_LONGEST_PHASE)
        while status not in _TERMINAL:
            with phase(status):
                following = poller.next_status(_LONGEST_PHASE)
            status = following
        with phase("after the end"):
            time.sleep(_REST)
        samples = poller.stop()
    return phases, samples, batch_id


def _small_batch(client: Client, directory: Path) -> str:
    """The id of a finished batch of one line: something to ask for while there is no other."""
    path = directory / "small.jsonl"
    write_input(path, count=1, line_size=200)
    batch_id = client.create(client.upload(path))
    while client.batch(batch_id)["status"] not in _TERMINAL:
        time.sleep(0.05)
    return batch_id


def report(measured: Measured) -> None:
    """Print the tables of one case."""
    case, rates = measured.case, [limit.rate for limit in measured.limits]
    say(latency_table(measured.phases, measured.samples, measured.bare_samples))
    for when, limit in zip(("before", "after"), measured.limits, strict=True):
        say(latency_row(f"bare loop, {when}", limit.samples))
    say(stall_list(measured.samples, measured.bare_samples))
    bare = sum(rates) / len(rates)
    say(
        f"lines per second: {measured.rate:,.0f}; bare client loop before and after: "
        f"{rates[0]:,.0f} and {rates[-1]:,.0f}; ratio {measured.rate / bare:.2f}"
    )
    costs = [limit.cpu for limit in measured.limits]
    say(
        f"CPU for each line: {measured.cpu * 1e6:.0f} us; bare client loop for each answer: "
        f"{costs[0] * 1e6:.0f} and {costs[-1] * 1e6:.0f} us; "
        f"ratio {sum(costs) / len(costs) / measured.cpu:.2f}"
    )
    say(f"memory high-water mark: {megabytes(measured.memory)}, limit {megabytes(case.memory)}")
    say(
        f"results: {measured.results.lines:,} lines, {megabytes(measured.results.bytes)}; "
        f"requests that stand there exactly once: {measured.results.once:,} of {case.count:,}"
    )


def broken(measured: Measured, *, stalls: bool) -> list[str]:
    """Which limits were broken, as sentences."""
    case, results = measured.case, measured.results
    found: list[str] = []
    if results.lines != case.count or results.once != case.count:
        found.append(f"{case.name}: the result files do not hold every request exactly once")
    if measured.memory >= case.memory:
        found.append(f"{case.name}: the daemon used more than {megabytes(case.memory)}")
    if stalls and measured.longest_stall > _LONGEST_STALL:
        beside = max(sample.took for sample in measured.bare_samples)
        found.append(
            f"{case.name}: an answer took {measured.longest_stall * 1000:.0f} ms (the longest of "
            f"the bare server at the same time: {beside * 1000:.0f} ms)"
        )
    return found


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure batchd with very large batches.")
    parser.add_argument("--quick", action="store_true", help="one batch, and only memory is judged")
    parser.add_argument("--only", choices=[LARGE.name, MANY.name], help="only this batch")
    parser.add_argument("--directory", type=Path, help="where to put files (default: a temporary)")
    given = parser.parse_args()
    cases = [case for case in (LARGE, MANY) if given.only in (None, case.name)]
    if given.quick:
        cases = [msgspec.structs.replace(LARGE, bare_seconds=2)]
    faults: list[str] = []
    for case in cases:
        directory = Path(tempfile.mkdtemp(prefix="batchd-benchmark-", dir=given.directory))
        try:
            measured = measure(case, directory)
        finally:
            shutil.rmtree(directory)
        report(measured)
        faults += broken(measured, stalls=not given.quick)
    for fault in faults:
        say(f"BROKEN: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
