"""How the lines of a life flow: the pool it opens, its reloads, and whether each has its turn.

``WatchedScheduler`` holds batchd's own against what its rounds promise: a batch that could send a
line is passed over only so often, however many others there are.
"""

import contextlib
import math
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from batchd.backends.caller import Caller
from batchd.backends.lane import Slot
from batchd.backends.pool import Pool
from batchd.config import BackendConfig
from batchd.engine.keeper import Keeper
from batchd.engine.queue import LineQueue
from batchd.engine.rounds import QUANTUM
from batchd.engine.runs import Run
from batchd.engine.scheduler import Scheduler, Seat
from batchd.errors import ConfigError
from tests.simulation.backend import SimCaller
from tests.simulation.fleet import Reload, ServerPlan
from tests.simulation.loop import hop
from tests.simulation.servers import Server
from tests.simulation.steering import Steering
from tests.simulation.world import World


class _Door(contextlib.AbstractAsyncContextManager[Caller]):
    """The connections to a server. A crash leaves them as they are."""

    def __init__(
        self, world: World, caller: SimCaller | None, server: Server | None = None
    ) -> None:
        self._world = world
        self._caller = caller
        self._server = server

    async def __aenter__(self) -> Caller:
        if self._caller is None:
            raise ConfigError("the key is not there")
        return self._caller

    async def __aexit__(self, *_: object) -> None:
        if self._caller is None or self._server is None or self._world.is_dead:
            return
        if self._caller.in_flight:
            self._world.wrong(f"{self._server.name} was closed with lines in flight")
        self._caller.is_closed = True
        self._world.closed(self._server)


class SimPool:
    """batchd's pool, with doors to the servers of the history."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._bad: str | None = None  # the server whose configuration cannot be taken
        self.pool = Pool(
            self._open_caller,
            now=world.faults.now,
            monotonic=world.loop.time,
            kept=world.plan.fleet.kept_limits,
            ceiling=world.plan.fleet.ceiling,
        )

    def _open_caller(self, config: BackendConfig) -> "_Door":
        if config.name == self._bad:
            return _Door(self._world, None)
        world = self._world
        server = world.servers.by_name[config.name]
        return _Door(world, SimCaller(world.answers, server, world.faults), server)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """With what the configuration says now."""
        await self._take(self._world.plan.fleet.at(self._world.loop.elapsed))
        try:
            yield
        finally:
            if not self._world.is_dead:
                await self.pool.aclose()

    async def reload(self) -> None:
        """Take every change of the configuration when it comes."""
        for reload in self._world.plan.fleet.reloads:
            wait = reload.at - self._world.loop.elapsed
            if wait > 0:
                await hop(wait)
                await self._reload(reload)

    async def _reload(self, reload: Reload) -> None:
        world = self._world
        if not reload.is_bad:
            world.seen.tally["reloads"] += 1
            await self._take(reload.servers)
            return
        world.seen.tally["refused reloads"] += 1
        self._bad = reload.servers[-1].name
        with contextlib.suppress(ConfigError):
            await self.pool.replace([server.config for server in reload.servers])
            world.wrong("a configuration was taken that is none")
        self._bad = None

    async def _take(self, servers: Sequence[ServerPlan]) -> None:
        world = self._world
        kept = {server.name for server in world.servers.now_configured}
        world.seen.tally["servers left out"] += len(kept - {server.name for server in servers})
        world.seen.tally["servers in flight at a reload"] += sum(
            1 for backend in self.pool.backends if backend.in_flight
        )
        world.servers.configure(servers, world.loop.time())
        await self.pool.replace([server.config for server in servers])


class WatchedKeeper(Keeper):
    """Tells what it has taken note of, whenever it has looked at the rows."""

    def __init__(self, steering: Steering, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **more)
        self._steering = steering

    async def follow(self) -> None:
        looked = self._steering.look()
        await super().follow()
        self._steering.noted(looked, self._runs)


class WatchedScheduler(Scheduler):
    """Notes which line was picked when, and counts how often each batch was passed over."""

    def __init__(self, world: World, pool: Pool) -> None:
        plan = world.plan
        super().__init__(
            pool,
            wall_clock=world.faults.now,
            max_running=plan.max_running,
            max_running_per_owner=plan.max_running_per_owner,
        )
        self._world = world
        self._passed: Counter[LineQueue] = Counter()

    def next(self, now: float) -> tuple[Run, LineQueue, int, Slot] | None:
        found = super().next(now)
        if found is not None:
            run, queue, index, _ = found
            self._world.picked(run.id, index)
            self._hold_to_rounds(queue)
        return found

    def _hold_to_rounds(self, served: LineQueue) -> None:
        """A batch with lines to send was served; the others of its model were passed over."""
        self._passed[served] = 0
        rivals = [
            seat
            for seat in self._seats.values()
            if seat.queue.model == served.model and seat.is_awake
        ]
        for seat in rivals:
            if seat.queue is not served and self._running[seat.run.owner] < self._most_per_owner:
                self._passed[seat.queue] += 1
                if self._passed[seat.queue] > QUANTUM and self._is_starved(seat, rivals):
                    passed = self._passed[seat.queue]
                    self._world.wrong(f"a line of {seat.run.id} waits behind {passed} others")

    def _is_starved(self, seat: Seat, rivals: Sequence[Seat]) -> bool:
        """Whether it was passed over more often than two rounds have turns.

        Of its owner's batches each may use up its credit first; of that owner's turns each comes
        once the other owners have had theirs, or have used up their own credit.
        """
        owners = len({rival.run.owner for rival in rivals} | {seat.run.owner})
        own = [rival for rival in rivals if rival.run.owner == seat.run.owner]
        credit = sum(max(1.0, QUANTUM * self._weight(rival)) for rival in own)
        turns = owners * (2 * credit + len(own) + 2 * QUANTUM)
        return self._passed[seat.queue] > math.ceil(turns)

    def _wake(self, seat: Seat) -> None:
        if not seat.is_awake:
            self._passed[seat.queue] = 0
        super()._wake(seat)
