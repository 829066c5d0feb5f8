"""Handlers of ``/v1/batches``: contract section 3, and what batchd adds to it."""

from aiohttp import web

from batchd.api.identity import OWNER
from batchd.api.parts import AGAIN, BATCHES, CONFIG, STEERING, answer
from batchd.api.reading import in_time
from batchd.model import BatchRecord
from batchd.wire import params, wishes
from batchd.wire.objects import BatchObject, ListObject, TroubledLines

_DEFAULT_LIMIT = 20
_MAX_LIMIT = 100


async def create(request: web.Request) -> web.Response:
    config = request.app[CONFIG].batches
    body = params.json_object(await _body(request))
    wish = params.new_batch(body, endpoints=config.endpoints, windows=config.windows)
    wish = wishes.repeatable(wish, request.headers, body)
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


async def pause(request: web.Request) -> web.Response:
    batch_id = request.match_info["batch_id"]
    return answer(_object(request, await request.app[STEERING].pause(request[OWNER], batch_id)))


async def resume(request: web.Request) -> web.Response:
    batch_id = request.match_info["batch_id"]
    return answer(_object(request, await request.app[STEERING].resume(request[OWNER], batch_id)))


async def set_priority(request: web.Request) -> web.Response:
    batch_id, steering = request.match_info["batch_id"], request.app[STEERING]
    priority = wishes.priority_of(params.json_object(await _body(request)))
    return answer(_object(request, await steering.set_priority(request[OWNER], batch_id, priority)))


async def retry(request: web.Request) -> web.Response:
    """The body may be left out."""
    body = await _body(request)
    wish = wishes.retry(request.headers, params.json_object(body) if body.strip() else {})
    batch_id, again = request.match_info["batch_id"], request.app[AGAIN]
    return answer(_object(request, await again.retry(request[OWNER], batch_id, wish)))


async def _body(request: web.Request) -> bytes:
    async with in_time(request.app[CONFIG].server.upload_timeout):
        return await request.read()


def _object(request: web.Request, record: BatchRecord) -> BatchObject:
    return BatchObject.of(record, request.app[BATCHES].progress(record))
