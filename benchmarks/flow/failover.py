"""Two servers share a batch; one dies, hangs or drains, and comes back: what becomes of its lines?

After each fault every line must stand exactly once in the output file, none failed, and the dead
server's lines must have gone to the other, and its share back to it, within seconds. It ends with 1
if that is not so.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from benchmarks.flow.gpu_process import GpuProcess
from benchmarks.flow.gpu_settings import GpuSettings
from benchmarks.flow.lines import write_lines
from benchmarks.flow.record import Served, answer_rate
from benchmarks.flow.stage import Stage, row, say, stage, verdict

Fault = Literal["SIGKILL", "SIGSTOP", "SIGTERM"]
FAULTS: tuple[Fault, ...] = ("SIGKILL", "SIGSTOP", "SIGTERM")

_GPU = GpuSettings(slots=16, mean=0.05)
_MAX_IN_FLIGHT = 24
_MOVED_WITHIN, _BACK_WITHIN = 15.0, 15.0
_FULL = 0.8  # of the rate before: the share is there again
_KEPT = 0.9  # of its rate is what the server that stays must keep
_MOST_WAIT = 600.0
_WIDTHS = (9, 9, 9, 10, 10, 10, 10, 10, 8, 8)


class Plan(msgspec.Struct, frozen=True):
    """Seconds before the fault and until the return; lines enough for all of it and more."""

    before: float
    outage: float
    lines: int


LONG, SHORT = Plan(6, 20, 24_000), Plan(4, 12, 15_000)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Rates are good answers per second: before the fault, while it lasts, after the return."""

    fault: Fault
    stranded: int  # lines that were at the server when it went
    moved_after: float | None  # until the last of them was sent anew, or answered after all
    back_after: float | None
    stayer_before: float
    stayer_outage: float
    leaver_before: float
    leaver_after: float
    once: int
    failed: int
    lines: int


def measure(fault: Fault, plan: Plan) -> Measured:
    gpu = msgspec.structs.replace(_GPU, on_term="drain")
    with stage([gpu, gpu], backend={"max_in_flight": _MAX_IN_FLIGHT}) as on:
        path = on.directory / "input.jsonl"
        write_lines(path, plan.lines)
        batch_id = on.client.create(on.client.upload(path))
        _until_answered(on)
        time.sleep(plan.before)
        leaver, stayer = on.gpus
        fell_at = time.monotonic()
        come_back = _strike(leaver, fault)
        time.sleep(plan.outage)
        come_back()
        back_at = time.monotonic()
        batch = on.client.wait(batch_id, within=_MOST_WAIT)
        results = on.client.results(batch_id, plan.lines)
        left, stayed = leaver.served(), stayer.served()
    stranded = [s for s in left if s.arrived < fell_at < s.ended]
    return Measured(
        fault=fault,
        stranded=len(stranded),
        moved_after=_moved_after(stranded, [*left, *stayed], fell_at),
        back_after=_back_after(left, answer_rate(left, fell_at - plan.before, fell_at), back_at),
        stayer_before=answer_rate(stayed, fell_at - plan.before, fell_at),
        stayer_outage=answer_rate(stayed, fell_at, back_at),
        leaver_before=answer_rate(left, fell_at - plan.before, fell_at),
        leaver_after=answer_rate(left, back_at, _end(stayed)),
        once=results.once if results.lines == plan.lines else 0,
        failed=batch.request_counts.failed,
        lines=plan.lines,
    )


def _until_answered(on: Stage) -> None:
    while not all(gpu.counts().answered for gpu in on.gpus):
        time.sleep(0.05)


def _strike(gpu: GpuProcess, fault: Fault) -> Callable[[], None]:
    """Do it; what makes the server come back."""
    match fault:
        case "SIGKILL":
            gpu.kill()
            return gpu.start
        case "SIGSTOP":
            gpu.hang()
            return gpu.go_on
        case "SIGTERM":
            gpu.drain()
            return gpu.start


def _moved_after(stranded: list[Served], all_served: list[Served], fell_at: float) -> float | None:
    """None if one of the stranded lines was never seen again."""
    seen: dict[str, float] = {}
    for served in all_served:
        at = served.arrived if served.arrived > fell_at else served.ended
        if at > fell_at:
            seen[served.nonce] = min(at, seen.get(served.nonce, at))
    if any(seen.get(line.nonce, float("inf")) == float("inf") for line in stranded):
        return None
    return max((seen[line.nonce] - fell_at for line in stranded), default=0.0)


def _back_after(record: list[Served], rate: float, back_at: float) -> float | None:
    """Until a second begins in which the server answers as much as before; None: never."""
    ends = [served.ended for served in record if back_at <= served.ended < float("inf")]
    if not ends:
        return None
    at = back_at
    while at + 1 <= max(ends):
        if answer_rate(record, at, at + 1) >= _FULL * rate:
            return at - back_at
        at += 0.25
    return None


def _end(record: list[Served]) -> float:
    return max(served.ended for served in record if served.ended < float("inf"))


def report(measured: Measured) -> None:
    cells = (
        measured.fault,
        f"{measured.stranded}",
        _seconds(measured.moved_after),
        _seconds(measured.back_after),
        f"{measured.stayer_before:.0f}",
        f"{measured.stayer_outage:.0f}",
        f"{measured.leaver_before:.0f}",
        f"{measured.leaver_after:.0f}",
        f"{measured.lines - measured.once}",
        f"{measured.failed}",
    )
    say(row(cells, _WIDTHS))


def broken(measured: Measured) -> list[str]:
    """Which bounds were broken, as sentences."""
    fault, found = measured.fault, list[str]()
    if measured.once != measured.lines:
        found.append(f"{fault}: the result files do not hold every line exactly once")
    if measured.failed:
        found.append(f"{fault}: {measured.failed} lines failed")
    if measured.moved_after is None or measured.moved_after > _MOVED_WITHIN:
        found.append(f"{fault}: its lines had not moved within {_MOVED_WITHIN:g} s")
    if measured.stayer_outage < _KEPT * measured.stayer_before:
        found.append(f"{fault}: the other server did not stay full")
    if measured.back_after is None or measured.back_after > _BACK_WITHIN:
        found.append(f"{fault}: its share was not back within {_BACK_WITHIN:g} s")
    return found


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure fail-over between two servers.")
    parser.add_argument("--quick", action="store_true", help="shorter outages, fewer lines")
    parser.add_argument("--only", choices=FAULTS)
    given = parser.parse_args()
    names = ("fault", "stranded", "moved s", "back s", "other b.", "other out", "rate b.")
    say(row((*names, "rate aft.", "missing", "failed"), _WIDTHS))
    faults: list[str] = []
    for fault in FAULTS:
        if given.only in (None, fault):
            measured = measure(fault, SHORT if given.quick else LONG)
            report(measured)
            faults += broken(measured)
    return verdict(faults)


if __name__ == "__main__":
    sys.exit(main())
