"""Handlers of ``/v1/backends``: what each model server is doing, and the end of a wait."""

from typing import Literal

import msgspec
from aiohttp import web

from batchd.api.parts import POOL, answer
from batchd.backends.status import BackendStatus, status_of, statuses
from batchd.errors import NotFound


class BackendList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[BackendStatus]


async def index(request: web.Request) -> web.Response:
    return answer(BackendList(data=statuses(request.app[POOL])))


async def resume(request: web.Request) -> web.Response:
    """End what the backend waits for: one request goes at once, and the others follow it."""
    name = request.match_info["name"]
    for backend in request.app[POOL].backends:
        if backend.name == name:
            backend.resume()
            return answer(status_of(backend))
    raise NotFound(f"No such backend: {name}", param="name")
