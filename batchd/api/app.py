"""Every URL in one list."""

from collections.abc import Callable

from aiohttp import web

from batchd.api import backends, batches, dashboard, files, models, ops
from batchd.api.auth import Guard, Keys
from batchd.api.middleware import add_headers, authorize, errors_as_json, identify
from batchd.api.parts import BATCHES, CONFIG, FILES, METRICS, POOL, ROOM, UPLOADS
from batchd.api.uploads import Uploads
from batchd.backends.pool import Pool
from batchd.batches import Batches
from batchd.config import Config
from batchd.files import Files
from batchd.metrics import Metrics
from batchd.room import Room

ROUTES = [
    web.post("/v1/files", files.create),
    web.get("/v1/files", files.index),
    web.get("/v1/files/{file_id}", files.retrieve),
    web.delete("/v1/files/{file_id}", files.delete),
    web.get("/v1/files/{file_id}/content", files.content),
    web.post("/v1/batches", batches.create),
    web.get("/v1/batches", batches.index),
    web.get("/v1/batches/{batch_id}", batches.retrieve),
    web.post("/v1/batches/{batch_id}/cancel", batches.cancel),
    web.get("/v1/batches/{batch_id}/attempts", batches.attempts),
    web.get("/v1/backends", backends.index),
    web.post("/v1/backends/{name}/resume", backends.resume),
    web.get("/v1/models", models.index),
    web.get("/v1/models/{model:.+}", models.retrieve),
    web.get("/healthz", ops.healthz),
    web.get("/metrics", ops.metrics),
    web.get("/dashboard", dashboard.page),
    web.get("/dashboard/{name}", dashboard.page),
]

_MAX_JSON = 1 << 20


def make_app(  # noqa: PLR0913, PLR0917 - the parts that handlers use
    config: Config,
    files_: Files,
    batches_: Batches,
    pool: Pool,
    keys: Keys,
    draw: Callable[[int], bytes],
    *,
    room: Room,
    metrics: Metrics,
) -> web.Application:
    """The application; its handlers find these parts under the keys of ``parts``."""
    app = web.Application(
        client_max_size=_MAX_JSON,
        middlewares=[
            identify(draw),
            errors_as_json,
            authorize(keys, Guard(config.server.allowed_hosts)),
        ],
    )
    app[CONFIG] = config
    app[FILES] = files_
    app[UPLOADS] = Uploads(files_, config.server)
    app[BATCHES] = batches_
    app[POOL] = pool
    app[ROOM] = room
    app[METRICS] = metrics
    app.on_response_prepare.append(add_headers)
    app.add_routes(ROUTES)
    return app
