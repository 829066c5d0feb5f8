"""What every way of running batchd has in common, opened: storage, writer, backends, engine.

The lower half of the composition root. A daemon puts doors and loops around it, a single run
nothing but a display. The clock, chance and the environment enter here and in what opens this.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import NamedTuple

from batchd import ids
from batchd.backends.caller import HttpCaller, opened_caller
from batchd.backends.local import LocalServer, local_server
from batchd.backends.pool import Pool, opened_pool
from batchd.bell import Bells, Ringable
from batchd.config import BackendConfig, Config
from batchd.damage import Damage
from batchd.disk import Disk
from batchd.engine.engine import Engine, EngineBells
from batchd.engine.found import FoundLimits
from batchd.memory import Memory
from batchd.metrics import Metrics
from batchd.process import most_in_flight
from batchd.room import Room
from batchd.spool import Spool
from batchd.store.database import Database
from batchd.store.limits import all_found
from batchd.use_cases import UseCases
from batchd.writer import Writer

Loop = Callable[[asyncio.Event], Coroutine[None, None, None]]

_LOCAL_SLOTS = 4


class Parts(NamedTuple):
    """What is open. ``loops``: those that run beside the engine, whoever runs it."""

    database: Database
    pool: Pool
    use_cases: UseCases
    engine: Engine
    loops: Sequence[Loop]


class Core:
    """One life on the storage directory of ``config``.

    ``bells`` are rung, too, when a row has changed. ``on_fatal`` must end the process: what is in
    memory can no longer be written down.
    """

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str],
        *,
        bells: Sequence[Ringable] = (),
        on_fatal: Callable[[str], None],
    ) -> None:
        self._config = config
        self._environment = environment
        self._on_fatal = on_fatal
        self.spool = Spool(config.storage.directory, Disk())
        self.metrics = Metrics()
        self.damage = Damage(self.metrics)
        self.room = Room(
            self.spool.disk,
            self.spool.directory,
            reserve=config.storage.reserve,
            ballast=config.storage.ballast,
        )
        self._memory = Memory(config.storage.memory)
        self._engine_bells = EngineBells()
        self.bells = Bells([self._engine_bells, *bells])

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncGenerator[Parts]:
        """All of it, with the directory locked; closed last opened first."""
        async with contextlib.AsyncExitStack() as stack:
            disk = self.spool.disk
            await disk.run(self.spool.prepare)
            await disk.run(stack.enter_context, self.spool.locked())
            await disk.run(self.room.prepare)
            database = await stack.enter_async_context(
                Database.opened(self.spool.database, self._on_fatal, self.room.make_room)
            )
            writer = await stack.enter_async_context(
                Writer(self.spool.disk, self.room, self.metrics, self._ledger_failed).running()
            )
            local = await self._local_server(stack)
            pool = await stack.enter_async_context(await self._pool(database, local))
            use_cases = UseCases.over(
                database,
                self.spool,
                self._config,
                room=self.room,
                damage=self.damage,
                now=time.time,
                draw=secrets.token_bytes,
                ring=self.bells.ring,
            )
            engine = self._engine(writer, pool, use_cases)
            limits = FoundLimits(database, pool.found_limits, time.time)
            loops = [self.room.watch, limits.run, *([local.supervise] if local else [])]
            yield Parts(database, pool, use_cases, engine, loops)

    def _engine(self, writer: Writer, pool: Pool, use_cases: UseCases) -> Engine:
        return Engine(
            self._config,
            self._engine_bells,
            files=use_cases.files,
            batches=use_cases.batches,
            spool=self.spool,
            room=self.room,
            writer=writer,
            pool=pool,
            memory=self._memory,
            metrics=self.metrics,
            damage=self.damage,
            now=time.time,
            draw=random.random,
        )

    async def _local_server(self, stack: contextlib.AsyncExitStack) -> LocalServer | None:
        if not self._config.local:
            return None
        return await stack.enter_async_context(
            local_server(self.spool.directory, slots=_LOCAL_SLOTS)
        )

    async def _pool(
        self, database: Database, local: LocalServer | None
    ) -> contextlib.AbstractAsyncContextManager[Pool]:
        def open_caller(
            config: BackendConfig,
        ) -> contextlib.AbstractAsyncContextManager[HttpCaller]:
            return opened_caller(
                config,
                self._environment,
                memory=self._memory,
                now=time.time,
                new_request_id=_new_request_id,
            )

        pool = Pool(
            open_caller,
            now=time.time,
            monotonic=asyncio.get_running_loop().time,
            kept=await all_found(database),
            ceiling=most_in_flight(),
        )
        if local is None:
            return opened_pool(pool, self._config.backends)
        slots = 2 * _LOCAL_SLOTS
        chosen = BackendConfig(name="local", base_url=local.base_url, max_in_flight=slots)
        return opened_pool(pool, [chosen])

    def _ledger_failed(self, reason: str) -> None:
        """The page cache may lie now: leave word for the next start, and go at once."""
        with contextlib.suppress(OSError):
            self.spool.distrust()
        self._on_fatal(reason)


def _new_request_id() -> str:
    return ids.request_id(secrets.token_bytes(ids.REQUEST_ID_BYTES))
