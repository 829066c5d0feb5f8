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

from batchd.config import ServerConfig
from batchd.errors import BatchdError
from batchd.settings import parse_address

log = logging.getLogger(__name__)

_KEEPALIVE = 15.0  # seconds; also the only limit on how long headers may take
_CLOSE_REQUESTS = 2.0
_BACKLOG = 128
_SAY_AGAIN = 60.0


class _Doorway:
    """Makes a handler for each connection, for ``most`` of them at a time."""

    def __init__(self, server: web.Server, most: int) -> None:
        self._server = server
        self._most = most
        self._said_at = -_SAY_AGAIN

    def __call__(self) -> asyncio.Protocol:
        if len(self._server.connections) < self._most:
            return self._server()
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
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=_KEEPALIVE,
        shutdown_timeout=_CLOSE_REQUESTS,
    )
    await runner.setup()
    try:
        with contextlib.ExitStack() as sockets:
            for address in config.listen:
                doorway = _Doorway(cast("web.Server", runner.server), connections)
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
