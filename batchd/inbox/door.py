"""The inbox as the daemon runs it: two loops, one that takes files and one that brings results.

Taking looks at the directory when the kernel tells of something, when a file may have settled, when
a delivery has made way for more of its user, and every ``rescan_every``; no more than half of the
time, though, is spent on looks. Bringing looks at the rows when a batch has changed, and every
second while there is a status to keep up to date; both are one loop, so that the last status is
never followed by an earlier one. If the directory is replaced while the daemon runs, the new one is
opened; the batches run on meanwhile.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from batchd.batches import Batches
from batchd.bell import Bell
from batchd.config import BatchesConfig, InboxConfig
from batchd.errors import ConfigError
from batchd.files import Files
from batchd.inbox.delivery import Delivery
from batchd.inbox.directories import Directories
from batchd.inbox.intake import Intake
from batchd.inbox.settling import Settling
from batchd.inbox.shares import Shares
from batchd.inbox.statuses import Statuses
from batchd.inbox.submitter import Submitter
from batchd.inbox.watch import listen, watching
from batchd.store.database import Database

log = logging.getLogger(__name__)

_SHORTEST = 0.02


class Inbox:
    """The door for dropped files.

    ``bell`` is rung when a batch has changed; ``owner_of`` says whose the files of a uid are.
    """

    def __init__(  # noqa: PLR0913 - its parts, its rules, and time from outside
        self,
        path: Path,
        config: InboxConfig,
        rules: BatchesConfig,
        *,
        database: Database,
        files: Files,
        batches: Batches,
        bell: Bell,
        owner_of: Callable[[int], str],
        now: Callable[[], float],
    ) -> None:
        self._path = path
        self._config = config
        self._database = database
        self._files = files
        self._batches = batches
        self._arrived = Bell()
        self._ended = bell
        self._settling = Settling(config.settle, config.rescan_every)
        shares = Shares(config.max_files_per_user, config.max_bytes_per_user)
        submitter = Submitter(
            database,
            files,
            batches,
            rules,
            settling=self._settling,
            shares=shares,
            owner_of=owner_of,
        )
        self._intake = Intake(database, submitter, self._settling, shares, now=now)
        self._delivery = Delivery(database, files, batches, now=now, ring=self._arrived.ring)

    async def check(self) -> None:
        """``ConfigError`` if the directories cannot be used; makes them if they are missing.

        From then on results that are to come here are kept for that.
        """
        async with _opened(self._path):
            self._files.keep_undelivered()

    async def run(self, stop: asyncio.Event) -> None:
        """Take and deliver until ``stop``."""
        while not stop.is_set():
            try:
                async with _opened(self._path) as directories:
                    await self._run_on(directories, stop)
            except ConfigError as error:
                log.error("inbox_lost", extra={"reason": str(error)})  # noqa: TRY400 - the sentence says all
                await _pause(stop, self._config.rescan_every)

    async def _run_on(self, directories: Directories, stop: asyncio.Event) -> None:
        """Work with these directories until ``stop``, or until they are no longer the inbox."""
        if not directories.is_guarded():
            log.warning("inbox_not_sticky", extra={"directory": str(self._path)})
        gone = asyncio.Event()
        with watching(directories.inbox) as inotify:
            async with asyncio.TaskGroup() as loops:
                told = listen(inotify, self._settling.tell, self._arrived.ring)
                helpers = [
                    loops.create_task(told, name="inbox-listener"),
                    loops.create_task(self._ring_at(stop), name="inbox-stop"),
                ]
                loops.create_task(self._deliver(directories, stop, gone), name="inbox-delivery")
                await self._take(directories, stop)
                gone.set()
                self._ended.ring()
                for task in helpers:
                    task.cancel()

    async def _ring_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._arrived.ring()

    async def _take(self, directories: Directories, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not stop.is_set() and await asyncio.to_thread(directories.is_current):
            rest = await self._intake.look(directories, stop)
            rested_at = loop.time() + max(rest, _SHORTEST)
            next_due = self._settling.next_due() - loop.time()
            wait = min(self._config.rescan_every, max(next_due, _SHORTEST))
            await self._arrived.wait(at_most=wait)
            # Whoever makes and removes names all the time does not have looks all the time.
            await _pause(stop, rested_at - loop.time())

    async def _deliver(
        self, directories: Directories, stop: asyncio.Event, gone: asyncio.Event
    ) -> None:
        statuses = Statuses(self._database, self._batches)
        while not (stop.is_set() or gone.is_set()):
            again = await self._delivery.deliver_all(directories)
            more_to_tell = await statuses.refresh(directories)
            wait = min(self._config.rescan_every, again, more_to_tell)
            await self._ended.wait(at_most=wait)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Let these seconds pass, unless ``stop`` comes first."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()


@contextlib.asynccontextmanager
async def _opened(path: Path) -> AsyncGenerator[Directories]:
    opening = contextlib.ExitStack()
    directories = await asyncio.to_thread(opening.enter_context, Directories.opened(path))
    try:
        yield directories
    finally:
        await asyncio.to_thread(opening.close)
