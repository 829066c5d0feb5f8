"""Is the backend shared fairly: between owners, and between a small batch and a large one?

1,000 batches of mixed size, of two owners of whom one has ten times as many, wait before a server
that has no slot yet; then it opens. Printed is Jain's index of the owners' shares of what is sent
while both have work. Then small batches run behind a large one. It ends with 1 if a bound is
broken.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import msgspec

from benchmarks.flow.client import FlowClient, new_key
from benchmarks.flow.gpu_settings import GpuSettings
from benchmarks.flow.lines import write_lines
from benchmarks.flow.record import Served
from benchmarks.flow.small_batches import (
    LARGE,
    broken_small,
    measure_small,
    report_small,
)
from benchmarks.flow.stage import Stage, say, stage, verdict

_SLOTS, _MEAN = 16, 0.025
_MAX_IN_FLIGHT = 24
_JAIN = 0.95
_SECOND = 1.0  # the sliding window of the shares
_MOST_WAIT = 900.0
_MANY, _FEW = "many", "few"  # the two owners


class Mix(msgspec.Struct, frozen=True):
    """How many batches of how many lines, of the owner of many and of the owner of few."""

    many: dict[int, int]
    few: dict[int, int]
    tries: int


FULL = Mix({10: 818, 100: 82, 1000: 9}, {10: 82, 100: 8, 1000: 1}, 20)
QUICK = Mix({10: 164, 100: 16, 1000: 2}, {10: 16, 100: 2}, 8)


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Lines sent while both owners had work, and Jain's index of them."""

    many: int
    few: int
    seconds: float
    each_second: list[float]
    longest_gap: float  # seconds in which nothing was sent
    not_completed: int

    @property
    def overall(self) -> float:
        return jain((self.many, self.few))


def jain(shares: Sequence[float]) -> float:
    """1 when all are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def measure_owners(on: Stage, clients: dict[str, FlowClient], mix: Mix) -> Shares:
    """The owner of many comes first with all that it has, which makes it harder."""
    batches = [
        (clients[owner], batch_id)
        for owner, counts in ((_MANY, mix.many), (_FEW, mix.few))
        for batch_id in _create(on, clients[owner], owner, counts)
    ]
    for client, batch_id in batches:
        client.wait(batch_id, within=_MOST_WAIT, until=lambda b: b.status == "in_progress")
    opened_at = time.monotonic()
    on.gpu.set(slots=_SLOTS)
    not_completed = 0
    for client, batch_id in batches:
        counts = client.wait(batch_id, within=_MOST_WAIT).request_counts
        not_completed += counts.total - counts.completed
    return _shares(on.gpu.served(opened_at), not_completed)


def _create(on: Stage, client: FlowClient, owner: str, counts: dict[int, int]) -> list[str]:
    """The batches of each size have one input file in common."""
    found: list[str] = []
    for size, count in counts.items():
        path = on.directory / f"{owner}-{size}.jsonl"
        write_lines(path, size, tag=f"{owner}-{size}-")
        file_id = client.upload(path)
        found += [client.create(file_id) for _ in range(count)]
    return found


def _shares(record: list[Served], not_completed: int) -> Shares:
    sent = {
        owner: [served.arrived for served in record if served.nonce.startswith(owner)]
        for owner in (_MANY, _FEW)
    }
    begin, end = record[0].arrived, min(max(arrivals) for arrivals in sent.values())
    each_second: list[float] = []
    at = begin
    while at + _SECOND <= end:
        counts = [_between(sent[owner], at, at + _SECOND) for owner in (_MANY, _FEW)]
        each_second += [jain(counts)] if any(counts) else []
        at += _SECOND / 4
    arrivals = [served.arrived for served in record if served.arrived <= end]
    return Shares(
        many=_between(sent[_MANY], begin, end),
        few=_between(sent[_FEW], begin, end),
        seconds=end - begin,
        each_second=each_second,
        longest_gap=max((after - at for at, after in itertools.pairwise(arrivals)), default=0),
        not_completed=not_completed,
    )


def _between(instants: list[float], begin: float, end: float) -> int:
    return sum(begin <= instant < end for instant in instants)


def report(shares: Shares, mix: Mix) -> None:
    many, few = sum(mix.many.values()), sum(mix.few.values())
    say(
        f"batches: {many} of one owner, {few} of the other; "
        f"{shares.seconds:.1f} s with work of both"
    )
    say(
        f"lines sent: {shares.many} and {shares.few}; Jain's index {shares.overall:.4f}, of each "
        f"second: lowest {min(shares.each_second, default=0):.4f}, "
        f"median {statistics.median(shares.each_second or [0]):.4f}; "
        f"longest gap {shares.longest_gap * 1000:.0f} ms"
    )


def broken(shares: Shares) -> list[str]:
    """Which bounds were broken, as sentences."""
    found: list[str] = []
    if shares.overall < _JAIN:
        found.append(f"Jain's index of the owners' shares is {shares.overall:.4f}")
    if shares.not_completed:
        found.append(f"{shares.not_completed} lines were not completed")
    return found


def scenario(mix: Mix) -> list[str]:
    """Both parts on one daemon; what was broken."""
    closed = GpuSettings(slots=0, mean=_MEAN)
    keys = {owner: new_key(owner) for owner in (_MANY, _FEW)}
    with tempfile.NamedTemporaryFile("w", prefix="batchd-flow-", suffix=".keys") as keys_file:
        keys_file.write("".join(f"{line}\n" for _, line in keys.values()))
        keys_file.flush()
        settings = {
            "auth": {"keys_file": keys_file.name},
            "batches": {"max_requests": LARGE},
        }
        with stage([closed], backend={"max_in_flight": _MAX_IN_FLIGHT}, settings=settings) as on:
            clients = {owner: FlowClient(on.batchd.port, key) for owner, (key, _) in keys.items()}
            shares = measure_owners(on, clients, mix)
            report(shares, mix)
            small = {"another owner's": clients[_FEW], "the same owner's": clients[_MANY]}
            all_times = measure_small(on, _SLOTS, clients[_MANY], small, mix.tries)
    for times in all_times:
        report_small(times)
    return broken(shares) + [fault for times in all_times for fault in broken_small(times)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how fairly a backend is shared.")
    parser.add_argument("--quick", action="store_true", help="200 batches, fewer small ones")
    given = parser.parse_args()
    return verdict(scenario(QUICK if given.quick else FULL))


if __name__ == "__main__":
    sys.exit(main())
