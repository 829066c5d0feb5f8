"""Many histories, in several processes, and what they come to together.

``run_histories`` is the entry point, for tests and for whoever breaks the code to see it found out:

    run_histories(range(1000))                                the code as it is
    run_histories(range(1000), mutate="no_tail_truncation")   one of tests.support.mutants
    run_histories(range(1000), mutate=broken_somehow)         a context manager of some module

The report's ``violations`` are sentences by seed. By hand:

    python -m tests.simulation.many 0 1000 [MUTANT]     these seeds
    SIM_SEED=617 python -m tests.simulation.many        one seed, and all that happens in it
"""

import contextlib
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from itertools import repeat

import msgspec

from tests.simulation.database import Store, opened_store
from tests.simulation.history import Told, run_history
from tests.simulation.plan import EndKind, planned
from tests.simulation.scripts import SCRIPTS
from tests.support.mutants import MUTANTS

Mutate = str | Callable[[], AbstractContextManager[None]]

_PROCESSES = 2
_CHUNK = 250
_FIRST = 5  # violations that are told in full


class Report(msgspec.Struct):
    """All histories of a run, added up."""

    histories: int = 0
    lines: int = 0
    crashes: int = 0
    violations: dict[int, str] = {}
    traces: dict[int, str] = {}
    # The least that any one history had.
    fewest_lines: int = sys.maxsize
    fewest_crashes: int = sys.maxsize
    tally: Counter[str] = msgspec.field(default_factory=Counter[str])
    seconds: float = 0.0

    def add(self, told: Told) -> None:
        self.histories += 1
        self.lines += told.lines
        self.crashes += told.crashes
        self.traces[told.seed] = told.trace
        self.tally.update(told.tally)
        self.fewest_lines = min(self.fewest_lines, told.lines)
        if told.violation is None:
            self.fewest_crashes = min(self.fewest_crashes, told.crashes)
        else:
            self.violations[told.seed] = told.violation

    def __str__(self) -> str:
        kinds = ", ".join(
            f"{self.tally[kind]:,} {kind}" for kind in (EndKind.KILL, EndKind.POWER, EndKind.DEATH)
        )
        return (
            f"simulation: {self.histories:,} histories ({self.crashes:,} crashes: {kinds}), "
            f"{self.lines:,} lines, {len(self.violations)} violations, {self.seconds:.1f} s"
        )

    @property
    def rare(self) -> str:
        """How often everything happened that does not happen to every line."""
        return ", ".join(f"{count:,} {what}" for what, count in sorted(self.tally.items()))

    @property
    def complaint(self) -> str:
        """The first violations, and how to see them again."""
        first = sorted(self.violations.items())[:_FIRST]
        told = [f"seed {seed}, {text}\n    {_again(seed)}" for seed, text in first]
        head = f"{len(self.violations)} of {self.histories:,} histories went wrong:"
        return "\n".join([head, *told])


def _again(seed: int) -> str:
    test = f"SIM_SEED={seed} SIM_HISTORIES=1 pytest tests/simulation/test_histories.py"
    return f"{test}\n    SIM_SEED={seed} python -m tests.simulation.many"


def run_histories(
    seeds: Iterable[int], *, mutate: Mutate | None = None, processes: int = _PROCESSES
) -> Report:
    """Run the history of each seed; the code may be altered while it runs."""
    numbers = list(seeds)
    chunks = [numbers[at : at + _CHUNK] for at in range(0, len(numbers), _CHUNK)]
    began = time.monotonic()
    report = Report()
    for told in _told(chunks, mutate, processes):
        for one in told:
            report.add(one)
    report.seconds = time.monotonic() - began
    return report


def _told(
    chunks: Sequence[Sequence[int]], mutate: Mutate | None, processes: int
) -> Iterator[list[Told]]:
    if processes == 1:
        yield from (run_chunk(chunk, mutate) for chunk in chunks)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_chunk, chunks, repeat(mutate))


def run_chunk(seeds: Sequence[int], mutate: Mutate | None = None) -> list[Told]:
    """In this process, one after the other."""
    alter = MUTANTS[mutate] if isinstance(mutate, str) else mutate
    with opened_store() as store, _garbage_left(), alter() if alter else contextlib.nullcontext():
        return [_run_seed(seed, store) for seed in seeds]


def _run_seed(seed: int, store: Store) -> Told:
    try:
        return run_history(planned(seed), store)
    except Exception as error:
        raise RuntimeError(f"the simulation itself failed at seed {seed}") from error


def run_scripts() -> dict[str, Told]:
    """In this process, by name."""
    told: dict[str, Told] = {}
    with opened_store() as store:
        for name, make in SCRIPTS.items():
            script = make()
            told[name] = run_history(script.plan, store, script.meddle)
    return told


@contextlib.contextmanager
def _garbage_left() -> Generator[None]:
    """Histories leave cycles by the thousand; they go all together, after a chunk."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        if was_enabled:
            gc.enable()


def main() -> None:
    if "SIM_SEED" in os.environ:
        seed = int(os.environ["SIM_SEED"])
        with opened_store() as store:
            told = run_history(planned(seed), store, tell=_say)
        _say(told.violation or "nothing was wrong")
        return
    first, end, *mutant = sys.argv[1:]
    report = run_histories(range(int(first), int(end)), mutate=mutant[0] if mutant else None)
    _say(report.rare)
    _say(str(report))
    if report.violations:
        _say(report.complaint)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
