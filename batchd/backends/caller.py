"""All that is asked of one model server over HTTP: lines, its models, a sign of life, its load."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from batchd.backends.client import Client, Connections, connections
from batchd.backends.key import Key
from batchd.backends.models import ListedModel, listed_models
from batchd.config import BackendConfig
from batchd.memory import Memory
from batchd.model import Outcome, RequestLine

_MODELS_TIMEOUT = 3.0
_MAX_PAGE = 4 << 20
_OK = 200
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501
_UNAVAILABLE = 503

_NO_ANSWER = (aiohttp.ClientError, OSError, TimeoutError, ValueError)

Page = tuple[int, str, bytes]  # status, content type, body


class Caller(Protocol):
    """How a backend's server is reached: over HTTP, or in a simulation."""

    async def send(self, endpoint: str, line: RequestLine) -> Outcome: ...
    async def models(self) -> list[ListedModel] | None: ...
    async def is_alive(self) -> bool: ...
    async def reload_key(self) -> bool: ...
    async def fetch(self, url: str) -> tuple[str, bytes] | None: ...


class HttpCaller:
    """One server's; its connections and its key are open."""

    def __init__(  # noqa: PLR0913 - what it is, and what it is handed
        self,
        config: BackendConfig,
        opened: Connections,
        key: Key,
        *,
        memory: Memory,
        now: Callable[[], float],
        new_request_id: Callable[[], str],
    ) -> None:
        self._session = opened.fresh
        self._key = key
        self._models_url = config.base_url.rstrip("/") + "/models"
        self._origin = urlsplit(config.base_url)[:2]
        self._client = Client(
            opened,
            config,
            key=lambda: key.text,
            memory=memory,
            now=now,
            new_request_id=new_request_id,
        )

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        """Send one line once and say what it came to; only cancellation is raised."""
        return await self._client.send(endpoint, line)

    async def models(self) -> list[ListedModel] | None:
        """What the server lists; None if it could not be asked."""
        page = await self._page(self._models_url)
        if page is None or page[0] != _OK:
            return None
        try:
            return listed_models(page[2])
        except (ValueError, RecursionError):
            return None

    async def is_alive(self) -> bool:
        """Whether it answers at all. One that is loading, or gone behind a proxy, says 5xx.

        One that does lines and lists no models may say 501.
        """
        page = await self._page(self._models_url)
        return page is not None and (page[0] < _SERVER_ERROR or page[0] == _NOT_IMPLEMENTED)

    async def reload_key(self) -> bool:
        """Read the API key again; whether it is another one now."""
        return await self._key.reload()

    async def fetch(self, url: str) -> tuple[str, bytes] | None:
        """Content type and body of a page, both empty if it is refused; None if nobody is there."""
        page = await self._page(url)
        if page is None or page[0] == _UNAVAILABLE:
            return None
        return page[1:] if page[0] == _OK else ("", b"")

    async def _page(self, url: str) -> Page | None:
        if self._session.closed:
            return None  # whoever asks did not know yet that it has left the pool
        # The load may be told by another server: it gets no key.
        key = self._key.text if urlsplit(url)[:2] == self._origin else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with (
                asyncio.timeout(_MODELS_TIMEOUT),
                self._session.get(url, headers=headers, allow_redirects=False) as response,
            ):
                body = await response.content.read(_MAX_PAGE)
                while piece := await response.content.read(_MAX_PAGE - len(body)):
                    body += piece
                return response.status, response.content_type, body
        except _NO_ANSWER:
            return None


@contextlib.asynccontextmanager
async def opened_caller(
    config: BackendConfig,
    environment: Mapping[str, str],
    *,
    memory: Memory,
    now: Callable[[], float],
    new_request_id: Callable[[], str],
) -> AsyncGenerator[HttpCaller]:
    """With its connections and its key; ``ConfigError`` if the key is not there."""
    key = Key(config, environment)
    await key.load()
    async with connections(config) as opened:
        yield HttpCaller(config, opened, key, memory=memory, now=now, new_request_id=new_request_id)
