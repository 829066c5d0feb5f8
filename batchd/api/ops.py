"""Handlers for operators."""

import asyncio
from collections import Counter

import msgspec
from aiohttp import web

from batchd.api.parts import BACKEND, BATCHES, METRICS, ROOM, answer
from batchd.metrics import CONTENT_TYPE
from batchd.states import UNFINISHED


class Health(msgspec.Struct, frozen=True):
    """``ok``, or ``degraded`` while batches wait for the backend or for room on the disk."""

    status: str


async def healthz(request: web.Request) -> web.Response:
    waits = request.app[BACKEND].note is not None or request.app[ROOM].is_full
    return answer(Health("degraded" if waits else "ok"))


async def metrics(request: web.Request) -> web.Response:
    """Everything in ``Metrics``, its gauges as they are at this instant."""
    app = request.app
    numbers, backend, room = app[METRICS], app[BACKEND], app[ROOM]
    found = Counter((await app[BATCHES].statuses()).values())
    for status in UNFINISHED:
        numbers.unfinished_batches.labels(status.value).set(found[status])
    numbers.requests_in_flight.set(backend.limiter.in_flight)
    numbers.backend_waiting.set(backend.note is not None)
    numbers.disk_full.set(room.is_full)
    numbers.disk_free.set(await asyncio.to_thread(room.free))
    return web.Response(body=numbers.text(), headers={"Content-Type": CONTENT_TYPE})
