"""Handler of ``/v1/batches/{id}/results``: the results there are, while a batch runs and after.

The answer is the lines themselves. Its headers say how to go on: ``x-next-cursor`` is what to send
as ``after`` next time, ``x-has-more`` whether there may be more then.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from batchd.api.identity import OWNER
from batchd.api.parts import RESULTS
from batchd.errors import BatchdError
from batchd.model import LineFile
from batchd.results import Cursor
from batchd.wire.checks import one_of

log = logging.getLogger(__name__)

NEXT = "x-next-cursor"
MORE = "x-has-more"

_ALL = frozenset(LineFile)
_BY_STATUS = {
    "completed": frozenset({LineFile.OUTPUT}),
    "failed": frozenset({LineFile.ERROR}),
}


async def results(request: web.Request) -> web.StreamResponse:
    query, found_in = request.query, request.app[RESULTS]
    status = query.get("status")
    which = _BY_STATUS[one_of(status, list(_BY_STATUS), "status")] if status is not None else _ALL
    with_inputs = "include" in query and one_of(query["include"], ["input"], "include") == "input"
    after = Cursor.parse(query["after"]) if "after" in query else Cursor()
    found = await found_in.find(request[OWNER], request.match_info["batch_id"], after, which)
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/jsonl; charset=utf-8",
            NEXT: str(found.next),
            MORE: "true" if found.has_more else "false",
        }
    )
    if not with_inputs:
        response.content_length = found.size  # so that a client sees when it did not get it all
    async with aclosing(found_in.read(found, with_inputs=with_inputs)) as pieces:
        first = await anext(pieces, b"")  # what goes wrong until here is answered as an error
        await response.prepare(request)
        if request.method != "HEAD":
            await _send(request, response, first, pieces)
    return response


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    first: bytes,
    pieces: AsyncGenerator[bytes],
) -> None:
    """The lines. What goes wrong now cannot be answered: the connection ends before they do."""
    try:
        await response.write(first)
        async for piece in pieces:
            await response.write(piece)
    except (BatchdError, OSError, EOFError) as error:
        if not isinstance(error, ConnectionError):
            log.warning("results_broken_off", extra={"reason": str(error)})
        if request.transport is not None:
            request.transport.close()
