"""Handlers for operators: the health, and the gauges as they are when they are asked for."""

import asyncio
import heapq
from collections import Counter

import msgspec
from aiohttp import web

from batchd.api.parts import BATCHES, METRICS, POOL, ROOM, answer
from batchd.backends.pool import Pool
from batchd.backends.status import STATES, BackendStatus, statuses
from batchd.metrics import CONTENT_TYPE, Metrics
from batchd.states import UNFINISHED

_MOST_LANES = 50  # of a backend: clients name models, and a label for each would never end


class Health(msgspec.Struct, frozen=True):
    """``ok``, or ``degraded`` while batches wait for the backend or for room on the disk."""

    status: str


async def healthz(request: web.Request) -> web.Response:
    waits = request.app[POOL].is_waiting or request.app[ROOM].is_full
    return answer(Health("degraded" if waits else "ok"))


async def metrics(request: web.Request) -> web.Response:
    """Everything in ``Metrics``, its gauges as they are at this instant."""
    app = request.app
    numbers, pool, room = app[METRICS], app[POOL], app[ROOM]
    controls = await app[BATCHES].controls()
    found = Counter(control.status for control in controls.values())
    for status in UNFINISHED:
        numbers.unfinished_batches.labels(status.value).set(found[status])
    numbers.requests_in_flight.set(pool.in_flight)
    _set_backends(numbers, pool)
    numbers.backend_waiting.set(pool.is_waiting)
    numbers.disk_full.set(room.is_full)
    numbers.disk_free.set(await asyncio.to_thread(room.free))
    return web.Response(body=numbers.text(), headers={"Content-Type": CONTENT_TYPE})


def _set_backends(numbers: Metrics, pool: Pool) -> None:
    """What is labelled with a backend is written anew: backends and models come and go."""
    for instrument in (
        numbers.backend_in_flight,
        numbers.backend_limit,
        numbers.backend_throughput,
        numbers.backend_state,
        numbers.backend_requests_rate,
        numbers.backend_tokens_rate,
        numbers.backend_attempts,
    ):
        instrument.clear()
    for status in statuses(pool):
        _set_backend(numbers, status)
    for backend in pool.backends:
        for outcome, count in backend.attempts.items():
            numbers.backend_attempts.labels(backend.name, outcome).inc(count)


def _set_backend(numbers: Metrics, status: BackendStatus) -> None:
    for state in STATES:
        numbers.backend_state.labels(status.name, state).set(state == status.state)
    for gauge, rate in (
        (numbers.backend_requests_rate, status.requests_per_minute),
        (numbers.backend_tokens_rate, status.tokens_per_minute),
    ):
        if rate is not None:
            gauge.labels(status.name).set(rate.limit)
    busiest = heapq.nlargest(_MOST_LANES, status.lanes, key=lambda lane: lane.in_flight)
    for lane in busiest:
        numbers.backend_in_flight.labels(status.name, lane.model).set(lane.in_flight)
        numbers.backend_limit.labels(status.name, lane.model).set(lane.limit)
        numbers.backend_throughput.labels(status.name, lane.model).set(lane.throughput)
