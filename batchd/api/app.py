"""The application, put together: every route, what each request goes through, the parts."""

import time
from collections.abc import Callable

from aiohttp import web

from batchd.api.auth import Guard, Keys
from batchd.api.identity import NEW_ID
from batchd.api.middleware import add_headers, authorize, errors_as_json, identify
from batchd.api.openapi import DOCUMENT, document
from batchd.api.parts import (
    AGAIN,
    BATCHES,
    CONFIG,
    FILES,
    METRICS,
    POOL,
    RESULTS,
    ROOM,
    STEERING,
    UPLOADS,
)
from batchd.api.routes import ROUTES
from batchd.api.uploads import Uploads
from batchd.backends.pool import Pool
from batchd.config import Config
from batchd.ids import REQUEST_ID_BYTES, request_id
from batchd.metrics import Metrics
from batchd.room import Room
from batchd.use_cases import UseCases

_MAX_JSON = 1 << 20


def make_app(  # noqa: PLR0913 - the parts that handlers use
    config: Config,
    use_cases: UseCases,
    pool: Pool,
    keys: Keys,
    draw: Callable[[int], bytes],
    *,
    room: Room,
    metrics: Metrics,
) -> web.Application:
    """The application; its handlers find these parts under the keys of ``parts``."""

    def new_id() -> str:
        return request_id(draw(REQUEST_ID_BYTES))

    app = web.Application(
        client_max_size=_MAX_JSON,
        middlewares=[
            identify(new_id),
            errors_as_json,
            authorize(keys, Guard(config.server.allowed_hosts)),
        ],
    )
    app[NEW_ID] = new_id
    app[CONFIG] = config
    app[FILES] = use_cases.files
    app[UPLOADS] = Uploads(use_cases.files, config.server, time.monotonic)
    app[BATCHES] = use_cases.batches
    app[STEERING] = use_cases.steering
    app[AGAIN] = use_cases.again
    app[RESULTS] = use_cases.results
    app[POOL] = pool
    app[ROOM] = room
    app[METRICS] = metrics
    app[DOCUMENT] = document(ROUTES, config)
    app.on_response_prepare.append(add_headers)
    app.add_routes([route.definition for route in ROUTES])
    return app
