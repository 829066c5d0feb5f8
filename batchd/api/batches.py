"""Handlers of ``/v1/batches``: contract section 3, and which lines have failed before."""

from aiohttp import web

from batchd.api.identity import OWNER
from batchd.api.parts import BATCHES, CONFIG, answer
from batchd.api.reading import in_time
from batchd.model import BatchRecord
from batchd.wire import params
from batchd.wire.objects import BatchObject, ListObject, TroubledLines

_DEFAULT_LIMIT = 20
_MAX_LIMIT = 100


async def create(request: web.Request) -> web.Response:
    config = request.app[CONFIG].batches
    async with in_time(request.app[CONFIG].server.upload_timeout):
        body = await request.read()
    wish = params.new_batch(
        params.json_object(body),
        endpoints=config.endpoints,
        windows=config.windows,
    )
    return answer(_object(request, await request.app[BATCHES].create(request[OWNER], wish)))


async def index(request: web.Request) -> web.Response:
    records, has_more = await request.app[BATCHES].page(
        request[OWNER],
        after=request.query.get("after"),
        limit=params.limit(request.query, default=_DEFAULT_LIMIT, maximum=_MAX_LIMIT),
    )
    data = [_object(request, record) for record in records]
    return answer(ListObject.of(data, has_more=has_more))


async def retrieve(request: web.Request) -> web.Response:
    batch_id = request.match_info["batch_id"]
    return answer(_object(request, await request.app[BATCHES].get(request[OWNER], batch_id)))


async def attempts(request: web.Request) -> web.Response:
    limit = params.limit(request.query, default=_DEFAULT_LIMIT, maximum=_MAX_LIMIT)
    batches = request.app[BATCHES]
    record = await batches.get(request[OWNER], request.match_info["batch_id"])
    lines, has_more = await batches.live.troubles(record.id, limit)
    return answer(TroubledLines(data=lines, has_more=has_more))


async def cancel(request: web.Request) -> web.Response:
    batch_id = request.match_info["batch_id"]
    return answer(_object(request, await request.app[BATCHES].cancel(request[OWNER], batch_id)))


def _object(request: web.Request, record: BatchRecord) -> BatchObject:
    return BatchObject.of(record, request.app[BATCHES].progress(record))
