"""The inputs of running batches, open for reading: the ones used last, so that descriptors are few.

Used from threads, one at a time; a lock makes sure of it.
"""

import contextlib
import errno
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Protocol

import msgspec

from batchd.backends.lane import Slot
from batchd.engine.queue import LineQueue
from batchd.engine.runs import Run
from batchd.jsonl import IndexedLines
from batchd.model import RequestLine
from batchd.spool import Spool
from batchd.wire.lines import request_line

log = logging.getLogger(__name__)

_OPEN = 256


LOST_ERRORS = frozenset({errno.ENOENT, errno.EIO, errno.ESTALE})


class InputLost(Exception):
    """A line cannot be read any more. Other errors of the system pass, and are raised as such."""


class Pick(msgspec.Struct, frozen=True):
    """A line that was given a slot and is not read yet."""

    run: Run
    queue: LineQueue
    index: int
    slot: Slot


class Read(msgspec.Struct, frozen=True):
    """A picked line as read: ``line`` is None if the input has lost it."""

    pick: Pick
    line: RequestLine | None
    size: int


class Lines(Protocol):
    """An open input: ``IndexedLines``, or what a simulation has."""

    def length(self, index: int) -> int: ...
    def read(self, index: int) -> bytes: ...
    def close(self) -> None: ...


class Inputs:
    """Reads request lines by batch and index."""

    def __init__(
        self, spool: Spool, open_lines: Callable[[Path, Path], Lines] = IndexedLines
    ) -> None:
        self._spool = spool
        self._open_lines = open_lines
        self._open: OrderedDict[str, Lines] = OrderedDict()
        self._lock = threading.Lock()

    def length(self, batch_id: str, index: int) -> int:
        """The size of a line. ``InputLost``, or an ``OSError`` that may pass."""
        with self._lock, _lost_or_passing():
            return self._lines(batch_id).length(index)

    def read(self, batch_id: str, index: int) -> bytes:
        """A line's bytes. ``InputLost``, or an ``OSError`` that may pass."""
        with self._lock, _lost_or_passing():
            return self._lines(batch_id).read(index)

    def read_picks(self, picks: list[Pick], room: int, *, alone: bool) -> list[Read]:
        """Read lines from the front as far as there is ``room``; one at least, if ``alone``."""
        found: list[Read] = []
        for pick in picks:
            line, size = None, 0
            try:
                size = self.length(pick.run.id, pick.index)
                if size > room and (found or not alone):
                    break
                line = request_line(pick.index, self.read(pick.run.id, pick.index))
            except (InputLost, ValueError):
                size = 0
            except OSError as error:
                log.warning("input_not_read", extra={"batch": pick.run.id, "reason": str(error)})
                break
            found.append(Read(pick, line, size))
            room -= size
        return found

    def forget(self, batch_id: str) -> None:
        """Close a batch's input: while it is open its disk space is not free."""
        with self._lock:
            lines = self._open.pop(batch_id, None)
            if lines is not None:
                lines.close()

    def _lines(self, batch_id: str) -> Lines:
        if batch_id not in self._open:
            self._open[batch_id] = self._open_lines(
                self._spool.input(batch_id), self._spool.index(batch_id)
            )
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(batch_id)
        return self._open[batch_id]


@contextlib.contextmanager
def _lost_or_passing() -> Generator[None]:
    try:
        yield
    except (IndexError, EOFError) as error:
        raise InputLost from error
    except OSError as error:
        if error.errno in LOST_ERRORS:
            raise InputLost from error
        raise
