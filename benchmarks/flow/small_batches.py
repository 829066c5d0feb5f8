"""How long a batch of ten lines takes behind a very large one, next to running alone."""

import statistics
import time

import msgspec

from benchmarks.flow.client import FlowClient
from benchmarks.flow.lines import write_lines
from benchmarks.flow.record import answer_rate
from benchmarks.flow.stage import Stage, say

LARGE = 100_000
_SMALL = 10
_QUANTUM = 16  # lines that a batch is given in one round, at a weight of 1
_PAUSE = 0.3
_LOOK_EVERY = 0.01
_SLOWDOWN = 2
_WITHIN = 120.0


class Times(msgspec.Struct, frozen=True):
    """Seconds, from before the creation to the look that found the batch completed."""

    name: str
    alone: list[float]
    behind: list[float]
    round: float  # of the two batches

    @property
    def bound(self) -> float:
        return _SLOWDOWN * statistics.median(self.alone) + self.round


def measure_small(
    on: Stage, slots: int, large: FlowClient, small: dict[str, FlowClient], tries: int
) -> list[Times]:
    """For each of ``small``, by name: alone, then behind a large batch of the client ``large``.

    The small lines are the same each time, so that they have the same service times.
    """
    path = on.directory / "small.jsonl"
    write_lines(path, _SMALL, tag="small-")
    file_ids = {name: client.upload(path) for name, client in small.items()}
    alone = {name: _times(small[name], file_ids[name], tries) for name in small}
    large_path = on.directory / "large.jsonl"
    write_lines(large_path, LARGE, tag="large-")
    large_id = large.create(large.upload(large_path))
    large.wait(large_id, within=_WITHIN, until=lambda b: b.request_counts.completed > slots)
    begin = time.monotonic()
    behind = {name: _times(small[name], file_ids[name], tries) for name in small}
    end = time.monotonic()
    if large.look(large_id).status != "in_progress":
        raise RuntimeError("the large batch ended before the small ones had been measured")
    rate = answer_rate(on.gpu.served(begin), begin, end)
    return [Times(name, alone[name], behind[name], 2 * _QUANTUM / rate) for name in small]


def _times(client: FlowClient, file_id: str, tries: int) -> list[float]:
    found: list[float] = []
    for _ in range(tries):
        time.sleep(_PAUSE)
        begin = time.monotonic()
        batch = client.wait(client.create(file_id), within=_WITHIN, every=_LOOK_EVERY)
        found.append(time.monotonic() - begin)
        if batch.request_counts.completed != _SMALL:
            raise RuntimeError(f"a small batch came to {batch}")
    return found


def report_small(times: Times) -> None:
    alone, behind = statistics.median(times.alone), statistics.median(times.behind)
    say(
        f"{times.name}: alone {alone * 1000:.0f} ms, behind the large batch {behind * 1000:.0f} ms "
        f"(longest {max(times.behind) * 1000:.0f} ms); slowdown {behind / alone:.2f}, "
        f"one round is {times.round * 1000:.0f} ms, bound {times.bound * 1000:.0f} ms"
    )


def broken_small(times: Times) -> list[str]:
    """Which bounds were broken, as sentences."""
    if statistics.median(times.behind) > times.bound:
        return [f"{times.name}: more than twice the time alone and a round"]
    return []
