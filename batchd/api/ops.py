"""Handlers for operators."""

import msgspec
from aiohttp import web

from batchd.api.parts import BACKEND, answer


class Health(msgspec.Struct, frozen=True):
    """``ok``, or ``degraded`` when the backend is being waited for."""

    status: str


async def healthz(request: web.Request) -> web.Response:
    note = request.app[BACKEND].note
    return answer(Health("ok" if note is None else "degraded"))
