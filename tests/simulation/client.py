"""Who uses batchd: one client for each batch of a plan, who comes back after every crash.

It uploads, creates, cancels, and deletes its input. What batchd acknowledges is noted at once; what
a crash left unknown is asked for with a list, as a careful client would.
"""

import asyncio

from batchd import ids
from batchd.errors import Conflict, NoRoom, NotFound
from batchd.model import FileRecord, NewBatch, Purpose
from batchd.store import files as file_table
from tests.simulation.core import Core
from tests.simulation.loop import hop
from tests.simulation.plan import BatchPlan
from tests.simulation.retrier import Retrier
from tests.simulation.seen import FILES
from tests.simulation.steersman import Steersman
from tests.simulation.troubles import DAY
from tests.simulation.use import Door
from tests.simulation.world import World

_AGAIN = 0.3  # seconds, when there was no room


class Client:
    """``use`` goes on with whatever is not done yet."""

    def __init__(self, world: World, plan: BatchPlan) -> None:
        self._world = world
        self._plan = plan
        self._id: str | None = None
        self._input: str | None = None
        self._has_asked = False
        self._steersman = Steersman(world, plan)
        self._retrier = Retrier(world)
        self._is_done_cancelling = False
        self._is_done_deleting = False

    async def use(self, core: Core) -> None:
        plan = self._plan
        async with asyncio.TaskGroup() as steps:
            if plan.delete_input_at is not None:
                steps.create_task(self._delete_later(core, plan.delete_input_at), name="delete")
            await self._wait_until(plan.create_at)
            batch_id = await self._created(core)
            if plan.use.steps:
                steps.create_task(self._steersman.steer(core, batch_id), name="steer")
            if plan.use.retries:
                steps.create_task(self._retrier.retry(core, batch_id), name="retry")
            if plan.cancel_at is not None:
                steps.create_task(self._cancel_later(core, batch_id, plan.cancel_at), name="cancel")
            if plan.cancel_when is not None:
                steps.create_task(
                    self._cancel_when(core, batch_id, plan.cancel_when), name="cancel"
                )

    async def _created(self, core: Core) -> str:
        """Its id; asked for again in every life if there is a key."""
        door = self._plan.use.door
        while self._id is None or door is Door.KEY:
            try:
                found = await self._made(core, door)
            except NoRoom:
                await hop(_AGAIN)
            else:
                if found != (self._id or found):
                    self._world.wrong(f"batch {self._plan.number} is {found}, and was {self._id}")
                self._id = found
                break
        assert self._id is not None
        self._world.seen.by_id[self._id].create_was_acknowledged = True
        return self._id

    async def _made(self, core: Core, door: Door) -> str:
        match door:
            case Door.LIST:
                return await self._find(core) or await self._create(core)
            case Door.KEY if self._plan.use.is_asked_twice:
                return await self._create_twice(core)
            case Door.KEY | Door.REPEAT:
                return await self._create(core)
            case Door.DROP:
                self._world.drops.drop(self._plan)
                while (found := await self._find(core)) is None:
                    await hop(_AGAIN)
                return found

    async def _find(self, core: Core) -> str | None:
        """A batch that was made in a life before."""
        found, _ = await core.batches.page(self._plan.owner, after=None, limit=10)
        wanted = self._metadata()
        return next((record.id for record in found if record.metadata == wanted), None)

    async def _create(self, core: Core) -> str:
        await self._uploaded(core)
        return await self._granted(core)

    async def _create_twice(self, core: Core) -> str:
        """Two ask for the same at the same time, and get the same."""
        await self._uploaded(core)
        answers = await asyncio.gather(
            self._granted(core), self._granted(core), return_exceptions=True
        )
        found = {answer for answer in answers if isinstance(answer, str)}
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        if len(found) > 1:
            self._world.wrong(f"one key is {found}")
        return found.pop()

    async def _granted(self, core: Core) -> str:
        assert self._input is not None
        door = self._plan.use.door
        wish = NewBatch(
            input_file_id=self._input,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            window=self._plan.window,
            metadata=self._metadata(),
            output_expires_after=self._plan.keep,
            priority=self._plan.priority,
            idempotency_key=f"batch {self._plan.number}" if door is Door.KEY else None,
            is_repeated=door is Door.REPEAT and self._has_asked,
        )
        self._world.seen.tally["creates asked for again"] += self._has_asked
        self._has_asked = True
        return (await core.batches.create(self._plan.owner, wish)).id

    async def _uploaded(self, core: Core) -> None:
        """A wish that is repeated is for the same file."""
        if self._input is None or self._plan.use.door is Door.LIST:
            self._input = await self._upload(core)

    async def _upload(self, core: Core) -> str:
        """As ``Files.create``: bytes first, then the row."""
        world = self._world
        data = b"\n".join(self._plan.lines) + b"\n"
        now = int(world.faults.now())
        record = FileRecord(
            id=ids.file_id(world.draw(ids.FILE_ID_BYTES)),
            owner=self._plan.owner,
            filename="input.jsonl",
            purpose=Purpose.BATCH,
            bytes=len(data),
            sha256=None,
            created_at=now,
            expires_at=now + 30 * DAY,
        )
        world.disk.plant(FILES / record.id, data)
        await core.database.write(lambda tx: file_table.insert(tx, record))
        world.seen.uploads.add(record.id)
        return record.id

    def _metadata(self) -> dict[str, str]:
        return {"number": str(self._plan.number)}

    async def _cancel_later(self, core: Core, batch_id: str, at: float) -> None:
        await self._wait_until(at)
        await self._cancel(core, batch_id)

    async def _cancel_when(self, core: Core, batch_id: str, status: str) -> None:
        await self._world.seen.reached(self._plan.number, status).wait()
        await self._cancel(core, batch_id)

    async def _cancel(self, core: Core, batch_id: str) -> None:
        seen = self._world.seen
        while not self._is_done_cancelling:
            try:
                await core.batches.cancel(self._plan.owner, batch_id)
                seen.by_id[batch_id].cancel_was_acknowledged = True
                seen.tally["acknowledged cancels"] += 1
                self._is_done_cancelling = True
            except Conflict:  # it has ended
                self._is_done_cancelling = True
            except NoRoom:
                await hop(_AGAIN)

    async def _delete_later(self, core: Core, at: float) -> None:
        seen = self._world.seen
        await self._wait_until(at)
        if self._plan.must_run:
            await seen.reached(self._plan.number, "in_progress").wait()
        while self._input is not None and not self._is_done_deleting:
            try:
                seen.uploads.discard(self._input)
                await core.files.delete(self._plan.owner, self._input)
                seen.tally["deleted inputs"] += 1
                self._is_done_deleting = True
            except NotFound:  # deleted in a life before
                self._is_done_deleting = True
            except NoRoom:
                await hop(_AGAIN)

    async def _wait_until(self, at: float) -> None:
        await hop(at - self._world.loop.elapsed)
