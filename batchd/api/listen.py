"""The sockets the API is served on, and how many clients may be connected at once.

Descriptors are for the batches first: a crowd of connections must not keep a ledger from being
opened. A client too many is turned away before it has said anything.
"""

import asyncio
import contextlib
import errno
import logging
import stat
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

from aiohttp import web

from batchd.api.identity import NEW_ID
from batchd.api.middleware import outside
from batchd.config import ServerConfig
from batchd.errors import BatchdError
from batchd.settings import parse_address

log = logging.getLogger(__name__)

_KEEPALIVE = 15.0  # seconds; also the only limit on how long headers may take
_CLOSE_REQUESTS = 2.0
_BACKLOG = 128
_ONLY_CONTINUE = "Invalid 'Expect': only '100-continue' can be expected."
_SAY_AGAIN = 60.0


class _Connection(web.RequestHandler):
    """One client. What is refused before the application is asked has the envelope, too."""

    def __init__(self, app: web.Application, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_KEEPALIVE,
            access_log=None,  # pyright: ignore[reportArgumentType] - it means none
        )
        self._app = app

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what cannot be read as a request, or fails outside of the application."""
        super().handle_error(request, status, exc, message)  # logs; raises if an answer has begun
        # Behind the colon are bytes of the request.
        reason = f"The request is not valid HTTP: {(message or '').partition(':')[0]}."
        response = outside(status, reason, self._app[NEW_ID]())
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """What the client expects is looked at before the middlewares are asked."""
        if isinstance(resp, web.HTTPExpectationFailed):
            resp = outside(resp.status, _ONLY_CONTINUE, self._app[NEW_ID]())
        return await super().finish_response(request, resp, start_time)


class _Doorway:
    """Makes a handler for each connection, for ``most`` of them at a time."""

    def __init__(self, app: web.Application, server: web.Server, most: int) -> None:
        self._app = app
        self._server = server
        self._most = most
        self._said_at = -_SAY_AGAIN

    def __call__(self) -> asyncio.Protocol:
        if len(self._server.connections) < self._most:
            return _Connection(self._app, self._server)
        now = asyncio.get_running_loop().time()
        if now - self._said_at >= _SAY_AGAIN:
            self._said_at = now
            log.warning("connections_refused", extra={"most": self._most})
        return _TurnedAway()


class _TurnedAway(asyncio.Protocol):
    """A connection that ends as it begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, config: ServerConfig, *, connections: int
) -> AsyncGenerator[None]:
    """Serve ``app`` on every configured address, to so many clients at once."""
    runner = web.AppRunner(app, shutdown_timeout=_CLOSE_REQUESTS)
    await runner.setup()
    try:
        with contextlib.ExitStack() as sockets:
            for address in config.listen:
                doorway = _Doorway(app, cast("web.Server", runner.server), connections)
                sockets.callback((await _listen(doorway, address)).close)
            yield
    finally:
        await runner.cleanup()


def _make_way(place: Path) -> None:
    """Remove what an earlier life has left at the socket's name, and nothing else."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(place.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is something that is no socket", str(place))
        place.unlink()


async def _listen(doorway: _Doorway, address: str) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    place = parse_address(address)
    try:
        if isinstance(place, Path):
            await asyncio.to_thread(_make_way, place)
            server = await loop.create_unix_server(doorway, place, backlog=_BACKLOG)
            await asyncio.to_thread(place.chmod, 0o660)
            return server
        return await loop.create_server(doorway, place[0], place[1], backlog=_BACKLOG)
    except OSError as error:
        raise BatchdError(f"cannot listen on {address}: {error.strerror or error}") from None
