"""A model server: its client, its limits, its key, and the models it says it has.

It never waits: it says when a request may go, and what keeps it from going. One backend in this
version.
"""

import asyncio
import contextlib
import fnmatch
import logging
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec

from batchd.backends.client import Client, Connections, connections
from batchd.backends.limits import Limiter
from batchd.config import BackendConfig
from batchd.errors import ConfigError
from batchd.model import Outcome, RequestLine
from batchd.retry import Park

log = logging.getLogger(__name__)

_MODELS_AGE = 30.0
_FAILURE_AGE = 5.0  # so that a server that hangs is not waited for again and again
_MODELS_TIMEOUT = 3.0
_MAX_MODELS_SIZE = 4 << 20

_KEY = re.compile(r"[!-~]+")

_PARK_TEXTS = {
    "unreachable": "cannot be reached",
    "rate_limited": "asks to wait (429)",
    "insufficient_quota": "says that the quota is used up; trying again now and then",
    "refused_401": "refuses its API key (401); put a valid one in its place",
    "refused_403": "refuses access (403) to its API key; trying again now and then",
}


class ListedModel(msgspec.Struct, frozen=True):
    """What a backend says of a model. Servers differ, so only ``id`` is relied on."""

    id: str
    created: object = None
    owned_by: object = None


class _ModelsAnswer(msgspec.Struct, frozen=True):
    data: list[ListedModel]


_decode_models = msgspec.json.Decoder(_ModelsAnswer).decode


class Backend:
    """One model server."""

    def __init__(  # noqa: PLR0913 - its parts, and time and chance from outside
        self,
        config: BackendConfig,
        opened: Connections,
        environment: Mapping[str, str],
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        new_request_id: Callable[[], str],
    ) -> None:
        self.config = config
        self.limiter = Limiter(
            max_in_flight=config.max_in_flight, requests_per_minute=config.requests_per_minute
        )
        self._session = opened.kept
        self._environment = environment
        self._now = now
        self._monotonic = monotonic
        self._key: str | None = None
        self._models: list[ListedModel] | None = None
        self._models_at = -_MODELS_AGE
        self._models_lock = asyncio.Lock()
        self._note: str | None = None
        self._key_complaint = False
        self._client = Client(
            opened, config, key=lambda: self._key, now=now, new_request_id=new_request_id
        )

    async def load_key(self) -> None:
        """Read the API key. ``ConfigError`` if it is configured but not there."""
        if self.config.api_key_env is not None:
            self._key = self._environment.get(self.config.api_key_env)
            if not self._key:
                raise ConfigError(
                    f"backend {self.config.name}: the environment variable "
                    f"{self.config.api_key_env} named by api_key_env is not set"
                )
        elif self.config.api_key_file is not None:
            self._key = await asyncio.to_thread(
                _read_key, self.config.name, self.config.api_key_file
            )

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        """Send one line once. After a refusal the key is read again first: it may be a new one."""
        if self.limiter.park_reason == "refused_401":
            await self.reload_key()
        return await self._client.send(endpoint, line)

    def answered(self, *, ok: bool) -> None:
        """An answer that parks nothing has come."""
        if self._note is not None and not self.limiter.is_parked(self._monotonic()):
            self._note = None
            log.info("backend_back", extra={"backend": self.config.name})
        self.limiter.answered(ok=ok)

    def park(self, park: Park) -> None:
        """Send nothing for a while, and say so where people look."""
        if self.limiter.park(park, self._monotonic()):
            since = _clock_time(self._now())
            text = _PARK_TEXTS.get(park.reason, park.reason)
            self._note = (
                f"waiting since {since}: backend '{self.config.name}' at "
                f"{self.config.base_url} {text}"
            )
            log.warning(
                "backend_parked",
                extra={
                    "backend": self.config.name,
                    "reason": park.reason,
                    "seconds": round(park.delay, 1),
                },
            )

    @property
    def note(self) -> str | None:
        """Why nothing is sent right now, as a sentence for people; None if all is well."""
        return self._note

    async def recheck(self) -> bool:
        """While the key is refused: whether there is another one now, so that lines may go on."""
        if self.limiter.park_reason != "refused_401" or not self.limiter.is_parked(
            self._monotonic()
        ):
            return False
        refused = self._key
        await self.reload_key()
        if self._key == refused:
            return False
        self.limiter.unpark()
        return True

    async def reload_key(self) -> None:
        """Read the key again after it was refused; an unreadable one keeps the old."""
        try:
            await self.load_key()
        except ConfigError as error:
            if not self._key_complaint:
                log.warning("backend_key_unreadable", extra={"reason": str(error)})
            self._key_complaint = True
        else:
            self._key_complaint = False

    async def models(self) -> list[ListedModel] | None:
        """What the server lists, at most half a minute old; None if it could not be asked."""
        async with self._models_lock:
            age = _MODELS_AGE if self._models is not None else _FAILURE_AGE
            if self._monotonic() - self._models_at >= age:
                self._models = await self._ask_models()
                self._models_at = self._monotonic()
            return self._models

    async def _ask_models(self) -> list[ListedModel] | None:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        url = self.config.base_url.rstrip("/") + "/models"
        try:
            async with (
                asyncio.timeout(_MODELS_TIMEOUT),
                self._session.get(url, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 200:  # noqa: PLR2004 - HTTP's OK
                    return None
                body = await response.content.read(_MAX_MODELS_SIZE)
                while piece := await response.content.read(_MAX_MODELS_SIZE - len(body)):
                    body += piece
            return _decode_models(body).data
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError):
            return None

    async def known_models(self) -> "KnownModels | None":
        """Which models this server has; None if that cannot be told now."""
        globs = tuple(glob for glob in self.config.models if glob != "*")
        listed = await self.models()
        if listed is None or not listed:
            return None
        return KnownModels(frozenset(model.id for model in listed), globs)


class KnownModels(msgspec.Struct, frozen=True):
    """The models a server lists, and the globs its configuration adds."""

    listed: frozenset[str]
    globs: tuple[str, ...] = ()

    def __contains__(self, model: str) -> bool:
        # Ollama lists "llama3:latest" and takes "llama3".
        if model in self.listed or f"{model}:latest" in self.listed:
            return True
        return any(fnmatch.fnmatchcase(model, glob) for glob in self.globs)


@contextlib.asynccontextmanager
async def opened_backend(
    config: BackendConfig,
    environment: Mapping[str, str],
    *,
    now: Callable[[], float],
    monotonic: Callable[[], float],
    new_request_id: Callable[[], str],
) -> AsyncGenerator[Backend]:
    """A backend with its connections and its key."""
    async with connections(config) as opened:
        backend = Backend(
            config,
            opened,
            environment,
            now=now,
            monotonic=monotonic,
            new_request_id=new_request_id,
        )
        await backend.load_key()
        yield backend


def _read_key(name: str, path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"backend {name}: the api_key_file {path} cannot be read") from None
    if _KEY.fullmatch(key) is None:
        raise ConfigError(f"backend {name}: the api_key_file {path} holds no usable key")
    return key


def _clock_time(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
