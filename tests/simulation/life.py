"""One life of batchd, as the daemon leads it: recover, run, and drain if it is asked to stop."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tests.simulation.client import Client
from tests.simulation.core import Core
from tests.simulation.loop import hop
from tests.simulation.plan import Trigger
from tests.simulation.watch import Watch
from tests.simulation.world import World

# What a script does in a life once all has been read back.
Meddle = Callable[[World, Core], Awaitable[None]]

# Seconds of virtual time in which all batches must have ended once nothing goes wrong any more.
AT_MOST = 120.0
# Until what was under way at the end has noticed it.
_SETTLING = 0.3
# Makes everything old that may go, even if the clock was set back before.
_LATER = 3 * 86400.0


class Life:
    """``live`` returns when all is over, or when it was stopped; else it ends with a crash."""

    def __init__(
        self, world: World, clients: Sequence[Client], meddle: Meddle | None = None
    ) -> None:
        self._world = world
        self._clients = clients
        self._meddle = meddle
        self._stop = asyncio.Event()
        self.has_recovered = False
        self.is_over = False

    def stop(self) -> None:
        """What SIGTERM does."""
        self._world.steering.is_stopping = True
        self._stop.set()

    async def live(self) -> None:
        core = Core(self._world)
        core.room.prepare()
        async with core.writer.running(), core.flow.opened():
            await core.recovery.recover_all()
            self.has_recovered = True
            watch = Watch(self._world, core)
            watch.look_closely()
            self._world.endings.reached(Trigger.RECOVERED)
            async with asyncio.TaskGroup() as loops:
                core.start(loops, self._stop)
                others = [
                    loops.create_task(watch.watch(), name="watch"),
                    loops.create_task(watch.watch_endings(), name="watch-endings"),
                    loops.create_task(core.flow.reload(), name="reloads"),
                    loops.create_task(self._use(core), name="clients"),
                ]
                if self._meddle is not None:
                    meddling = self._meddle_with(core, self._meddle)
                    others.append(loops.create_task(meddling, name="meddle"))
                await self._stop.wait()
                for other in others:
                    other.cancel()
                core.ring()

    async def _meddle_with(self, core: Core, meddle: Meddle) -> None:
        await meddle(self._world, core)

    async def _use(self, core: Core) -> None:
        """Let clients use it until all batches have ended, then look at what is left."""
        world = self._world
        async with asyncio.TaskGroup() as clients:
            users = [
                clients.create_task(client.use(core), name="client") for client in self._clients
            ]
            await self._until_all_ended(core)
            for user in users:
                user.cancel()
        await hop(_SETTLING)
        world.faults.turn_clock(_LATER)
        await core.sweeper.sweep()
        world.checks.nothing_is_left(world.faults.now())
        world.chains.add_up()
        if world.expects_drops:
            world.drops.nothing_is_left()
        self.is_over = True
        self._stop.set()

    async def _until_all_ended(self, core: Core) -> None:
        world = self._world
        calm_in = max(0.0, world.plan.calm_at - world.loop.elapsed)
        try:
            async with asyncio.timeout(calm_in + AT_MOST):
                await world.seen.all_ended.wait()
                while list(core.runs) or not world.drops.are_delivered:
                    await hop(0.05)
        except TimeoutError:
            world.wrong("not all batches have come to their end")
        world.endings.at_rest()
