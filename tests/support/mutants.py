"""Named alterations of the shipped code: the bugs that the tests of crashes must be able to see.

In this process: ``with MUTANTS[name](): …``. As a program: ``python -m tests.support.mutants NAME
serve …`` is batchd with that bug, and ``BatchdProcess`` runs it, like the whole test session, when
``BATCHD_MUTANT`` names it. A suite that stays green then proves nothing.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from typing import cast

import batchd.engine.recovery
import batchd.ledger
from batchd.cli.main import main as run_batchd
from batchd.disk import Disk
from batchd.ledger import Recovered
from batchd.writer import Appender

CHOICE = "BATCHD_MUTANT"
# Calls of sync that one real sync stands for.
_LATE = 32


class _Altered:
    """A disk of which some methods are others."""

    def __init__(self, disk: Disk, **instead: Callable[..., None]) -> None:
        self._disk = disk
        self._instead = instead

    def __getattr__(self, name: str) -> object:
        return self._instead.get(name) or getattr(self._disk, name)


class _LateSyncs:
    """Says that all is on disk, and asks the disk for it only now and then."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._calls = 0
        self._late: set[int] = set()

    def sync(self, descriptor: int) -> None:
        self._late.add(descriptor)
        self._calls += 1
        if self._calls % _LATE == 0:
            late, self._late = self._late, set()
            for one in late:
                self._disk.sync(one)

    def close(self, descriptor: int) -> None:
        self._late.discard(descriptor)
        self._disk.close(descriptor)


def _not_at_all(*_arguments: object) -> None:
    pass


@contextlib.contextmanager
def _replaced(owner: object, name: str, new: object) -> Generator[None]:
    old = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def _writing_to(alter: Callable[[Disk], object]) -> AbstractContextManager[None]:
    """The writer's thread works on an altered disk."""
    as_shipped = Appender.__init__

    def init(self: Appender, disk: Disk, *args: int, **kwargs: int) -> None:
        as_shipped(self, cast("Disk", alter(disk)), *args, **kwargs)

    return _replaced(Appender, "__init__", init)


@contextlib.contextmanager
def _recovering_with(**instead: Callable[..., None]) -> Generator[None]:
    """Ledgers are read back on an altered disk."""
    as_shipped: Callable[..., Recovered] = batchd.ledger.recover

    def recover(disk: Disk, *place: object, **known: object) -> Recovered:
        return as_shipped(cast("Disk", _Altered(disk, **instead)), *place, **known)

    with (
        _replaced(batchd.ledger, "recover", recover),
        _replaced(batchd.engine.recovery, "recover", recover),
    ):
        yield


def no_fsync() -> AbstractContextManager[None]:
    """Result lines are written, and never synced (the program: nothing ever is)."""
    return _writing_to(lambda disk: _Altered(disk, sync=_not_at_all))


def ack_before_sync() -> AbstractContextManager[None]:
    """Result lines are done when they are written, and synced a little later."""

    def alter(disk: Disk) -> object:
        late = _LateSyncs(disk)
        return _Altered(disk, sync=late.sync, close=late.close)

    return _writing_to(alter)


def no_tail_truncation() -> AbstractContextManager[None]:
    """What a crash left of a line stays, and the next line is written behind it."""
    return _recovering_with(truncate=_not_at_all)


def no_sync_of_recovered_data() -> AbstractContextManager[None]:
    """Lines that are read back are believed as they are, in the page cache or on the disk."""
    return _recovering_with(sync=_not_at_all)


MUTANTS: Mapping[str, Callable[[], AbstractContextManager[None]]] = {
    "no_fsync": no_fsync,
    "ack_before_sync": ack_before_sync,
    "no_tail_truncation": no_tail_truncation,
    "no_sync_of_recovered_data": no_sync_of_recovered_data,
}
BUGS = tuple(MUTANTS)
# A program only: like ``no_fsync`` in this process.
NO_FSYNC_OF_RESULTS = "no_fsync_of_results"


def program(name: str | None) -> tuple[str, ...]:
    """What Python runs to be batchd with this bug; without a name, as it is shipped."""
    return ("-m", "batchd") if name is None else ("-m", "tests.support.mutants", name)


def chosen() -> str | None:
    """The bug with which this test session is to be run."""
    return os.environ.get(CHOICE)


def main() -> int:
    name = sys.argv.pop(1)
    if name == "no_fsync":
        # Below Python, so that SQLite and uploads do not sync either.
        os.execvp("eatmydata", ["eatmydata", sys.executable, "-m", "batchd", *sys.argv[1:]])  # noqa: S606, S607 - a package of every distribution
    bug = no_fsync if name == NO_FSYNC_OF_RESULTS else MUTANTS[name]
    with bug():
        return run_batchd()


if __name__ == "__main__":
    sys.exit(main())
