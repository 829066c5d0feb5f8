"""SQLite under the simulation keeps what was committed, and nothing else, whatever ends a life."""

from collections.abc import Coroutine, Generator
from typing import Any, cast

import aiosqlite
import pytest

from batchd.errors import NoRoom
from batchd.store.database import Database
from tests.simulation.database import (
    CommitError,
    Connection,
    Reader,
    Statement,
    Store,
    opened_store,
)
from tests.simulation.disk import Crash
from tests.simulation.loop import VirtualLoop, hop

pytestmark = pytest.mark.allow_blocking(reason="its loop is virtual, and waits for nobody")

INSERT = "INSERT INTO inbox_claim (device, inode, mtime_ns, size, uid, name, stem, batch_id) \
VALUES (1, :n, 1, 1, 1, 'n', :n, :n)"
COUNT = "SELECT count(*) AS rows FROM inbox_claim"


class Scene:
    """A database in one life, and who watches over it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.is_dead = False
        self.error: CommitError | None = None
        self.crash: str | None = None
        self.seen: list[Statement] = []
        self.died: list[str] = []
        self.room_made = False
        self.loop = VirtualLoop()
        self.database = Database(
            cast("aiosqlite.Connection", Connection(store.raw, self)),
            cast("aiosqlite.Connection", Reader(store.raw, self)),
            self.died.append,
            self._make_room,
        )

    def latency(self) -> float:
        return 0.001

    def commit_error(self) -> CommitError | None:
        return self.error

    def committing(self) -> None:
        if self.crash == "before":
            raise Crash

    def committed(self, statements: list[Statement]) -> None:
        self.seen += statements
        if self.crash == "after":
            raise Crash

    async def _make_room(self) -> bool:
        self.error = None
        return self.room_made

    async def insert(self, number: int = 1) -> None:
        async def work(tx: aiosqlite.Connection) -> None:
            await tx.execute(INSERT, {"n": number})
            await hop(0.01)

        await self.database.write(work)

    async def count(self) -> int:
        row = await self.database.row(COUNT, {})
        assert row is not None
        return int(str(row["rows"]))

    def run(self, work: Coroutine[Any, Any, object]) -> object:
        return self.loop.run_until_complete(work)

    def restart(self) -> None:
        self.is_dead = True
        self.loop.bury()
        self.store.lose_transaction()
        self.is_dead, self.crash = False, None


@pytest.fixture
def scene() -> Generator[Scene]:
    with opened_store() as store:
        yield Scene(store)


def test_what_is_committed_is_told_and_read(scene: Scene) -> None:
    async def work() -> int:
        await scene.insert()
        return await scene.count()

    assert scene.run(work()) == 1
    assert scene.seen == [(INSERT, {"n": 1})]


def test_a_reader_never_sees_an_open_transaction(scene: Scene) -> None:
    async def work() -> list[int]:
        writing = scene.loop.create_task(scene.insert())
        counts: list[int] = []
        while not writing.done():
            counts.append(await scene.count())
            if scene.store.raw.in_transaction:
                assert counts == [0] * len(counts)
        return counts

    counts = cast("list[int]", scene.run(work()))
    assert counts[0] == 0
    assert sorted(counts) == counts


@pytest.mark.parametrize(("crash", "rows"), [("before", 0), ("after", 1)])
def test_a_crash_around_a_commit_leaves_either(scene: Scene, crash: str, rows: int) -> None:
    scene.crash = crash
    with pytest.raises(Crash):
        scene.run(scene.insert())
    scene.restart()
    assert scene.run(scene.count()) == rows


def test_a_crash_loses_an_open_transaction(scene: Scene) -> None:
    scene.loop.call_later(0.005, _crash)
    with pytest.raises(Crash):
        scene.run(scene.insert())
    assert scene.store.raw.in_transaction
    scene.restart()
    assert scene.run(scene.count()) == 0


def _crash() -> None:
    raise Crash


@pytest.mark.parametrize(("made", "rows"), [(True, 1), (False, 0)])
def test_a_commit_without_room_is_tried_again_if_some_was_made(
    scene: Scene, made: bool, rows: int
) -> None:
    scene.error, scene.room_made = CommitError("SQLITE_FULL"), made

    async def work() -> int:
        try:
            await scene.insert()
        except NoRoom:
            assert not made
        return await scene.count()

    assert scene.run(work()) == rows
    assert scene.died == []


@pytest.mark.parametrize(("is_ghost", "rows"), [(True, 1), (False, 0)])
def test_a_commit_that_fails_ends_batchd_and_may_be_there(
    scene: Scene, is_ghost: bool, rows: int
) -> None:
    scene.error = CommitError("SQLITE_IOERR_FSYNC", is_ghost)
    with pytest.raises(Exception, match="simulated"):
        scene.run(scene.insert())
    assert scene.died == ["the database failed: SQLITE_IOERR_FSYNC"]
    scene.restart()
    assert scene.run(scene.count()) == rows
