"""One batch on one virtual GPU: how long it took, and what the server saw meanwhile."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.flow.client import Batch, Lane
from benchmarks.flow.draws import best_makespan, draw
from benchmarks.flow.gpu_settings import GpuSettings
from benchmarks.flow.lines import nonces, write_lines
from benchmarks.flow.record import Served, in_flight, makespan, served_share
from benchmarks.flow.stage import Stage

_LONGEST = 1800.0


class Seen(msgspec.Struct, frozen=True):
    at: float
    lane: Lane


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Instants are the monotonic clock's."""

    name: str
    began_at: float  # the first request's arrival at the server
    makespan: float
    best: float  # the makespan of a client without latency
    most: int  # in flight, at any time
    most_settled: int | None  # in flight, once the limit was settled; None if it never was
    settled_after: float | None
    mean: float  # in flight, while the queue of lines was not yet empty
    used: float  # share of the slots' time
    all_done: bool
    lanes: list[Seen]
    final_limit: float | None


class Watch:
    """Follows a batch and, if it is ``auto``'s, the limit of its lane."""

    def __init__(self, stage: Stage, *, lanes: bool) -> None:
        self.seen: list[Seen] = []
        self._stage = stage
        self._lanes = lanes

    def look(self) -> Lane | None:
        if not self._lanes:
            return None
        lanes = self._stage.client.lanes().get(self._stage.gpu.name, [])
        if not lanes:
            return None
        self.seen.append(Seen(time.monotonic(), lanes[0]))
        return lanes[0]


def run_batch(  # noqa: PLR0913 - what to run and how to look at it, all by name
    name: str,
    stage: Stage,
    gpu: GpuSettings,
    count: int,
    *,
    auto: bool,
    meanwhile: Callable[[Batch, Lane | None], None] = lambda _batch, _lane: None,
) -> Run:
    """``meanwhile`` is called at each look, five times a second."""
    path = _input(stage.directory, count)
    watch = Watch(stage, lanes=auto)
    since = time.monotonic()
    batch_id = stage.client.create(stage.client.upload(path))

    def look(batch: Batch) -> bool:
        meanwhile(batch, watch.look())
        return False

    batch = stage.client.wait(batch_id, within=_LONGEST, until=look)
    record = stage.gpu.served(since)
    return _run(name, gpu, count, batch, record, watch.seen)


def _run(  # noqa: PLR0913, PLR0917 - what was seen
    name: str,
    gpu: GpuSettings,
    count: int,
    batch: Batch,
    record: list[Served],
    seen: list[Seen],
) -> Run:
    begin, last_sent = record[0].arrived, record[-1].arrived
    end = max(served.left for served in record)
    settled = next((look.at for look in seen if look.lane.settled), None)
    services = [draw(gpu, nonce).service for nonce in nonces(count)]
    return Run(
        name=name,
        began_at=begin,
        makespan=makespan(record),
        best=best_makespan(gpu.slots, services),
        most=in_flight(record, begin, end)[0],
        most_settled=None if settled is None else in_flight(record, settled, end)[0],
        settled_after=None if settled is None else settled - begin,
        mean=in_flight(record, begin, last_sent)[1],
        used=served_share(record, gpu.slots, begin, last_sent),
        all_done=batch.request_counts.completed == count,
        lanes=seen,
        final_limit=seen[-1].lane.limit if seen else None,
    )


def _input(directory: Path, count: int) -> Path:
    path = directory / f"{count}.jsonl"
    if not path.exists():
        write_lines(path, count)
    return path
