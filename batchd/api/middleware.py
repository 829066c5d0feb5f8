"""What every request goes through: an id, the guard, the key, and one translator of errors."""

import logging
import time
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from batchd.api import dashboard
from batchd.api.auth import Guard, Keys
from batchd.api.identity import OWNER, REQUEST_ID, peer_uid
from batchd.api.parts import answer
from batchd.errors import (
    BatchdError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    RequestTimeout,
    TooLarge,
    UnsupportedEncoding,
)
from batchd.wire.objects import ErrorObject

log = logging.getLogger(__name__)

_OPEN_PATHS = frozenset({"/healthz", "/openapi.json"}) | dashboard.PATHS
_VERSION = "2020-10-01"
_BUG = "batchd failed to handle this request; its log says why."
_STARTED = web.RequestKey("started", float)


def identify(new_id: Callable[[], str]) -> Middleware:
    """Give the request its id; ``add_headers`` puts it on whatever answer there is."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[REQUEST_ID] = new_id()
        request[_STARTED] = time.monotonic()
        return await handler(request)

    return middleware


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every answer, streamed or not (contract section 1)."""
    if REQUEST_ID in request:  # else it was made by ``outside``, which gave it one
        response.headers["x-request-id"] = request[REQUEST_ID]
    response.headers["openai-version"] = _VERSION
    elapsed = time.monotonic() - request.get(_STARTED, time.monotonic())
    response.headers["openai-processing-ms"] = str(round(elapsed * 1000))


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place where an error becomes an answer."""
    try:
        return await handler(request)
    except BatchdError as error:
        return _error_answer(error)
    except web.HTTPException as error:
        refusal = _error_answer(_from_aiohttp(request, error))
        if "Allow" in error.headers:
            refusal.headers["Allow"] = error.headers["Allow"]
        return refusal
    except HttpProcessingError:
        return _error_answer(InvalidRequest("The request is not valid HTTP or multipart."))
    except ConnectionError:
        raise  # the client has gone: there is nobody to answer, and no fault of ours
    except Exception:
        log.exception("unhandled_error", extra={"method": request.method, "path": request.path})
        return _error_answer(BatchdError(_BUG))


def authorize(keys: Keys, guard: Guard) -> Middleware:
    """Let in who may, and note whose request it is."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        guard.check(request)
        if request.path not in _OPEN_PATHS:
            request[OWNER] = keys.owner(request.headers.get("Authorization"), peer_uid(request))
        if "Content-Encoding" in request.headers:
            raise UnsupportedEncoding
        return await handler(request)

    return middleware


def outside(status: int, reason: str, new_id: str) -> web.Response:
    """The answer to what no middleware sees, with all that an answer has."""
    error = (
        InvalidRequest(reason) if status < HTTPStatus.INTERNAL_SERVER_ERROR else BatchdError(_BUG)
    )
    error.http_status = status
    response = _error_answer(error)
    response.headers["x-request-id"] = new_id
    response.headers["openai-version"] = _VERSION
    response.headers["openai-processing-ms"] = "0"
    return response


def _error_answer(error: BatchdError) -> web.Response:
    headers: dict[str, str] = {}
    if error.retriable is not None:
        headers["x-should-retry"] = "true" if error.retriable else "false"
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    response = answer(ErrorObject.of(error), status=error.http_status, headers=headers)
    if isinstance(error, TooLarge | RequestTimeout):
        # The rest of the body is not read; the connection cannot be used again.
        response.force_close()
    return response


def _from_aiohttp(request: web.Request, error: web.HTTPException) -> BatchdError:
    if isinstance(error, web.HTTPNotFound):
        return NotFound(f"Invalid URL ({request.method} {request.path})")
    if isinstance(error, web.HTTPMethodNotAllowed):
        return MethodNotAllowed(
            f"Not allowed to {request.method} on {request.path}. (HINT: Perhaps you meant to use "
            "a different HTTP method?)"
        )
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return TooLarge("The request's body is too large.")
    other = InvalidRequest(error.reason or "The request is not acceptable.")
    other.http_status = error.status
    return other
