"""Handler of ``/v1/limits``: how much this daemon takes, for clients that divide what is more."""

from typing import Literal

import msgspec
from aiohttp import web

from batchd.api.parts import CONFIG, answer


class LimitsObject(msgspec.Struct, frozen=True, kw_only=True):
    """Requests and embedding inputs of one batch, bytes of one file."""

    object: Literal["limits"] = "limits"
    max_requests: int
    max_embedding_inputs: int
    max_upload_size: int


async def retrieve(request: web.Request) -> web.Response:
    config = request.app[CONFIG]
    return answer(
        LimitsObject(
            max_requests=config.batches.max_requests,
            max_embedding_inputs=config.batches.max_embedding_inputs,
            max_upload_size=int(config.server.max_upload_size),
        )
    )
