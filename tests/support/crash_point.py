"""batchd, made to die at a named point: SIGKILL from its own hand, right there and nowhere else.

``python -m tests.support.crash_point serve …`` imports batchd once, alters the functions at which a
crash matters so that they look for an order to die, and then runs batchd's own command line in a
child. When the child has died it waits for SIGUSR1 and lets the next one live, as systemd would; a
child that ends in any other way ends it too. Nothing else about batchd is changed, and without an
order nothing happens.

Points are ``before``, ``after`` or ``amid`` a step. A step is something that lasts: a commit, which
is named by its last statement, or a call of ``Disk``, which is named by what it is a part of: "the
directory sync of an upload". The shipped functions that make a part are in ``PARTS``.
"""

import functools
import inspect
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Never, cast

import aiosqlite

from batchd import daemon, files, ledger, sweeper, writer
from batchd.cli import main as command_line
from batchd.cli import serve
from batchd.disk import Disk
from batchd.engine import finalizer, recovery
from batchd.inbox import directories, folder
from batchd.jsonl import IndexWriter
from batchd.spool import Spool
from batchd.store import batches as batch_table
from batchd.store import files as file_table
from batchd.store import inbox as inbox_table
from tests.support.crashing import DIRECTORY, Orders

# Imported here, so that a child need not.
PRELOADED = (daemon, serve)

# What a call of Disk is a part of: the function it is called by.
PARTS: tuple[tuple[object, str, str], ...] = (
    (Spool, "publish", "an upload"),
    (Spool, "hold", "a hold"),
    (Spool, "distrust", "a distrust"),
    (Spool, "trust_again", "a new trust"),
    (writer.Writer, "commit", "a ledger"),
    (recovery, "recover", "a recovery"),
    (ledger, "_salvage", "a salvage"),
    (finalizer.Finalizer, "_remove_rest", "an ending"),
    (files.Files, "delete", "a delete"),
    (files.Files, "_bury", "an expiry"),
    (sweeper.Sweeper, "_remove_orphans", "a sweep"),
    (directories.Directories, "deliver", "a delivery"),
)
CALLS: Mapping[str, str] = {
    "open_append": "the opening",
    "append": "the append",
    "sync": "the fdatasync",
    "truncate": "the cut",
    "sync_directory": "the directory sync",
    "rename": "the rename",
    "link_or_copy": "the link",
    "remove": "the unlink",
    "remove_directory": "the removal",
}
# Steps that are not calls of Disk.
STEPS: tuple[tuple[object, str, str], ...] = (
    (files.Upload, "finish", "the fsync of an upload"),
    (IndexWriter, "close", "the fsync of an index"),
    (writer.Writer, "_hand_back", "the hand-back of a ledger"),
    (ledger.Ledger, "append_never_run", "a fill"),
    (directories.Directories, "move_to_done", "the move of a claim"),
    (folder.Folder, "publish", "a copy of a delivery"),
)
STATEMENTS: Mapping[str, str] = {
    file_table.INSERT: "the commit of an upload",
    file_table.DELETE: "the commit of a delete",
    file_table.BURY: "the commit of an expiry",
    batch_table.INSERT: "the commit of a create",
    batch_table.PAUSE: "the commit of a pause",
    batch_table.RESUME: "the commit of a resume",
    batch_table.SET_PRIORITY: "the commit of a priority",
    batch_table.CHECKPOINT: "the commit of a checkpoint",
    batch_table.ADD_NOTE: "the commit of a note",
    inbox_table.INSERT: "the commit of a claim",
    inbox_table.LEFT: "the commit of a move",
    inbox_table.DELIVERED: "the commit of a delivery",
}

Function = Callable[..., Any]


class Hooks:
    """Puts the points into the shipped functions."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._part: ContextVar[str | None] = ContextVar("part", default=None)
        self._commit = ""

    def install(self) -> None:
        for owner, name, part in PARTS:
            self._wrap(owner, name, functools.partial(self._within, part))
        for name, call in CALLS.items():
            self._wrap(Disk, name, functools.partial(self._around_call, call))
        for owner, name, step in STEPS:
            self._wrap(owner, name, functools.partial(self._around, step))
        self._wrap(Disk, "append", self._amid_append)
        self._wrap(Disk, "remove_directory", self._amid_removal)
        self._hook_commits()

    def point(self, point: str) -> None:
        if self._orders.applies(point):
            self._die()

    def _die(self) -> Never:
        self._orders.mark()
        os.kill(os.getpid(), signal.SIGKILL)
        while True:  # it is on its way
            signal.pause()

    @contextmanager
    def _around(self, step: str, *_args: object) -> Generator[None]:
        self.point(f"before {step}")
        yield
        self.point(f"after {step}")

    @contextmanager
    def _within(self, part: str, *_args: object) -> Generator[None]:
        token = self._part.set(part)
        try:
            yield
        finally:
            self._part.reset(token)

    @contextmanager
    def _around_call(self, call: str, *_args: object) -> Generator[None]:
        # The appender's threads that sync several ledgers at once know of no part.
        part = self._part.get() or ("a ledger" if call == "the fdatasync" else None)
        if part is None:
            yield
            return
        with self._around(f"{call} of {part}"):
            yield

    @contextmanager
    def _amid_append(self, _disk: Disk, descriptor: int, data: bytes) -> Generator[None]:
        if self._orders.applies(f"amid the append of {self._part.get()}"):
            last_line = data.rfind(b"\n", 0, -1) + 1
            os.write(descriptor, data[: (last_line + len(data)) // 2])
            self._die()
        yield

    @contextmanager
    def _amid_removal(self, _disk: Disk, path: Path) -> Generator[None]:
        if self._orders.applies(f"amid the removal of {self._part.get()}"):
            next(iter(sorted(path.iterdir()))).unlink()
            self._die()
        yield

    def _wrap(self, owner: object, name: str, around: Function) -> None:
        function = cast("Function", getattr(owner, name))

        @functools.wraps(function)
        def wrapped(*args: object, **kwargs: object) -> object:
            with around(*args):
                return function(*args, **kwargs)

        @functools.wraps(function)
        async def wrapped_coroutine(*args: object, **kwargs: object) -> object:
            with around(*args):
                return await function(*args, **kwargs)

        waits = inspect.iscoroutinefunction(function)
        setattr(owner, name, wrapped_coroutine if waits else wrapped)

    def _hook_commits(self) -> None:
        execute = cast("Function", aiosqlite.Connection.execute)

        async def hooked(
            connection: aiosqlite.Connection, statement: str, *params: Mapping[str, object]
        ) -> object:
            done = cast("Awaitable[object]", execute(connection, statement, *params))
            if statement != "COMMIT":
                begins = statement.startswith("BEGIN")
                self._commit = "" if begins else _commit(statement, *params) or self._commit
                return await done
            with self._around(self._commit):
                return await done

        setattr(aiosqlite.Connection, "execute", hooked)  # noqa: B010 - of another signature


def _commit(statement: str, *params: Mapping[str, object]) -> str | None:
    if statement == batch_table.UPDATE:
        return f"the commit to {params[0]['status']}"
    return STATEMENTS.get(statement)


def main() -> int:
    orders = Orders(Path(os.environ[DIRECTORY]))
    Hooks(orders).install()
    # A signal to the group is for the child; the next child is born at SIGUSR1.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    while True:
        child = os.fork()
        if not child:
            break
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        orders.note_end(code)
        if code != -signal.SIGKILL:
            return code
        signal.sigwait({signal.SIGUSR1})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    return command_line.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
