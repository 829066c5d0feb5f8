"""A file as an answer, with what HTTP says of ranges and conditions.

aiohttp's ``FileResponse`` knows both, but refuses with statuses that have no error object. Here its
refusals are errors, raised while the middleware can still answer them.
"""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from batchd.errors import FileCorrupt, InvalidRequest, RangeNotSatisfiable

log = logging.getLogger(__name__)

# Others are ignored (RFC 9110, 14.2): several at once may be, other units must be.
_ONE_RANGE = re.compile(r"bytes=([0-9]+-[0-9]*|-0*[1-9][0-9]*)", re.IGNORECASE)


class PreconditionFailed(InvalidRequest):
    """The file is not as the request's If-Match or If-Unmodified-Since wants it."""

    http_status = 412


class _Refused(Exception):
    """What ``FileResponse`` would have answered, and no more than that."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _FileAnswer(web.FileResponse):
    """Prepared by its handler and then once more by the server; may be refused the first time."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if self.prepared:
            return await web.StreamResponse.prepare(self, request)
        return await super().prepare(request)

    def set_status(self, status: int, reason: str | None = None) -> None:
        if status >= HTTPStatus.BAD_REQUEST:
            raise _Refused(status)
        super().set_status(status, reason)


async def send_file(
    request: web.Request, path: Path, headers: Mapping[str, str]
) -> web.StreamResponse:
    """The answer, sent but for its end. ``OSError`` if the file cannot be opened."""
    response = _FileAnswer(path, headers=headers)
    try:
        await response.prepare(_without_odd_range(request))
    except _Refused as refused:
        raise _refusal(request, response, refused) from None
    except OSError as error:
        if not response.prepared:
            raise
        # It cannot be answered any more: the connection ends before the file does.
        if not isinstance(error, ConnectionError):
            log.warning("results_broken_off", extra={"reason": str(error)})
        if request.transport is not None:
            request.transport.close()
    return response


def _without_odd_range(request: web.Request) -> web.Request:
    asked = request.headers.get("Range")
    if asked is None or _ONE_RANGE.fullmatch(asked):
        return request
    kept = {
        name: value
        for name, value in request.headers.items()
        if name.lower() != "range" and value.isascii()  # a clone takes no other
    }
    return request.clone(headers=kept)


def _refusal(request: web.Request, response: web.StreamResponse, refused: _Refused) -> Exception:
    if isinstance(refused.__context__, OSError):  # it says why, and the status does not
        return refused.__context__
    if refused.status == HTTPStatus.PRECONDITION_FAILED:
        return PreconditionFailed()
    if refused.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        asked, size = request.headers["Range"], response.headers["Content-Range"].split("/")[1]
        return RangeNotSatisfiable(
            f"Invalid 'Range': '{asked[:64]}' is not a range of a file of {size} bytes."
        )
    return FileCorrupt()  # there is something by its name that is no file
