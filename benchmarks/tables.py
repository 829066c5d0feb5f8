"""The printed tables: what the daemon's answers took, phase by phase."""

from collections.abc import Sequence

from benchmarks.polling import Sample
from benchmarks.process_cost import Cost

_STALL = 0.1
_HEAD = (
    f"{'phase':<18}{'seconds':>9}{'polls':>8}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}{'>100 ms':>9}"
)
_MORE = f"{'bare p99':>10}{'max':>8}{'CPU s':>8}{'waited':>8}{'RSS MB':>8}{'HWM MB':>8}"


def latency_table(
    phases: Sequence[tuple[str, float, float, Cost]],
    samples: Sequence[Sample],
    bare: Sequence[Sample],
) -> str:
    """One row a phase: the daemon's answers, the bare server's meanwhile, and the daemon's cost."""
    rows = [_HEAD + _MORE]
    before: Cost | None = None
    for name, begin, end, cost in phases:
        beside = _within(bare, begin, end)
        cpu, waited = (cost.cpu - before.cpu, cost.waited - before.waited) if before else (0.0, 0.0)
        before = cost
        rows.append(
            latency_row(name, _within(samples, begin, end))
            + f"{_ms(_share(beside, 0.99)):>10}{_ms(_share(beside, 1)):>8}"
            + f"{cpu:>8.1f}{waited:>8.1f}"
            + f"{cost.resident / 1e6:>8.1f}{cost.high_water / 1e6:>8.1f}"
        )
    return "\n".join(rows)


def latency_row(name: str, samples: Sequence[Sample]) -> str:
    """How long answers took: median, 99th in a hundred, longest, and how many were stalls."""
    seconds = samples[-1].at + samples[-1].took - samples[0].at if samples else 0
    stalls = sum(sample.took > _STALL for sample in samples)
    return (
        f"{name:<18}{seconds:>9.2f}{len(samples):>8}"
        f"{_ms(_share(samples, 0.5)):>8}{_ms(_share(samples, 0.99)):>8}"
        f"{_ms(_share(samples, 1)):>8}{stalls:>9}"
    )


def stall_list(samples: Sequence[Sample], bare: Sequence[Sample], at_most: int = 5) -> str:
    """The longest stalls, each with the bare server's longest answer while it lasted."""
    stalls = sorted((s for s in samples if s.took > _STALL), key=lambda s: -s.took)[:at_most]
    rows: list[str] = []
    for stall in stalls:
        beside = _share(_within(bare, stall.at, stall.at + stall.took), 1)
        after = stall.at - samples[0].at
        rows.append(
            f"stall in {stall.status} after {after:.1f} s: {_ms(stall.took)} ms, "
            f"bare meanwhile {_ms(beside)} ms"
        )
    return "\n".join(rows) or "no stall"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _within(samples: Sequence[Sample], begin: float, end: float) -> list[Sample]:
    """Those under way at some time between two instants."""
    return [sample for sample in samples if sample.at < end and sample.at + sample.took > begin]


def _share(samples: Sequence[Sample], share: float) -> float:
    """The time within which this share of the answers came; 0 if there were none."""
    if not samples:
        return 0.0
    times = sorted(sample.took for sample in samples)
    return times[min(len(times) - 1, int(share * len(times)))]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"
