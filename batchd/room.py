"""Room on the disk of the storage directory: what stays free, and what is done when it runs out.

A full disk is a pause. It begins when a write is refused, or before that when less than half of the
reserve is free, and ends when more than the whole reserve is. Meanwhile nothing is sent and nothing
new is taken in; what is in flight may still land.

The ballast is a file of zeros that is given up when SQLite finds no room, so that a cancellation or
a batch's last step can be written down all the same. Until it is back, result files do not grow:
the room it freed is the database's. That it was given up is known over restarts by an empty file
beside it, which counts only while the ballast is not there.

Knows the free bytes of one file system; neither who writes to it nor what. The writer's thread, the
threads of ``Disk.run`` and the loop use one object: only ``is_full`` may be asked on the loop.
"""

import asyncio
import contextlib
import errno
import logging
import os
import threading
from pathlib import Path

from batchd.disk import Disk, is_full
from batchd.errors import NoRoom

log = logging.getLogger(__name__)

_LOOK_EVERY = 2.0
# SQLite cannot even open a database without room for the index of its WAL (32 KiB).
_TO_OPEN = 1 << 18


class Room:
    """The room for everything under one directory."""

    def __init__(self, disk: Disk, directory: Path, *, reserve: int, ballast: int = 0) -> None:
        self._disk = disk
        self._directory = directory
        self._reserve = reserve
        self._size = ballast
        self._ballast = directory / "ballast"
        self._fresh = directory / "ballast.new"
        self._given_up_mark = directory / "ballast.given-up"
        self._lock = threading.Lock()
        self._full = threading.Event()
        self._kept = False
        self._missing = ballast  # bytes of ballast that are not there
        self._given_up = False
        self._complained = False

    @property
    def is_full(self) -> bool:
        """Whether everything that needs room pauses."""
        return self._full.is_set()

    def prepare(self) -> None:
        """Before anything is opened: see what there is, and make room for the database. Blocks."""
        with self._lock:
            self._disk.remove(self._fresh)
            if self._disk.size(self._ballast) == self._size:
                self._missing = 0
            else:
                self._disk.remove(self._ballast)
            if self._missing:
                self._given_up = self._disk.size(self._given_up_mark) is not None
                if not self.is_for_ledgers():
                    self._note_full()
            else:
                self._disk.remove(self._given_up_mark)
        if self.free() < _TO_OPEN:
            self.give_up_ballast()
        self.look()

    async def watch(self, stop: asyncio.Event) -> None:
        """Look at the disk every few seconds until ``stop``."""
        while not stop.is_set():
            await self._disk.run(self.look)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await stop.wait()

    def look(self) -> None:
        """Begin or end the pause as the disk is now; with room, make a missing ballast. Blocks."""
        with self._lock:
            free = self.free()
            if free > self._reserve + self._missing:
                self._restore_ballast()
                if not self._kept:
                    self._note_room()
            elif free < self._reserve // 2:
                self._note_full()

    def free(self) -> int:
        """Bytes that may still be written. Blocks."""
        return self._disk.free(self._directory)

    def has_room(self) -> bool:
        """Whether there is more than the reserve and a missing ballast take. Blocks."""
        return self.free() > self._reserve + self._missing

    def is_for_ledgers(self) -> bool:
        """Whether result files may grow: not in the room that the ballast freed. Blocks."""
        return not self._given_up or self.has_room()

    def check(self, more: int = 0) -> None:
        """``NoRoom`` unless the reserve would stay free with ``more`` bytes written. Blocks."""
        if self.is_full or self.free() < self._reserve + more:
            raise NoRoom

    def check_at(self, place: Path, more: int) -> None:
        """As ``check``, of a directory that may be on another disk, where the same is to stay free
        (of a small one a tenth): ``OSError`` unless it would. Blocks."""
        if place.stat().st_dev == self._directory.stat().st_dev:
            self.check(more)
            return
        found = os.statvfs(place)
        reserve = min(self._reserve, found.f_blocks * found.f_frsize // 10)
        if found.f_bavail * found.f_frsize < reserve + more:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def note_full(self, *, kept: bool = False) -> None:
        """A write was refused. ``kept``: its bytes wait, and the pause lasts until they are there.

        Blocks.
        """
        with self._lock:
            self._kept = self._kept or kept
            self._note_full()

    def note_written(self) -> None:
        """Nothing is kept any longer. Blocks if something was."""
        if self._kept:
            self._kept = False
            self.look()

    async def make_room(self) -> bool:
        """As ``give_up_ballast``, off the loop."""
        return await self._disk.run(self.give_up_ballast)

    def give_up_ballast(self) -> bool:
        """Begin a pause, and free what the ballast holds; whether it held something. Blocks."""
        with self._lock:
            self._note_full()
            if self._missing or not self._size:
                return False
            try:
                # Before, so that no crash comes in between; where there is no room, after.
                is_marked = self._mark_given_up()
                self._disk.remove(self._ballast)
                # Some file systems give the blocks of a removed file out again only after this.
                self._disk.sync_directory(self._directory)
                if not is_marked:
                    self._mark_given_up()
            except OSError as error:
                self._complain("removed", error)
                return False
            self._missing, self._given_up = self._size, True
            return True

    def _mark_given_up(self) -> bool:
        try:
            self._disk.close(self._disk.open_append(self._given_up_mark))
        except OSError:
            return False
        return True

    def _restore_ballast(self) -> None:
        if not self._missing:
            return
        try:
            self._disk.remove(self._fresh)
            self._disk.allocate(self._fresh, self._size)
            self._disk.rename(self._fresh, self._ballast)
            self._disk.remove(self._given_up_mark)
        except OSError as error:
            if not is_full(error):
                self._complain("made", error)
            with contextlib.suppress(OSError):
                self._disk.remove(self._fresh)
            return
        self._missing, self._given_up, self._complained = 0, False, False

    def _complain(self, verb: str, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            log.warning("ballast_not_there", extra={"reason": f"not {verb}: {error.strerror}"})

    def _note_full(self) -> None:
        if not self._full.is_set():
            self._full.set()
            log.error("disk_full", extra={"directory": str(self._directory)})

    def _note_room(self) -> None:
        if self._full.is_set():
            self._full.clear()
            log.info("disk_has_room", extra={"directory": str(self._directory)})
