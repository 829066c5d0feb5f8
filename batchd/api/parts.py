"""What handlers share: where they find the parts of the daemon, and how they answer."""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from batchd.api.uploads import Uploads
from batchd.backends.pool import Pool
from batchd.batches import Batches
from batchd.config import Config
from batchd.files import Files
from batchd.metrics import Metrics
from batchd.room import Room
from batchd.wire.objects import encode

FILES = web.AppKey("files", Files)
BATCHES = web.AppKey("batches", Batches)
POOL = web.AppKey("pool", Pool)
CONFIG = web.AppKey("config", Config)
ROOM = web.AppKey("room", Room)
METRICS = web.AppKey("metrics", Metrics)

UPLOADS = web.AppKey("uploads", Uploads)


def answer(
    value: msgspec.Struct, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=encode(value), status=status, headers=headers, content_type="application/json"
    )
