"""All backends: which of them a model's lines may go to, and which takes the next one.

Models route to the servers that list them, or that a glob of the configuration gives them to; of
those the least loaded goes first, lightened by its weight. A backend that is parked or suspect is
passed over, and its lines go to the others that have the model. The pool may be changed while lines
are in flight: a backend that leaves it gets no more of them, and closes when it has none.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from batchd.backends.backend import Backend
from batchd.backends.caller import Caller
from batchd.backends.lane import Lane
from batchd.backends.models import ANY, KnownModels, ListedModel
from batchd.config import BackendConfig

log = logging.getLogger(__name__)

_TICK = 1.0
_ROUTES = 1024  # models whose routes are remembered: clients name models

OpenCaller = Callable[[BackendConfig], AbstractAsyncContextManager[Caller]]
Identity = tuple[str, str]  # name, base_url
Tasks = frozenset[asyncio.Task[object]]


class Pool:
    """The backends in use. ``opened`` gives one with its connections."""

    def __init__(
        self,
        open_caller: OpenCaller,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        kept: Mapping[tuple[str, str, str], int],
        ceiling: int,
    ) -> None:
        self.backends: list[Backend] = []
        self._open_caller = open_caller
        self._now = now
        self._monotonic = monotonic
        self._kept = kept
        self._ceiling = ceiling
        self._stacks: dict[Backend, AsyncExitStack] = {}
        self._leaving: list[Backend] = []
        self._replaced: list[tuple[Backend, Tasks, AsyncExitStack]] = []
        self._routes: dict[str, list[Backend]] = {}
        self._ring: Callable[[], None] = lambda: None

    def listen(self, ring: Callable[[], None]) -> None:
        """``ring`` is called when something may go that could not."""
        self._ring = ring

    def ring(self) -> None:
        """Something may go that could not."""
        self._ring()

    # -- where lines go

    def lane(self, model: str, now: float, avoid: str | None = None) -> Lane | None:
        """The lane that takes a line of this model now; None if none can."""
        if not self.has_room:
            return None
        best = None
        for backend in self._serving(model):
            if backend.name == avoid or not backend.is_open(now):
                continue
            lane = backend.lane(model)
            if lane.ready_at(now) <= now and (best is None or lane.load < best.load):
                best = lane
        return best

    def ready_at(self, model: str, now: float) -> float:
        """When a line of this model may go; infinity until something else happens."""
        return min(
            (
                backend.lane(model).ready_at(now) if backend.is_open(now) else backend.opens_at(now)
                for backend in self._serving(model)
            ),
            default=math.inf,
        )

    def has_other(self, model: str, name: str) -> bool:
        """Whether another backend than this one does this model's lines just now."""
        now = self._monotonic()
        return any(
            backend.name != name and backend.is_well(now) for backend in self._serving(model)
        )

    @property
    def has_room(self) -> bool:
        """Whether there may be a free slot at all: there is a ceiling over all backends, too."""
        return self.in_flight < self._ceiling and any(
            backend.lanes.have_room for backend in self.backends
        )

    @property
    def in_flight(self) -> int:
        return sum(backend.in_flight for backend in [*self.backends, *self._leaving])

    @property
    def is_waiting(self) -> bool:
        """Whether a backend is being waited for."""
        return any(backend.note is not None for backend in self.backends)

    def note(self, models: Iterable[str]) -> str | None:
        """Why lines of one of these models wait, as a sentence; None if all may go."""
        for model in models:
            serving = self._serving(model)
            if not serving and not all(backend.listing.was_asked for backend in self.backends):
                return "waiting: backends are being asked which models they have"
            if not serving:
                return f"waiting: no backend has the model '{model}'"
            notes = [backend.note for backend in serving]
            if all(notes):
                return notes[0]
        return None

    def _serving(self, model: str) -> list[Backend]:
        found = self._routes.get(model)
        if found is None:
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            found = self._routes[model] = self._route(model)
        return found

    def _route(self, model: str) -> list[Backend]:
        served = [(backend, backend.serves(model)) for backend in self.backends]
        # Listed somewhere, else perhaps where the list is not known yet, else wherever any goes:
        # llama.cpp answers under any name.
        if found := [backend for backend, serves in served if serves is True]:
            return found
        if found := [backend for backend, serves in served if serves is None]:
            # Of several, one may have it and the others refuse it for good: ask them all first.
            can_tell = len(found) == 1 or all(backend.listing.was_asked for backend in found)
            return found if can_tell else []
        return [backend for backend in self.backends if ANY in backend.config.models]

    # -- what they have

    async def models(self) -> list[ListedModel]:
        """What all of them list, each model once."""
        lists = await asyncio.gather(*(backend.listing.models() for backend in self.backends))
        self._routes.clear()
        return list({model.id: model for listed in lists for model in listed or ()}.values())

    async def known_models(self) -> KnownModels | None:
        """Which models there are; None if that cannot be told now."""
        found = await asyncio.gather(*(backend.listing.known_models() for backend in self.backends))
        self._routes.clear()
        known = KnownModels(frozenset())
        for one in found:
            if one is None:
                return None
            known |= one
        return known

    # -- which there are

    async def replace(self, configs: Sequence[BackendConfig]) -> None:
        """Go on with these. One with a known name and address keeps all it has learned.

        ``ConfigError`` if one cannot be opened: then nothing has changed.
        """
        async with AsyncExitStack() as opening:
            fresh: list[tuple[BackendConfig, Caller, AsyncExitStack]] = []
            for config in configs:
                stack = await opening.enter_async_context(AsyncExitStack())
                caller = await stack.enter_async_context(self._open_caller(config))
                fresh.append((config, caller, stack.pop_all()))
                opening.push_async_callback(fresh[-1][2].aclose)
            opening.pop_all()
        self._kept = {**self._kept, **self.found_limits()}
        before = [*self.backends, *self._leaving]
        known = {_identity(backend.config): backend for backend in before}
        self.backends = [self._backend(known, *one) for one in fresh]
        self._leaving = [backend for backend in before if backend not in self.backends]
        self._routes.clear()
        self._ring()

    def _backend(
        self,
        known: Mapping[Identity, Backend],
        config: BackendConfig,
        caller: Caller,
        stack: AsyncExitStack,
    ) -> Backend:
        backend = known.get(_identity(config))
        if backend is None:
            backend = Backend(
                config,
                caller,
                now=self._now,
                monotonic=self._monotonic,
                ring=self.ring,
                kept=self._kept_for(config),
                ceiling=self._ceiling,
            )
        else:
            # Lines in flight go on over the old connections.
            self._replaced.append((backend, backend.calls.tasks, self._stacks[backend]))
            backend.configure(config, caller)
        self._stacks[backend] = stack
        return backend

    def _kept_for(self, config: BackendConfig) -> dict[str, int]:
        return {
            model: limit
            for (name, base_url, model), limit in self._kept.items()
            if (name, base_url) == _identity(config)
        }

    def found_limits(self) -> dict[tuple[str, str, str], int]:
        """What measuring has found, by name, address and model: for the next life."""
        return {
            (*_identity(backend.config), model): limit
            for backend in self.backends
            for model, limit in backend.lanes.found_limits().items()
        }

    # -- watching them

    async def watch(self, stop: asyncio.Event) -> None:
        """Look at each backend every second until ``stop``."""
        looking: dict[Backend, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as looks:
            while not stop.is_set():
                for backend in self.backends:
                    backend.watch_load(looks)
                looking = {backend: look for backend, look in looking.items() if not look.done()}
                # One that leaves may be why it leaves: what hangs on it must go elsewhere.
                for backend in [*self.backends, *self._leaving]:
                    if backend not in looking:
                        name = f"look-{backend.name}"
                        looking[backend] = looks.create_task(self._look(backend), name=name)
                await self._close_quiet()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK):
                        await stop.wait()
            for look in looking.values():
                look.cancel()
            for backend in [*self.backends, *self._leaving]:
                backend.leave_load()

    async def _look(self, backend: Backend) -> None:
        await backend.look()
        if backend not in self.backends:
            return
        before, was_asked = backend.listed, backend.listing.was_asked
        if not backend.in_flight or before is None or backend.listing.is_doubted:
            await backend.listing.models()
            if backend.listed != before or not was_asked:
                self._routes.clear()
                self._ring()

    async def _close_quiet(self) -> None:
        """Close the connections that nothing goes over any more."""
        left = [backend for backend in self._leaving if not backend.in_flight]
        for backend in left:
            backend.leave_load()
        old = [one for one in self._replaced if not one[1] & one[0].calls.tasks]
        self._leaving = [backend for backend in self._leaving if backend not in left]
        self._replaced = [one for one in self._replaced if one not in old]
        await _close([*(self._stacks.pop(backend) for backend in left), *(one[2] for one in old)])

    async def aclose(self) -> None:
        """Close every connection."""
        stacks = [*self._stacks.values(), *(one[2] for one in self._replaced)]
        self._stacks.clear()
        self._replaced.clear()
        await _close(stacks)


async def _close(stacks: Iterable[AsyncExitStack]) -> None:
    async with AsyncExitStack() as closing:
        for stack in stacks:
            closing.push_async_exit(stack)


def _identity(config: BackendConfig) -> Identity:
    return config.name, config.base_url


@contextlib.asynccontextmanager
async def opened_pool(pool: Pool, configs: Sequence[BackendConfig]) -> AsyncGenerator[Pool]:
    """``pool`` with these backends open. ``ConfigError`` if one's key is not there."""
    try:
        await pool.replace(configs)
        yield pool
    finally:
        await pool.aclose()
