"""Does ``max_in_flight = "auto"`` find by itself what the best fixed limit reaches?

For each server with S slots, 20,000 lines: fixed limits from S/2 to 4 S, then ``auto`` from cold,
from warm after a restart, and while S doubles and halves. It ends with 1 if a bound is broken.
"""

import argparse
import sys
import time

import msgspec

from benchmarks.flow.auto_run import Run, Seen, run_batch
from benchmarks.flow.client import Batch, Lane
from benchmarks.flow.gpu_settings import GpuSettings
from benchmarks.flow.stage import row, say, stage, verdict

_LINES, _QUICK_LINES = 20_000, 5_000
_WARM_BOUND = 0.02
_QUICK_FACTOR = 2  # of the bounds with a quarter of the lines: the climb weighs more
_MULTIPLES = (0.5, 1, 1.25, 1.5, 2, 4)
_INPUT_ORDER = {"batches": {"order": "input"}}  # as the best makespan takes the lines
_WIDTHS = (18, 9, 9, 9, 7, 7, 9, 9, 11)


class Load(msgspec.Struct, frozen=True):
    """A server, and how much longer than the best fixed limit's ``auto``'s makespan may be.

    The mean service time is such that one CPU is enough for batchd and one for the server.
    """

    slots: int
    mean: float
    bound: float

    @property
    def gpu(self) -> GpuSettings:
        return GpuSettings(slots=self.slots, mean=self.mean)

    def most_settled(self, slots: int) -> int:
        return 2 * slots + 8


_LOADS = (
    Load(1, 0.003, 0.05),
    Load(8, 0.0125, 0.05),
    Load(64, 0.09, 0.05),
    Load(256, 0.35, 0.08),
)


def limits(slots: int) -> list[int]:
    """The fixed limits among which the best is searched."""
    return sorted({max(1, round(slots * multiple)) for multiple in _MULTIPLES})


def measure_fixed(load: Load, limit: int, count: int) -> Run:
    with stage([load.gpu], backend={"max_in_flight": limit}, settings=_INPUT_ORDER) as on:
        return run_batch(f"fixed {limit}", on, load.gpu, count, auto=False)


def measure_auto(load: Load, count: int) -> tuple[Run, Run]:
    """From cold, and from warm after a restart on the same storage."""
    with stage([load.gpu], backend={"max_in_flight": "auto"}, settings=_INPUT_ORDER) as on:
        cold = run_batch("auto, cold", on, load.gpu, count, auto=True)
        on.batchd.terminate()
        on.batchd.start()
        return cold, run_batch("auto, warm", on, load.gpu, count, auto=True)


class Change:
    """Changes the number of slots once the limit has settled, or half of the lines are done."""

    def __init__(self, set_slots: int, count: int) -> None:
        self.at: float | None = None
        self.slots = set_slots
        self._count = count

    def due(self, batch: Batch, lane: Lane | None) -> bool:
        if self.at is not None:
            return False
        done = batch.request_counts.completed / self._count
        return done > 1 / 2 or (done > 1 / 4 and lane is not None and lane.settled)


def measure_change(load: Load, before: int, after: int, count: int) -> tuple[Run, Change]:
    gpu = msgspec.structs.replace(load.gpu, slots=before)
    change = Change(after, count)
    with stage([gpu], backend={"max_in_flight": "auto"}, settings=_INPUT_ORDER) as on:

        def meanwhile(batch: Batch, lane: Lane | None) -> None:
            if change.due(batch, lane):
                on.gpu.set(slots=after)
                change.at = time.monotonic()

        name = f"auto, {before} to {after}"
        return run_batch(name, on, gpu, count, auto=True, meanwhile=meanwhile), change


class Resettled(msgspec.Struct, frozen=True):
    after: float | None  # seconds until the limit was first settled where it belongs
    share: float  # of the looks from then on that found it there


def resettled(load: Load, run: Run, change: Change) -> Resettled:
    """How long the limit took to be right for the new number of slots."""
    low, high = change.slots, load.most_settled(change.slots)

    def right(look: Seen) -> bool:
        return look.lane.limit is not None and low <= look.lane.limit <= high

    changed_at = change.at if change.at is not None else time.monotonic()
    later = [look for look in run.lanes if look.at > changed_at]
    first = next((look.at for look in later if right(look) and look.lane.settled), None)
    if first is None:
        return Resettled(None, 0.0)
    since = [look for look in later if look.at >= first]
    return Resettled(first - changed_at, sum(map(right, since)) / len(since))


def report(run: Run, best_fixed: float | None) -> None:
    against = "" if best_fixed is None else f"{run.makespan / best_fixed:.3f}"
    settled = "" if run.most_settled is None else str(run.most_settled)
    after = "" if run.settled_after is None else f"{run.settled_after:.1f}"
    cells = (
        run.name,
        f"{run.makespan:.2f}",
        f"{run.makespan / run.best:.3f}",
        against,
        str(run.most),
        settled,
        f"{run.mean:.1f}",
        f"{run.used:.3f}",
        after,
    )
    say(row(cells, _WIDTHS))


def trace(run: Run) -> None:
    """Each look at which the limit, or why it is what it is, was new."""
    before: tuple[object, ...] = ()
    for look in run.lanes:
        lane = look.lane
        state = (lane.limit, lane.settled, lane.reason)
        if state != before:
            settled = "settled" if lane.settled else ""
            say(
                f"  {look.at - run.began_at:>7.1f} s  limit {lane.limit!s:>5} {settled:<8}"
                f"{lane.throughput or 0:>7.1f}/s  {lane.reason}"
            )
        before = state


def head(load: Load, count: int) -> None:
    say(f"\n== {load.slots} slots, {count:,} lines of {load.mean * 1000:g} ms in the mean")
    names = ("limit", "seconds", "/ best", "/ fixed", "most", "stlld", "mean", "used", "settled s")
    say(row(names, _WIDTHS))


def broken_auto(load: Load, best_fixed: float, cold: Run, warm: Run, factor: int) -> list[str]:
    """Which bounds were broken, as sentences."""
    found: list[str] = []
    for run, bound in ((cold, load.bound * factor), (warm, _WARM_BOUND * factor)):
        what = f"{load.slots} slots, {run.name}"
        if run.makespan > best_fixed * (1 + bound):
            found.append(f"{what}: more than {bound:.0%} over the best fixed limit's makespan")
        if run.most_settled is None:
            found.append(f"{what}: the limit never settled")
        elif run.most_settled > load.most_settled(load.slots):
            found.append(f"{what}: {run.most_settled} in flight once settled")
    return found


def search_fixed(load: Load, count: int) -> list[Run]:
    """Run and print the fixed limits."""
    runs: list[Run] = []
    for limit in limits(load.slots):
        runs.append(measure_fixed(load, limit, count))
        report(runs[-1], None)
    return runs


def scenario(load: Load, count: int, factor: int, *, traced: bool) -> list[str]:
    """Run and print all of one server's rows; what was broken."""
    runs = search_fixed(load, count)
    best_fixed = min(run.makespan for run in runs)
    cold, warm = measure_auto(load, count)
    report(cold, best_fixed)
    report(warm, best_fixed)
    runs += [cold, warm]
    found = broken_auto(load, best_fixed, cold, warm, factor)
    high = max(load.slots, 2)
    for before, after in ((high // 2, high), (high, high // 2)):
        run, change = measure_change(load, before, after, count)
        runs.append(run)
        found += _report_change(load, run, resettled(load, run, change))
    for run in runs:
        if traced and run.lanes:
            say(f"{run.name}:")
            trace(run)
    found += [f"{load.slots} slots, {r.name}: not all lines done" for r in runs if not r.all_done]
    return found


def _report_change(load: Load, run: Run, result: Resettled) -> list[str]:
    if result.after is None:
        say(f"{run.name}: did not settle again (the limit ended at {run.final_limit})")
        return [f"{load.slots} slots, {run.name}: did not settle again"]
    say(
        f"{run.name}: settled again after {result.after:.1f} s, {result.share:.0%} of the looks "
        f"from then on found the limit right; it ended at {run.final_limit}"
    )
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure max_in_flight = 'auto'.")
    parser.add_argument("--quick", action="store_true", help="two servers, a quarter of the lines")
    parser.add_argument("--slots", type=int, choices=[load.slots for load in _LOADS])
    parser.add_argument("--lines", type=int, help="how many lines a batch has")
    parser.add_argument("--fixed-only", action="store_true", help="only search the best fixed")
    parser.add_argument("--trace", action="store_true", help="each change of auto's limit")
    given = parser.parse_args()
    wanted = (8, 64) if given.quick else [load.slots for load in _LOADS]
    if given.slots:
        wanted = [given.slots]
    count = given.lines or (_QUICK_LINES if given.quick else _LINES)
    factor = _QUICK_FACTOR if given.quick else 1
    faults: list[str] = []
    for load in _LOADS:
        if load.slots not in wanted:
            continue
        head(load, count)
        if given.fixed_only:
            search_fixed(load, count)
        else:
            faults += scenario(load, count, factor, traced=given.trace)
    return verdict(faults)


if __name__ == "__main__":
    sys.exit(main())
