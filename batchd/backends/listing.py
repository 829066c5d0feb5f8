"""Which models a backend has: its own list, asked for now and then, and what is configured."""

import asyncio
import math
from collections.abc import Callable

from batchd.backends.caller import Caller
from batchd.backends.models import ANY, KnownModels, ListedModel, matches
from batchd.config import BackendConfig

_AGE = 30.0
_FAILURE_AGE = 5.0  # so that a server that hangs is not waited for again and again


class Listing:
    """``listed`` is what it last said; None before it was ever reached."""

    def __init__(
        self, config: BackendConfig, caller: Caller, monotonic: Callable[[], float]
    ) -> None:
        self.listed: list[ListedModel] | None = None
        self._monotonic = monotonic
        self._answer: list[ListedModel] | None = None
        self._asked_at = -math.inf
        self._lock = asyncio.Lock()
        self.is_doubted = False
        self.configure(config, caller)

    def configure(self, config: BackendConfig, caller: Caller) -> None:
        self._config = config
        self._caller = caller

    def serves(self, model: str) -> bool | None:
        """Whether it has this model; None if only trying can tell."""
        globs = self._config.models
        if matches(model, tuple(glob for glob in globs if glob != ANY)):
            return True
        if ANY not in globs:
            return False
        if not self.listed:
            return None
        return model in KnownModels(frozenset(listed.id for listed in self.listed))

    @property
    def was_asked(self) -> bool:
        """Whether the server was asked once, whatever came of that."""
        return self._asked_at > -math.inf

    def doubt(self) -> None:
        """A line was told that there is no such model: the list may have changed."""
        self.is_doubted = True

    async def models(self) -> list[ListedModel] | None:
        """What the server lists, at most half a minute old; None if it could not be asked."""
        async with self._lock:
            age = _AGE if self._answer is not None else _FAILURE_AGE
            if self.is_doubted or self._monotonic() - self._asked_at >= age:
                self._answer = await self._caller.models()
                self._asked_at = self._monotonic()
                self.is_doubted = False
                self.listed = self._answer or self.listed
            return self._answer

    async def known_models(self) -> KnownModels | None:
        """Which models this server has; None if that cannot be told now."""
        globs = tuple(glob for glob in self._config.models if glob != ANY)
        if ANY not in self._config.models:
            return KnownModels(frozenset(), globs)
        listed = await self.models()
        if not listed:
            return None
        return KnownModels(frozenset(model.id for model in listed), globs)
