"""What handlers share: where they find the parts of the daemon, and how they answer."""

from collections.abc import Mapping

import msgspec
from aiohttp import web

from batchd.again import Again
from batchd.api.uploads import Uploads
from batchd.backends.pool import Pool
from batchd.batches import Batches
from batchd.config import Config
from batchd.files import Files
from batchd.metrics import Metrics
from batchd.results import Results
from batchd.room import Room
from batchd.steering import Steering
from batchd.wire.objects import encode

FILES = web.AppKey("files", Files)
BATCHES = web.AppKey("batches", Batches)
STEERING = web.AppKey("steering", Steering)
AGAIN = web.AppKey("again", Again)
RESULTS = web.AppKey("results", Results)
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
