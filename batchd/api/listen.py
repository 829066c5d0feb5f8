"""The sockets the API is served on."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from aiohttp import web

from batchd.config import ServerConfig, parse_address
from batchd.errors import BatchdError

_KEEPALIVE = 15.0  # seconds; also the only limit on how long headers may take
_CLOSE_REQUESTS = 2.0


@contextlib.asynccontextmanager
async def listening(app: web.Application, config: ServerConfig) -> AsyncGenerator[None]:
    """Serve ``app`` on every configured address."""
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=_KEEPALIVE,
        shutdown_timeout=_CLOSE_REQUESTS,
    )
    await runner.setup()
    try:
        for address in config.listen:
            await _listen(runner, address)
        yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, address: str) -> None:
    place = parse_address(address)
    try:
        if isinstance(place, Path):
            await asyncio.to_thread(place.unlink, missing_ok=True)
            await web.UnixSite(runner, str(place)).start()
            await asyncio.to_thread(place.chmod, 0o660)
        else:
            await web.TCPSite(runner, place[0], place[1]).start()
    except OSError as error:
        raise BatchdError(f"cannot listen on {address}: {error.strerror or error}") from None
