"""The result files of an unfinished batch, while they grow: what became of each line.

The output and the error file are the log. A line is *done* (in the bitmap, the counts and the
usage) only when the writer says that it is on disk. Which lines are done, and everything counted,
can be read back from the two files at any time:

    state on disk                                after a crash
    no file                                      no line done; the file is made at the first append
    whole lines, each with its checksum          all done
    … and a torn tail above the known end        the tail is cut, silently: nobody promised it
    … and a hole above the known end with good   the same power cut, which writes sectors in any
      lines behind it                            order: what verifies is copied, silently
    a bad line below the known end, or a         damage: the file is kept beside as *.damaged, every
      sector that cannot be read                 line that verifies is copied, the rest run again
    fewer good bytes than the known end, or      damage: the lines that are gone run again
      no file where one was known
    good lines, or a name, not synced (kill -9)  synced before they are believed

The known end is the row's: synced before it was written there. ``recover`` is that reading; it is
idempotent. When a sync has failed before, the page cache is not believed at all: what verifies is
copied to a new file.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from batchd.disk import Disk
from batchd.jsonl import line_groups
from batchd.metrics import Metrics
from batchd.model import NO_USAGE, Counts, LineFile, Usage
from batchd.sectors import PastBadSectors
from batchd.wire.lines import check_result_lines, is_never_run
from batchd.wire.usage import summed_usage
from batchd.writer import LedgerFile, Writer

_COPY_GROUP = 1 << 20
_FULL_BYTE = 0xFF
_NOT_FULL = re.compile(rb"[^\xff]")


class Bitmap:
    """One bit a line."""

    def __init__(self, size: int) -> None:
        self._bits = bytearray((size + 7) // 8)
        self.size = size
        self.count = 0

    def __contains__(self, index: int) -> bool:
        return bool(self._bits[index >> 3] & (1 << (index & 7)))

    def next_missing(self, start: int) -> int | None:
        """The first index from ``start`` on whose bit is not set; skips full bytes at C speed."""
        byte = start >> 3
        if byte >= len(self._bits):
            return None
        if (self._bits[byte] | ((1 << (start & 7)) - 1)) == _FULL_BYTE:
            found = _NOT_FULL.search(self._bits, byte + 1)
            if found is None:
                return None
            byte, start = found.start(), found.start() << 3
        free = ~(self._bits[byte] | ((1 << (start & 7)) - 1)) & _FULL_BYTE
        index = (byte << 3) + (free & -free).bit_length() - 1
        return index if index < self.size else None

    def add(self, index: int) -> bool:
        """Set a bit, and say whether it is new."""
        at, bit = index >> 3, 1 << (index & 7)
        if self._bits[at] & bit:
            return False
        self._bits[at] |= bit
        self.count += 1
        return True


class Ledger:
    """What became of each line of one batch. Lives on the loop; the writer does the writing."""

    def __init__(
        self,
        writer: Writer,
        files: dict[LineFile, LedgerFile],
        done: Bitmap,
        found: "Tally",
        metrics: Metrics,
    ) -> None:
        self._writer = writer
        self._files = files
        self._done = done
        self._tally = found
        self._metrics = metrics

    @property
    def total(self) -> int:
        return self._done.size

    @property
    def missing(self) -> int:
        """Lines without a durable result."""
        return self._done.size - self._done.count

    @property
    def counts(self) -> Counts:
        return Counts(self.total, self._tally.completed, self._tally.failed)

    @property
    def never_run(self) -> int:
        return self._tally.never_run

    @property
    def usage(self) -> Usage:
        return self._tally.usage

    def next_missing(self, start: int) -> int | None:
        """The first line from ``start`` on without a durable result."""
        return self._done.next_missing(start)

    def is_done(self, index: int) -> bool:
        """Whether a line has a durable result."""
        return index in self._done

    def end(self, which: LineFile) -> int:
        """The size of a result file, all of it durable."""
        return self._files[which].end

    def append(
        self, which: LineFile, index: int, line: bytes, usage: Usage, then: Callable[[], None]
    ) -> None:
        """Write down the result of a line that ran; ``then`` is called when it is durable."""

        def durable() -> None:
            if self._done.add(index):
                self._tally.count(which, usage)
                self._metrics.lines.labels(which.value).inc()
            then()

        self._writer.submit(self._files[which], line, durable)

    async def append_never_run(
        self, results: list[tuple[int, bytes]], *, failed: bool = False
    ) -> None:
        """Write down error lines for lines that were not executed, and wait until durable.

        Lines never run are in neither count; with ``failed`` they count as failed all the same.
        """
        await self._writer.append(
            self._files[LineFile.ERROR], b"".join(line for _, line in results)
        )
        for index, _ in results:
            if not self._done.add(index):
                continue
            self._metrics.lines.labels(LineFile.ERROR.value).inc()
            if failed:
                self._tally.count(LineFile.ERROR, NO_USAGE)
            else:
                self._tally.never_run += 1

    def close(self) -> None:
        for file in self._files.values():
            self._writer.forget(file)


class Tally:
    """What the done lines add up to."""

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0
        self.never_run = 0
        self.usage = NO_USAGE

    def count(self, which: LineFile, usage: Usage) -> None:
        if which is LineFile.OUTPUT:
            self.completed += 1
            if usage is not NO_USAGE:
                self.usage += usage
        else:
            self.failed += 1

    @property
    def lines(self) -> int:
        return self.completed + self.failed + self.never_run


class Recovered(msgspec.Struct, frozen=True):
    """One result file after recovery: ``end`` bytes of it are good and synced.

    ``bad_at``: of a damaged one, the offset from which on it was not as it was known.
    """

    end: int
    damaged: bool
    bad_at: int | None = None


def recover(  # noqa: PLR0913 - what identifies a ledger file, and what to add its lines to
    disk: Disk,
    path: Path,
    which: LineFile,
    *,
    tag: bytes,
    known_end: int,
    distrust: bool,
    done: Bitmap,
    tally: Tally,
) -> Recovered:
    """Read one result file back, mend it, and add its lines to ``done`` and ``tally``. Blocks.

    ``known_end``: the offset up to which the file was once known to be good. ``distrust``: a sync
    has failed since the last start.
    """
    size = disk.size(path)
    if size is None:
        return Recovered(0, damaged=known_end > 0, bad_at=0 if known_end else None)
    good_spans = _scan(disk, path, which, tag, done, tally)
    end = good_spans[0][1] if good_spans and good_spans[0][0] == 0 else 0
    damaged = end < known_end
    has_good_behind = bool(good_spans) and good_spans[-1][1] > end
    # A file that is only too short has no bytes that are worth keeping twice.
    keep = damaged and end < size
    if keep or has_good_behind or distrust:
        kept = _salvage(disk, path, good_spans, keep=keep)
        return Recovered(kept, damaged, end if damaged else None)
    descriptor = disk.open_append(path)
    try:
        if end < size:
            disk.truncate(descriptor, end)
        # What a killed process left may be in the page cache only: bytes, and the name.
        disk.sync(descriptor)
        disk.sync_directory(path.parent)
    finally:
        disk.close(descriptor)
    return Recovered(end, damaged, end if damaged else None)


def _scan(  # noqa: PLR0913, PLR0917 - as recover
    disk: Disk, path: Path, which: LineFile, tag: bytes, done: Bitmap, tally: Tally
) -> list[tuple[int, int]]:
    """Accept every line that verifies; the spans of bytes they stand in."""
    spans: list[tuple[int, int]] = []
    with disk.open_read(path) as file:
        whole = PastBadSectors(file, disk.size(path) or 0)
        for offset, group in line_groups(whole, without_zeros=True):
            accepted: list[bytes] = []
            end = offset
            for line, index in zip(group, check_result_lines(tag, group), strict=True):
                start, end = end, end + len(line)
                if index is None or index >= done.size or not done.add(index):
                    continue
                accepted.append(line)
                if spans and spans[-1][1] == start:
                    spans[-1] = (spans[-1][0], end)
                else:
                    spans.append((start, end))
            _count(which, accepted, tally)
    return spans


def _count(which: LineFile, lines: Sequence[bytes], tally: Tally) -> None:
    if which is LineFile.OUTPUT:
        tally.completed += len(lines)
        tally.usage += summed_usage(lines)
    else:
        never_run = sum(map(is_never_run, lines))
        tally.never_run += never_run
        tally.failed += len(lines) - never_run


def _salvage(disk: Disk, path: Path, spans: list[tuple[int, int]], *, keep: bool) -> int:
    """Copy what verifies to a new file that takes the name; the old stays as ``*.damaged``."""
    fresh = path.with_name(path.name + ".salvage")
    disk.remove(fresh)
    descriptor = disk.open_append(fresh)
    size = 0
    try:
        with disk.open_read(path) as old:
            for start, end in spans:
                old.seek(start)
                left = end - start
                while left:
                    data = old.read(min(_COPY_GROUP, left))
                    disk.append(descriptor, data)
                    left -= len(data)
                size += end - start
        disk.sync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            disk.remove(fresh)  # or it would take the room that the next try needs
        raise
    finally:
        disk.close(descriptor)
    if keep:
        # A second name, not a new one: killed before the rename, the next start finds all of it.
        disk.link_or_copy(path, path.with_name(path.name + ".damaged"))
    disk.rename(fresh, path)
    return size
