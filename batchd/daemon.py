"""The composition root: open the parts, run, drain, close.

The nesting is the order of shutdown. Leave the inner block: no new requests. Leave the task group:
nothing in flight. Leave the stack: closed, last opened first. If a loop dies, the group ends the
process and systemd starts it again; nothing limps.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import uvloop
from aiohttp import http_parser, web

from batchd import ids, logs
from batchd.api.app import make_app
from batchd.api.auth import Keys
from batchd.api.listen import listening
from batchd.backends.caller import HttpCaller, opened_caller
from batchd.backends.local import LocalServer, local_server
from batchd.backends.pool import Pool, opened_pool
from batchd.batches import Batches
from batchd.bell import Bell, Bells
from batchd.config import BackendConfig, Config
from batchd.damage import Damage
from batchd.disk import Disk
from batchd.engine.engine import Engine, EngineBells
from batchd.engine.found import FoundLimits
from batchd.errors import BatchdError, ConfigError
from batchd.files import Files
from batchd.loops import Loops
from batchd.metrics import Metrics
from batchd.process import (
    FATAL,
    connection_limit,
    die,
    favour_the_loop,
    handle_signals,
    leaves,
    most_in_flight,
    raise_descriptor_limit,
)
from batchd.reload import Reloader
from batchd.room import Room
from batchd.spool import Spool
from batchd.store.database import SQLITE_VERSION, Database
from batchd.store.limits import all_found
from batchd.systemd import Notifier, watchdog_interval
from batchd.writer import Writer

log = logging.getLogger(__name__)

Loop = Callable[[asyncio.Event], Coroutine[None, None, None]]

_LOCAL_SLOTS = 4
_THREADS = 16
_RECOVERING = 600.0  # seconds that systemd is asked to allow for reading ledgers back
_CLOSING = 15.0  # seconds that closing may take beyond the drain


def run(config: Config, load: Callable[[], Config]) -> int:
    """Run the daemon until SIGTERM or SIGINT. The exit code; ``ConfigError`` if it can't start.

    ``load`` reads the configuration anew, for SIGHUP.
    """
    config.require_backend()
    _configure_log(config)
    os.umask(0o027)
    favour_the_loop()
    raise_descriptor_limit()
    if not hasattr(http_parser, "HttpRequestParserC"):
        raise ConfigError("aiohttp was built without its C parser; install its binary wheel")
    faulthandler.enable()  # systemd's watchdog ends us with SIGABRT: say where we hung
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Daemon(config, load, os.environ).serve())
    except asyncio.CancelledError:
        log.warning("drain_given_up")
    except BaseExceptionGroup as group:
        for reason in leaves(group):
            known = isinstance(reason, BatchdError)
            log.critical(
                "batchd_died",
                extra={"reason": str(reason) if known else type(reason).__name__},
                exc_info=None if known else reason,
            )
    return FATAL


def _configure_log(config: Config) -> None:
    logs.configure(
        config.logging.level,
        config.logging.format,
        sys.stderr,
        journal_stream=os.environ.get("JOURNAL_STREAM"),
    )


class _Daemon:
    """One life of the daemon."""

    def __init__(
        self, config: Config, load: Callable[[], Config], environment: Mapping[str, str]
    ) -> None:
        self._config = config
        self._load = load
        self._environment = environment
        self._notifier = Notifier(environment.get("NOTIFY_SOCKET"))
        self._spool = Spool(config.storage.directory, Disk())
        self._metrics = Metrics()
        self._damage = Damage(self._metrics)
        self._room = Room(
            self._spool.disk,
            self._spool.directory,
            reserve=config.storage.reserve,
            ballast=config.storage.ballast,
        )
        self._stop = asyncio.Event()
        self._engine_bells = EngineBells()
        self._sweeper_bell, self._inbox_bell = Bell(), Bell()
        self._reload_bell = Bell()
        self._bells = Bells([self._engine_bells, self._sweeper_bell, self._inbox_bell])

    async def serve(self) -> int:
        """Open, run, drain, close."""
        config = self._config
        # Validations, reads, uploads and downloads must not wait for each other's threads.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        keys = Keys.read(config.auth.keys_file)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(handle_signals(self._stop, self._reload_bell.ring))
            self._spool.prepare()
            stack.enter_context(self._spool.locked())
            self._room.prepare()
            database = await stack.enter_async_context(
                Database.opened(self._spool.database, self._database_failed, self._room.make_room)
            )
            writer = await stack.enter_async_context(
                Writer(self._spool.disk, self._room, self._metrics, self._ledger_failed).running()
            )
            local = await self._local_server(stack)
            pool = await stack.enter_async_context(await self._pool(database, local))
            files, batches = self._use_cases(database)
            engine = Engine(
                config,
                self._engine_bells,
                files=files,
                batches=batches,
                spool=self._spool,
                room=self._room,
                writer=writer,
                pool=pool,
                metrics=self._metrics,
                damage=self._damage,
                now=time.time,
                draw=random.random,
            )
            loops = Loops(config, files, batches, now=time.time)
            others: list[Loop] = [
                loops.sweeper(self._spool, self._sweeper_bell).run,
                self._room.watch,
                FoundLimits(database, pool.found_limits, time.time).run,
                self._reloader(pool, keys).run,
            ]
            if local is not None:
                others.append(local.supervise)
            if config.inbox.directory is not None:
                inbox = await loops.inbox(config.inbox.directory, database, self._inbox_bell)
                others.append(inbox.run)
            app = make_app(
                config,
                files,
                batches,
                pool,
                keys,
                secrets.token_bytes,
                room=self._room,
                metrics=self._metrics,
            )
            scrubber = loops.scrubber(self._spool, self._damage)
            await self._run(engine, others, app, scrubber.run)
        log.info("batchd_stopped")
        return 0

    async def _run(
        self, engine: Engine, others: Iterable[Loop], app: web.Application, scrub: Loop
    ) -> None:
        """Recover, then run every loop and serve until told to stop."""
        self._notifier.status("reading the ledgers of unfinished batches")
        self._notifier.extend_timeout(int(_RECOVERING * 1_000_000))
        await engine.recover()
        server = self._config.server
        async with asyncio.TaskGroup() as loops:
            engine.start(loops, self._stop)
            for loop in others:
                loops.create_task(loop(self._stop))
            async with listening(app, server, connections=connection_limit(most_in_flight())):
                listen = ", ".join(server.listen)
                log.info("batchd_started", extra={"listen": listen, "sqlite": SQLITE_VERSION})
                self._notifier.ready()
                self._notifier.status(f"serving on {listen}")
                loops.create_task(scrub(self._stop), name="scrubber")
                await self._until_stopped()
            self._notifier.stopping()
            self._notifier.extend_timeout(int((server.drain + _CLOSING) * 1_000_000))
            log.info("draining", extra={"seconds": server.drain})
            self._bells.ring()
            self._reload_bell.ring()

    async def _until_stopped(self) -> None:
        interval = watchdog_interval(self._environment)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._stop.wait()
            self._notifier.watchdog()

    async def _local_server(self, stack: contextlib.AsyncExitStack) -> LocalServer | None:
        if not self._config.local:
            return None
        return await stack.enter_async_context(
            local_server(self._spool.directory, slots=_LOCAL_SLOTS)
        )

    async def _pool(
        self, database: Database, local: LocalServer | None
    ) -> contextlib.AbstractAsyncContextManager[Pool]:
        def open_caller(
            config: BackendConfig,
        ) -> contextlib.AbstractAsyncContextManager[HttpCaller]:
            return opened_caller(
                config, self._environment, now=time.time, new_request_id=_new_request_id
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

    def _reloader(self, pool: Pool, keys: Keys) -> Reloader:
        return Reloader(
            self._config,
            self._load,
            bell=self._reload_bell,
            pool=pool,
            keys=keys,
            configure_log=_configure_log,
            say=self._notifier.status,
        )

    def _use_cases(self, database: Database) -> tuple[Files, Batches]:
        config = self._config
        files = Files(
            database,
            self._spool,
            max_size=config.server.max_upload_size,
            room=self._room,
            damage=self._damage,
            lifetime=int(config.retention.input_files),
            now=time.time,
            draw=secrets.token_bytes,
        )
        batches = Batches(
            database,
            files,
            room=self._room,
            now=time.time,
            draw=secrets.token_bytes,
            ring=self._bells.ring,
        )
        return files, batches

    def _ledger_failed(self, reason: str) -> None:
        """The page cache may lie now: leave word for the next start, and go at once."""
        with contextlib.suppress(OSError):
            self._spool.distrust()
        die(reason)

    def _database_failed(self, reason: str) -> None:
        die(reason)


def _new_request_id() -> str:
    return ids.request_id(secrets.token_bytes(ids.REQUEST_ID_BYTES))
