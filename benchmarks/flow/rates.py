"""Does batchd keep a server's rate: all of it, no more, and each Retry-After?

Servers that count requests or tokens a minute in three ways, each once with ``x-ratelimit-*``
headers and no limit configured, once without headers and the limit configured; and servers that
send 429 at random. All cases run at the same time; a case takes a small part of one CPU. It ends
with 1 if a bound is broken.
"""

import argparse
import functools
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import msgspec

from benchmarks.flow.gpu_settings import GpuSettings
from benchmarks.flow.lines import write_lines
from benchmarks.flow.record import Served, disobeyed, good_between
from benchmarks.flow.stage import row, say, stage, verdict

_REQUESTS, _TOKENS = 1_500, 240_000  # a minute
_WINDOW = 60.0
_WARM = 60.0  # what a server allows at once, before its limit is known, counts for a minute
_LINES = 15_000  # more than can be done in the time
_MAX_TOKENS, _COMPLETION_TOKENS = 200, 120
_MAX_IN_FLIGHT = 64
_SETTLING = 3.0  # seconds for upload and validation, before the first request
_MISS, _REFUSED_SHARE = 0.03, 0.005
_TOO_MANY = 429
_WIDTHS = (41, 10, 10, 8, 10, 7, 8, 11, 9, 8, 8)

_BUSY = GpuSettings(slots=64, mean=0.2, sigma=0.5, completion_tokens=_COMPLETION_TOKENS)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    gpu: GpuSettings
    backend: dict[str, object]
    limit: int = 0  # a minute; 0: there is none
    unit: Literal["requests", "tokens"] = "requests"
    configured: bool = False


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """``rate`` is of admitted requests or tokens, a minute, after the warm-up."""

    case: Case
    rate: float
    requests: int
    refused: int
    disobeyed: list[float]  # seconds after the 429, of each that came too soon
    failed: int
    most_in_a_second: int
    ended_early: bool

    @property
    def refused_share(self) -> float:
        return self.refused / self.requests


def cases() -> list[Case]:
    return [*_rate_cases("requests", _REQUESTS), *_rate_cases("tokens", _TOKENS), *_random_cases()]


def _rate_cases(unit: Literal["requests", "tokens"], limit: int) -> list[Case]:
    found: list[Case] = []
    kinds: tuple[Literal["sliding", "bucket", "fixed"], ...] = ("sliding", "bucket", "fixed")
    for kind in kinds:
        gpu = msgspec.structs.replace(_BUSY, rate_kind=kind, **{f"{unit}_per_window": limit})
        found.append(
            Case(
                name=f"{unit}, {kind}, headers",
                gpu=msgspec.structs.replace(gpu, rate_headers=True),
                backend={},
                limit=limit,
                unit=unit,
            )
        )
        found.append(
            Case(
                name=f"{unit}, {kind}, configured",
                gpu=gpu,
                backend={f"{unit}_per_minute": limit},
                limit=limit,
                unit=unit,
                configured=True,
            )
        )
    return found


def _random_cases() -> list[Case]:
    said: tuple[Literal["seconds", "ms", "date"], ...] = ("seconds", "ms", "date")
    return [
        Case(
            name=f"1 % refused at random, retry-after ({how})",
            gpu=msgspec.structs.replace(_BUSY, slots=8, refused_share=0.01, retry_after=how),
            backend={},
        )
        for how in said
    ]


def measure(case: Case, warm: float, windows: int) -> Measured:
    """Run one case for ``warm`` seconds, and then for so many whole windows."""
    with stage([case.gpu], backend={"max_in_flight": _MAX_IN_FLIGHT, **case.backend}) as on:
        path = on.directory / "input.jsonl"
        write_lines(path, _LINES, max_tokens=_MAX_TOKENS)
        batch_id = on.client.create(on.client.upload(path))
        stop_at = time.monotonic() + _SETTLING + warm + windows * _WINDOW
        batch = on.client.wait(
            batch_id,
            within=_SETTLING + warm + (windows + 1) * _WINDOW,
            every=0.5,
            until=lambda _: time.monotonic() >= stop_at,
        )
        record = on.gpu.served()
    begin = record[0].arrived + warm
    end = begin + windows * _WINDOW
    good = good_between(record, begin, end)
    amount = len(good) if case.unit == "requests" else sum(served.tokens for served in good)
    return Measured(
        case=case,
        rate=amount / windows,
        requests=len(record),
        refused=sum(served.status == _TOO_MANY for served in record),
        disobeyed=disobeyed(record),
        failed=batch.request_counts.failed,
        most_in_a_second=_most_in_a_second(good, begin),
        ended_early=batch.request_counts.completed == batch.request_counts.total,
    )


def _most_in_a_second(good: list[Served], begin: float) -> int:
    counts: dict[int, int] = {}
    for served in good:
        second = int(served.arrived - begin)
        counts[second] = counts.get(second, 0) + 1
    return max(counts.values(), default=0)


def report(measured: Measured) -> None:
    case = measured.case
    cells = (
        case.name,
        f"{case.limit:,}" if case.limit else "",
        f"{measured.rate:,.0f}",
        f"{measured.rate / case.limit:.3f}" if case.limit else "",
        f"{measured.requests:,}",
        f"{measured.refused}",
        f"{measured.refused_share:.2%}",
        f"{len(measured.disobeyed)}",
        f"{max(measured.disobeyed, default=0) * 1000:.0f}",
        f"{measured.failed}",
        f"{measured.most_in_a_second}",
    )
    say(row(cells, _WIDTHS))


def broken(measured: Measured) -> list[str]:
    """Which bounds were broken, as sentences."""
    case, found = measured.case, list[str]()
    if measured.disobeyed:
        found.append(
            f"{case.name}: {len(measured.disobeyed)} requests came before their Retry-After"
        )
    if measured.failed:
        found.append(f"{case.name}: {measured.failed} lines failed")
    if measured.ended_early:
        found.append(f"{case.name}: the batch ended before the time to measure")
    if case.limit:
        found += _broken_rate(measured)
    return found


def _broken_rate(measured: Measured) -> list[str]:
    case, found = measured.case, list[str]()
    ratio = measured.rate / case.limit
    # A bucket that was not emptied at first may rightly give more than its rate for a while.
    too_much = ratio > 1 + _MISS and (case.configured or case.gpu.rate_kind != "bucket")
    if ratio < 1 - _MISS or too_much:
        found.append(f"{case.name}: {ratio:.3f} of the limit was reached")
    if case.configured and measured.refused:
        found.append(f"{case.name}: {measured.refused} answers were 429")
    elif measured.refused_share >= _REFUSED_SHARE:
        found.append(f"{case.name}: {measured.refused_share:.2%} of the answers were 429")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how batchd keeps to rates.")
    parser.add_argument("--quick", action="store_true", help="2 minutes instead of 3")
    parser.add_argument("--only", default="", help="only cases that have this in their name")
    parser.add_argument("--at-once", type=int, default=99, help="how many cases run together")
    given = parser.parse_args()
    chosen = [case for case in cases() if given.only in case.name]
    windows = 1 if given.quick else 2
    names = ("case", "limit", "per min", "ratio", "requests", "429s", "429 %", "disobeyed")
    say(row((*names, "late ms", "failed", "most/s"), _WIDTHS))
    with ThreadPoolExecutor(min(given.at_once, len(chosen)) or 1) as pool:
        measured = list(pool.map(functools.partial(measure, warm=_WARM, windows=windows), chosen))
    faults: list[str] = []
    for one in measured:
        report(one)
        faults += broken(one)
    return verdict(faults)


if __name__ == "__main__":
    sys.exit(main())
