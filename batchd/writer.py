"""The one thread that writes all ledgers, and its group commit.

The loop queues (file, bytes, receipt); the thread takes whatever is queued, appends it, syncs each
touched file, and hands the whole group of receipts back to the loop at once. A receipt means: on
disk. There is no timer; what arrives during one sync is the next group.

A full disk is a pause: the file is cut back to its last good end before anything else is appended,
the bytes stay in memory, and the group is tried again when there is room (``room`` says when). Any
other error is the end: an unsynced page may be marked clean, so nothing is retried and ``on_fatal``
ends the process.
"""

import asyncio
import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from batchd.disk import Disk, is_full
from batchd.metrics import Metrics
from batchd.room import Room

log = logging.getLogger(__name__)

_OPEN_FILES = 64
_SYNC_THREADS = 4
_FULL_RETRY = 1.0


class LedgerFile:
    """One growing file. ``end`` is the offset up to which it is good; the writer's to change.

    One that is not ``lasting`` is never synced, and what finds no room in it is dropped.
    """

    def __init__(self, path: Path, end: int, *, lasting: bool = True) -> None:
        self.path = path
        self.end = end
        self.lasting = lasting


Receipt = Callable[[], None]
Entry = tuple[LedgerFile, bytes, Receipt]


class DiskFull(Exception):
    """No room for this group; the file was cut back to its last good end."""


class Appender:
    """Appends groups durably, keeping the files used last open. Blocks; one thread uses it.

    Several files of a group are synced by ``sync_threads`` at once.
    """

    def __init__(self, disk: Disk, sync_threads: int = _SYNC_THREADS) -> None:
        self._disk = disk
        self._sync_threads = sync_threads
        self._open: OrderedDict[LedgerFile, int] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None

    def append(self, file: LedgerFile, data: bytes) -> int:
        """Write ``data`` behind the file's end and return the descriptor, not yet synced."""
        descriptor = None
        try:
            descriptor = self._descriptor(file)
            self._disk.append(descriptor, data)
        except OSError as error:
            if not is_full(error):
                raise
            if descriptor is not None:
                self._disk.truncate(descriptor, file.end)
            raise DiskFull from error
        return descriptor

    def commit(self, group: Sequence[Entry]) -> None:
        """Make a group durable; then every file's ``end`` is behind it.

        ``DiskFull``: nothing of the group counts, and every touched file is back at its end.
        """
        pieces = _pieces(group)
        written: dict[LedgerFile, tuple[int, int]] = {}
        try:
            for file, data in pieces.items():
                if file.lasting:
                    written[file] = (self.append(file, data), len(data))
        except DiskFull:
            for file, (descriptor, _) in written.items():
                self._disk.truncate(descriptor, file.end)
            raise
        self._sync([descriptor for descriptor, _ in written.values()])
        for file, (_, size) in written.items():
            file.end += size
        # After the sync: some filesystems would make it wait for these bytes, too.
        for file, data in pieces.items():
            if not file.lasting:
                self._append_passing(file, data)
        self._evict()

    def _append_passing(self, file: LedgerFile, data: bytes) -> None:
        """Write without a sync; what goes wrong is no ledger's trouble, and all is dropped."""
        try:
            self.append(file, data)
        except DiskFull:
            return
        except OSError:
            with contextlib.suppress(OSError):
                self._disk.truncate(self._descriptor(file), file.end)
            return
        file.end += len(data)

    def _sync(self, descriptors: list[int]) -> None:
        if len(descriptors) <= 1 or self._sync_threads == 1:
            for descriptor in descriptors:
                self._disk.sync(descriptor)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._sync_threads, thread_name_prefix="ledger-sync")
        for _ in self._pool.map(self._disk.sync, descriptors):
            pass

    def _descriptor(self, file: LedgerFile) -> int:
        if file not in self._open:
            self._open[file] = self._disk.open_append(file.path)
        self._open.move_to_end(file)
        return self._open[file]

    def _evict(self) -> None:
        # Only after a sync: a descriptor closed before could hide its write error.
        while len(self._open) > _OPEN_FILES:
            _, descriptor = self._open.popitem(last=False)
            self._disk.close(descriptor)

    def forget(self, file: LedgerFile) -> None:
        descriptor = self._open.pop(file, None)
        if descriptor is not None:
            self._disk.close(descriptor)

    def close(self) -> None:
        for file in list(self._open):
            self.forget(file)
        if self._pool is not None:
            self._pool.shutdown()


def _pieces(group: Sequence[Entry]) -> dict[LedgerFile, bytes]:
    """What each file of a group gets."""
    pieces: dict[LedgerFile, list[bytes]] = {}
    for file, data, _ in group:
        pieces.setdefault(file, []).append(data)
    return {file: b"".join(parts) for file, parts in pieces.items()}


class Writer:
    """The thread around an ``Appender``. All methods are called on the loop."""

    def __init__(
        self, disk: Disk, room: Room, metrics: Metrics, on_fatal: Callable[[str], None]
    ) -> None:
        self._disk = disk
        self._room = room
        self._metrics = metrics
        self._on_fatal = on_fatal
        self._queue: list[Entry] = []
        self._closed_files: list[LedgerFile] = []
        self._more = threading.Condition()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_full(self) -> bool:
        """Whether the disk is full: results may wait in memory for room."""
        return self._room.is_full

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator["Writer"]:
        """The thread runs inside; leaving waits until all that was queued is on disk."""
        self._loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            with self._more:
                self._stopping = True
                self._more.notify()
            await asyncio.to_thread(thread.join)

    def submit(self, file: LedgerFile, data: bytes, receipt: Receipt) -> None:
        """Queue an append; ``receipt`` is called on the loop once it is on disk."""
        with self._more:
            self._queue.append((file, data, receipt))
            self._more.notify()

    def forget(self, file: LedgerFile) -> None:
        """Close a file that gets no more lines."""
        with self._more:
            self._closed_files.append(file)
            self._more.notify()

    async def append(self, file: LedgerFile, data: bytes) -> None:
        """Queue an append and wait until it is on disk."""
        done = asyncio.get_running_loop().create_future()

        def receipt() -> None:
            if not done.done():
                done.set_result(None)

        self.submit(file, data, receipt)
        await done

    def take(self, appender: Appender) -> list[Entry]:
        """What is queued; closes the files that get no more lines once nothing is."""
        group, self._queue = self._queue, []
        while not group and self._closed_files:
            appender.forget(self._closed_files.pop())
        return group

    def commit(self, appender: Appender, group: list[Entry]) -> bool:
        """Make a group durable and hand its receipts back; False if there is no room for it."""
        if not self._append(appender, group):
            self._room.note_full(kept=True)
            return False
        self._room.note_written()
        self._hand_back(group)
        return True

    def _append(self, appender: Appender, group: list[Entry]) -> bool:
        if not self._room.is_for_ledgers():
            return False
        try:
            with self._metrics.ledger_commits.time():
                appender.commit(group)
        except DiskFull:
            return False
        return True

    def has_room(self) -> bool:
        """Whether a group that there was no room for should be tried again."""
        return self._room.has_room()

    def give_up(self, error: Exception) -> None:
        """Nothing more can be written: end the process."""
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        self._call(lambda: self._on_fatal(f"a ledger could not be written: {reason}"))

    def _run(self) -> None:
        appender = Appender(self._disk)
        try:
            while group := self._wait_for_work(appender):
                while not self.commit(appender, group):
                    if not self._wait_for_room():
                        return
        except Exception as error:  # not only the disk's: nobody else would hear of it
            log.exception("ledger_write_failed")
            self.give_up(error)
        finally:
            appender.close()

    def _wait_for_work(self, appender: Appender) -> list[Entry]:
        """The next group; empty when the daemon stops."""
        with self._more:
            while not (group := self.take(appender)) and not self._stopping:
                self._more.wait()
            return group

    def _wait_for_room(self) -> bool:
        """Pause until there is room; False if the daemon stops first."""
        while True:
            with self._more:
                if self._stopping:
                    return False
                self._more.wait(_FULL_RETRY)
            if self.has_room():
                return True

    def _hand_back(self, group: list[Entry]) -> None:
        def deliver() -> None:
            try:
                for _, _, receipt in group:
                    receipt()
            except Exception:
                log.exception("receipt_failed")
                self._on_fatal("a durable result could not be counted")

        self._call(deliver)

    def _call(self, callback: Callable[[], None]) -> None:
        if self._loop is not None:
            # The loop may be gone when the process ends during a sync.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback)
