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
from collections.abc import Mapping

import uvloop
from aiohttp import http_parser

from batchd import ids, logs
from batchd.api.app import make_app
from batchd.api.auth import Keys
from batchd.api.listen import listening
from batchd.backends.backend import Backend, opened_backend
from batchd.backends.local import LocalServer, local_server
from batchd.batches import Batches
from batchd.bell import Bell, Bells
from batchd.config import BackendConfig, Config
from batchd.disk import Disk
from batchd.engine.finalizer import Finalizer
from batchd.engine.keeper import Keeper
from batchd.engine.recovery import Recovery
from batchd.engine.runner import Runner
from batchd.engine.runs import Runs
from batchd.engine.validator import Validator
from batchd.errors import BatchdError, ConfigError
from batchd.files import Files
from batchd.inbox import Inbox
from batchd.process import (
    FATAL,
    die,
    leaves,
    raise_descriptor_limit,
    stop_on_signals,
)
from batchd.retry import Policy
from batchd.spool import Spool
from batchd.store.database import SQLITE_VERSION, Database
from batchd.sweeper import Sweeper
from batchd.systemd import Notifier, watchdog_interval
from batchd.writer import Writer

log = logging.getLogger(__name__)

# Threads that work through a file must not hold the loop up for Python's default of 5 ms a turn.
_SWITCH_INTERVAL = 0.0005
_LOCAL_SLOTS = 4
_CLOSING = 15.0  # seconds that closing may take beyond the drain


def run(config: Config) -> int:
    """Run the daemon until SIGTERM or SIGINT. The exit code; ``ConfigError`` if it can't start."""
    config.require_backend()
    logs.configure(
        config.logging.level,
        config.logging.format,
        sys.stderr,
        journal_stream=os.environ.get("JOURNAL_STREAM"),
    )
    os.umask(0o027)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    raise_descriptor_limit()
    if not hasattr(http_parser, "HttpRequestParserC"):
        raise ConfigError("aiohttp was built without its C parser; install its binary wheel")
    faulthandler.enable()  # systemd's watchdog ends us with SIGABRT: say where we hung
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_Daemon(config, os.environ).serve())
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


class _Daemon:
    """One life of the daemon."""

    def __init__(self, config: Config, environment: Mapping[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._notifier = Notifier(environment.get("NOTIFY_SOCKET"))
        self._spool = Spool(config.storage.directory, Disk())
        self._stop = asyncio.Event()
        self._bells = {name: Bell() for name in ("validator", "keeper", "finalizer", "sweeper")}

    async def serve(self) -> int:
        """Open, run, drain, close."""
        config = self._config
        keys = Keys.read(config.auth.keys_file)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(stop_on_signals(self._stop))
            self._spool.prepare()
            stack.enter_context(self._spool.locked())
            database = await stack.enter_async_context(
                Database.opened(self._spool.database, self._database_failed)
            )
            writer = await stack.enter_async_context(
                Writer(
                    self._spool.disk,
                    self._spool.directory,
                    config.storage.reserve,
                    self._ledger_failed,
                ).running()
            )
            local = await self._local_server(stack)
            backend = await stack.enter_async_context(self._backend(local))
            files, batches = self._use_cases(database, writer)
            await self._run(files, batches, backend, writer, local, keys)
        log.info("batchd_stopped")
        return 0

    async def _run(  # noqa: PLR0913, PLR0917 - the parts of the daemon
        self,
        files: Files,
        batches: Batches,
        backend: Backend,
        writer: Writer,
        local: LocalServer | None,
        keys: Keys,
    ) -> None:
        config, stop, bells = self._config, self._stop, self._bells
        runs = Runs(batches.live)
        recovery = Recovery(self._spool, batches, runs, writer)
        self._notifier.status("reading the ledgers of unfinished batches")
        await recovery.recover_all()
        runner = self._runner(runs, backend, writer)
        keeper = Keeper(
            batches,
            runs,
            recovery,
            runner,
            bell=bells["keeper"],
            finalizer_bell=bells["finalizer"],
            grace=config.batches.finish_grace,
        )
        validator = Validator(
            batches, files, self._spool, backend, config.batches, bells["validator"]
        )
        finalizer = Finalizer(batches, runs, self._spool, bells["finalizer"])
        app = make_app(config, files, batches, backend, keys, secrets.token_bytes)
        async with asyncio.TaskGroup() as loops:
            loops.create_task(validator.run(stop), name="validator")
            loops.create_task(runner.run(stop), name="runner")
            loops.create_task(keeper.run(stop), name="keeper")
            loops.create_task(finalizer.run(stop), name="finalizer")
            loops.create_task(self._sweeper(batches, files).run(stop), name="sweeper")
            if local is not None:
                loops.create_task(local.supervise(stop), name="local-server")
            if config.inbox.directory is not None:
                inbox = Inbox(config.inbox, config.batches, files, batches, now=time.time)
                loops.create_task(inbox.run(stop), name="inbox")
            async with listening(app, config.server):
                listen = ", ".join(config.server.listen)
                log.info("batchd_started", extra={"listen": listen, "sqlite": SQLITE_VERSION})
                self._notifier.ready()
                self._notifier.status(f"serving on {listen}")
                await self._until_stopped()
            self._notifier.stopping()
            self._notifier.extend_timeout(int((config.server.drain + _CLOSING) * 1_000_000))
            log.info("draining", extra={"seconds": config.server.drain})
            Bells(list(bells.values())).ring()

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

    def _backend(
        self, local: LocalServer | None
    ) -> contextlib.AbstractAsyncContextManager[Backend]:
        if local is not None:
            chosen = BackendConfig(
                name="local", base_url=local.base_url, max_in_flight=2 * _LOCAL_SLOTS
            )
        else:
            chosen = self._config.backends[0]
        return opened_backend(
            chosen,
            self._environment,
            now=time.time,
            monotonic=asyncio.get_running_loop().time,
            new_request_id=lambda: ids.request_id(secrets.token_bytes(ids.REQUEST_ID_BYTES)),
        )

    def _use_cases(self, database: Database, writer: Writer) -> tuple[Files, Batches]:
        config = self._config
        files = Files(
            database,
            self._spool,
            max_size=config.server.max_upload_size,
            reserve=config.storage.reserve,
            lifetime=int(config.retention.input_files),
            now=time.time,
            draw=secrets.token_bytes,
        )
        batches = Batches(
            database,
            files,
            has_room=lambda: not writer.is_full,
            now=time.time,
            draw=secrets.token_bytes,
            ring=Bells(list(self._bells.values())).ring,
        )
        return files, batches

    def _runner(self, runs: Runs, backend: Backend, writer: Writer) -> Runner:
        retries = self._config.retries
        return Runner(
            runs,
            backend,
            writer,
            self._spool.disk,
            Policy(
                retries.fault_limit,
                retries.first_delay,
                retries.max_delay,
                retries.refused_pause,
            ),
            memory=self._config.storage.memory,
            drain=self._config.server.drain,
            draw=random.random,
            drained=self._bells["keeper"].ring,
        )

    def _sweeper(self, batches: Batches, files: Files) -> Sweeper:
        retention = self._config.retention
        return Sweeper(
            batches,
            files,
            self._spool,
            self._bells["sweeper"],
            sweep_every=retention.sweep_every,
            orphan_age=retention.orphan_age,
            now=time.time,
        )

    def _ledger_failed(self, reason: str) -> None:
        """The page cache may lie now: leave word for the next start, and go at once."""
        with contextlib.suppress(OSError):
            self._spool.sync_failed.touch()
            self._spool.disk.sync_directory(self._spool.directory)
        die(reason)

    def _database_failed(self, reason: str) -> None:
        die(reason)
