"""Results of a batch while it runs: each line once, through restarts of the daemon, until it ends.

A cursor says how far the lines were written; it moves only when all of an answer has been written.
An answer that breaks off is asked for again from the same cursor, and what was written already is
left out. Ctrl-C waits for the end of the answer that is being written, so that the cursor it leaves
behind is exact; a second Ctrl-C does not wait.
"""

import os
import signal
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, Self

from batchd.cli.client import Client
from batchd.cli.errors import CommandFailed
from batchd.cli.progress import Display
from batchd.cli.waiting import Clock, patiently

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
_GROWTH = 1.5


class Out(Protocol):
    """A file to write to; one without a buffer may take a part only."""

    def write(self, data: bytes, /) -> int | None: ...

    def flush(self) -> None: ...

    def fileno(self) -> int: ...


class Sink:
    """Where lines with a status go. ``is_ours``: a file that nobody else writes to."""

    def __init__(self, status: str, out: Out, *, is_ours: bool) -> None:
        self.status = status
        self._out = out
        self.lines = 0
        self._is_ours = is_ours
        self._kept = 0

    def mark(self) -> None:
        """What was written until here stays."""
        if self._is_ours:
            self._kept = os.fstat(self._out.fileno()).st_size

    def take_back(self) -> bool:
        """Remove what was written since; False where that cannot be."""
        if self._is_ours:
            os.ftruncate(self._out.fileno(), self._kept)
        return self._is_ours

    def write(self, data: bytes) -> None:
        count = data.count(b"\n")
        while data:
            data = data[self._out.write(data) or 0 :]
        self.lines += count

    def flush(self) -> None:
        self._out.flush()


class Follower:
    """How far the results of one batch were written."""

    def __init__(
        self, client: Client, batch_id: str, *, after: str | None, with_input: bool
    ) -> None:
        self.cursor = after
        self.has_more = True
        self.is_exact = True
        self._sinks: Sequence[Sink] = ()
        self._writing: Sink | None = None  # some of an answer is there, but not all
        self._client = client
        self._batch_id = batch_id
        self._with_input = with_input

    def follow(
        self, sinks: Sequence[Sink], display: Display, *, shows: bool, clock: Clock = time
    ) -> None:
        """Write results as they come, until the batch has ended.

        ``shows``: the display has the batch on it. What the cursor does not know of is removed
        when this ends early; if it cannot be, the cursor is not ``is_exact``.
        """
        self._sinks = sinks
        try:
            with _Interrupts() as interrupts:
                self._follow(display, interrupts, clock, shows=shows)
        except BaseException:
            if self._writing is not None:
                self.is_exact = self._writing.take_back()
            raise

    def _follow(
        self, display: Display, interrupts: "_Interrupts", clock: Clock, *, shows: bool
    ) -> None:
        pause = _FIRST_PAUSE
        while self.has_more:
            before = self.lines
            self._write(display, interrupts)
            if not self.has_more:
                return
            if shows:
                batch = patiently(lambda: self._client.batch(self._batch_id), display)
                display.update(batch, clock.monotonic())
            pause = _FIRST_PAUSE if self.lines > before else min(pause * _GROWTH, _LONGEST_PAUSE)
            clock.sleep(pause)

    @property
    def lines(self) -> int:
        return sum(sink.lines for sink in self._sinks)

    def _write(self, display: Display, interrupts: "_Interrupts") -> None:
        """Write what there is now."""
        has_more = False
        for sink in self._sinks:
            sink.mark()
            copy = _Copy(sink)
            more = patiently(lambda to=copy: self._copy(to, interrupts), display)
            has_more = has_more or more
            interrupts.check()
        self.has_more = has_more

    def _copy(self, copy: "_Copy", interrupts: "_Interrupts") -> bool:
        """Write one answer, and move the cursor: Ctrl-C comes before both or after both."""
        with self._client.results(
            self._batch_id, copy.out.status, after=self.cursor, with_input=self._with_input
        ) as found:
            with interrupts.held():
                self._writing = copy.out
                copy.write(found.pieces)
                self.cursor, self._writing = found.cursor, None
            return found.has_more


class _Copy:
    """One answer on its way to a file, over as many attempts as it takes."""

    def __init__(self, out: Sink) -> None:
        self.out = out
        self._written = 0

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write the lines that were not written yet."""
        left_out = self._written
        for block in whole_lines(pieces):
            new = block[left_out:]
            left_out = max(0, left_out - len(block))
            if new:
                self.out.write(new)
                self._written += len(new)
        self.out.flush()


class _Interrupts:
    """Ctrl-C, which may have to wait for a moment."""

    def __init__(self) -> None:
        self._holds = self._heard = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def held(self) -> Generator[None]:
        self._holds = True
        try:
            yield
        except CommandFailed:  # broken off: what was waited for does not come
            self.check()
            raise
        finally:
            self._holds = False

    def check(self) -> None:
        if self._heard:
            raise KeyboardInterrupt

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self._heard or not self._holds:
            raise KeyboardInterrupt
        self._heard = True


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks that end with a line."""
    rest = bytearray()
    for piece in pieces:
        head, newline, tail = piece.rpartition(b"\n")
        if newline:
            yield b"%b%b\n" % (rest, head)
            rest.clear()
        rest += tail
    if rest:
        yield bytes(rest)
