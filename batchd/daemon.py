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
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import uvloop
from aiohttp import http_parser, web

from batchd import logs
from batchd.api.app import make_app
from batchd.api.auth import Keys
from batchd.api.listen import listening
from batchd.backends.pool import Pool
from batchd.bell import Bell
from batchd.config import Config
from batchd.core import Core, Loop
from batchd.engine.engine import Engine
from batchd.errors import BatchdError, ConfigError
from batchd.loops import Loops
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
from batchd.store.database import SQLITE_VERSION
from batchd.systemd import Notifier, watchdog_interval

log = logging.getLogger(__name__)

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
        self._stop = asyncio.Event()
        self._sweeper_bell, self._inbox_bell = Bell(), Bell()
        self._reload_bell = Bell()
        self._core = Core(
            config, environment, bells=[self._sweeper_bell, self._inbox_bell], on_fatal=die
        )

    async def serve(self) -> int:
        """Open, run, drain, close."""
        config = self._config
        # Validations, reads, uploads and downloads must not wait for each other's threads.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        keys = Keys.read(config.auth.keys_file, unix_owners=config.auth.unix_owners)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(handle_signals(self._stop, self._reload_bell.ring))
            core = self._core
            parts = await stack.enter_async_context(core.opened())
            use_cases, pool = parts.use_cases, parts.pool
            loops = Loops(config, use_cases.files, use_cases.batches, keys=keys, now=time.time)
            others: list[Loop] = [
                loops.sweeper(core.spool, self._sweeper_bell).run,
                *parts.loops,
                self._reloader(pool, keys).run,
            ]
            if config.inbox.directory is not None:
                inbox = await loops.inbox(config.inbox.directory, parts.database, self._inbox_bell)
                others.append(inbox.run)
            app = make_app(
                config,
                use_cases,
                pool,
                keys,
                secrets.token_bytes,
                room=core.room,
                metrics=core.metrics,
            )
            scrubber = loops.scrubber(core.spool, core.damage)
            await self._run(parts.engine, others, app, scrubber.run)
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
            self._core.bells.ring()
            self._reload_bell.ring()

    async def _until_stopped(self) -> None:
        interval = watchdog_interval(self._environment)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._stop.wait()
            self._notifier.watchdog()

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
