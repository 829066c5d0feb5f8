"""An inbox that runs in this process, on real directories and rows; a test plays the engine."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec

from batchd.bell import Bell
from batchd.closing import Closing
from batchd.config import BatchesConfig, InboxConfig
from batchd.inbox.door import Inbox
from batchd.model import LOCAL_OWNER, BatchRecord, Counts, Usage
from batchd.settings import Duration
from batchd.states import Event
from batchd.store import inbox as table
from tests.support.parts import Parts, requests
from tests.support.waiting import until

GOOD = requests("abc")


class Door:
    """An inbox that runs, and what is around it."""

    def __init__(self, parts: Parts, path: Path) -> None:
        self.parts = parts
        self.path = path
        self.bell = Bell()

    def drop(self, name: str, data: bytes = GOOD) -> Path:
        """As it should be done: written under another name, then renamed."""
        hidden = self.path / f".{name}"
        hidden.write_bytes(data)
        return hidden.rename(self.path / name)

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.path / folder).iterdir())

    def report(self, name: str) -> dict[str, Any]:
        return json.loads((self.path / "rejected" / name).read_text())

    async def until_there(self, *names: str) -> None:
        await until(lambda: all(self._is_there(self.path / name) for name in names))

    def _is_there(self, path: Path) -> bool:
        """Not the empty file that holds a name until the dropped one is moved over it."""
        if not os.path.lexists(path):
            return False
        is_moved = not os.path.lexists(self.path / path.name)
        return is_moved or path.lstat().st_size > 0

    def status(self, stem: str) -> dict[str, Any]:
        """The batch object in the outbox; empty if there is none."""
        path = self.path / f"outbox/{stem}.status.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    async def until_ended(self, stem: str) -> dict[str, Any]:
        """The last status, once it is there."""
        ends = {"completed", "failed"}
        await until(lambda: self.status(stem).get("status") in ends)
        return self.status(stem)

    async def batches(self) -> list[BatchRecord]:
        """Oldest first."""
        found, _ = await self.parts.batches.page(LOCAL_OWNER, after=None, limit=100)
        return found[::-1]

    async def begin(self, batch: BatchRecord) -> None:
        """Its lines are run from now on, as far as the inbox sees it."""
        await self.parts.batches.validated(batch.id, total=3, model="m")
        self.bell.ring()

    async def finish(self, batch: BatchRecord, output: bytes, errors: bytes = b"") -> None:
        """What the engine does, as far as the inbox sees it."""
        await self.begin(batch)
        for file_id, data in ((batch.output_file_id, output), (batch.error_file_id, errors)):
            if data and file_id is not None:
                self.parts.spool.file(file_id).write_bytes(data)
        await self.parts.batches.advance(batch.id, Event.LINES_DONE)
        closing = Closing(
            counts=Counts(3, 2, 1),
            usage=Usage(),
            output_bytes=len(output),
            error_bytes=len(errors),
        )
        assert await self.parts.batches.finished(batch.id, Event.PUBLISHED, closing)
        self.bell.ring()


@contextlib.asynccontextmanager
async def running(
    parts: Parts,
    path: Path,
    *,
    rules: BatchesConfig | None = None,
    owner_of: Callable[[int], str] = lambda _uid: LOCAL_OWNER,
    **settings: float,
) -> AsyncGenerator[Door]:
    """``settings`` are those of the section."""
    door = Door(parts, path)
    inbox = inbox_of(parts, path, door.bell, rules=rules, owner_of=owner_of, **settings)
    await inbox.check()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(inbox.run(stop))
        yield door
        stop.set()
        door.bell.ring()


def inbox_of(
    parts: Parts,
    path: Path,
    bell: Bell | None = None,
    *,
    rules: BatchesConfig | None = None,
    owner_of: Callable[[int], str] = lambda _uid: LOCAL_OWNER,
    **settings: float,
) -> Inbox:
    """As ``running`` makes it."""
    quick = InboxConfig(settle=Duration(0.05), rescan_every=Duration(60))
    return Inbox(
        path,
        msgspec.structs.replace(quick, **settings),
        rules or BatchesConfig(),
        database=parts.database,
        files=parts.files,
        batches=parts.batches,
        bell=bell or Bell(),
        owner_of=owner_of,
        now=parts.clock,
    )


async def until_left(parts: Parts) -> None:
    async with asyncio.timeout(5):
        while await table.open_claims(parts.database):  # noqa: ASYNC110 - rows ring no bell
            await asyncio.sleep(0.005)
