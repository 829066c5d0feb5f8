"""A client that pauses, resumes and re-prioritises its batch, through every crash."""

from collections.abc import Awaitable
from typing import Never

from batchd.errors import Conflict, NoRoom
from batchd.model import BatchRecord
from batchd.pausing import PAUSABLE
from tests.simulation.core import Core
from tests.simulation.loop import hop
from tests.simulation.plan import BatchPlan
from tests.simulation.seen import Batch
from tests.simulation.use import Step, Verb
from tests.simulation.world import World

_AGAIN = 0.3  # seconds, when there was no room


class Steersman:
    """``steer`` goes on with the steps that were not acknowledged yet."""

    def __init__(self, world: World, plan: BatchPlan) -> None:
        self._world = world
        self._plan = plan
        self._done = 0

    async def steer(self, core: Core, batch_id: str) -> None:
        batch = self._world.seen.by_id[batch_id]
        for step in self._plan.use.steps[self._done :]:
            await hop(step.at - self._world.loop.elapsed)
            await self._take(core, batch, step)
            self._done += 1

    async def _take(self, core: Core, batch: Batch, step: Step) -> None:
        while True:
            try:
                record = await self._asked(core, batch, step)
                self._acknowledged(batch, step, record)
            except NoRoom:
                await hop(_AGAIN)
                continue
            except Conflict:
                self._world.seen.tally["steps that came too late"] += 1
            return

    def _asked(self, core: Core, batch: Batch, step: Step) -> Awaitable[BatchRecord]:
        owner, steering = self._plan.owner, core.steering
        match step.verb:
            case Verb.PAUSE:
                batch.wished_pause.ask(True)
                return steering.pause(owner, batch.id)
            case Verb.RESUME:
                batch.wished_pause.ask(False)
                return steering.resume(owner, batch.id)
            case Verb.PRIORITY:
                batch.wished_priority.ask(step.priority)
                return steering.set_priority(owner, batch.id, step.priority)

    def _acknowledged(self, batch: Batch, step: Step, record: BatchRecord) -> None:
        """The answer says what was asked for, or that the batch had gone on."""
        is_as_asked = {
            Verb.PAUSE: record.paused_at is not None,
            Verb.RESUME: record.paused_at is None,
            Verb.PRIORITY: record.priority == step.priority,
        }[step.verb]
        if not is_as_asked:
            if record.status in PAUSABLE:
                self._not_as_asked(batch, step)
            return
        self._world.seen.tally[f"acknowledged: {step.verb}"] += 1
        if step.verb is Verb.PRIORITY:
            batch.wished_priority.grant(step.priority)
        else:
            batch.wished_pause.grant(step.verb is Verb.PAUSE)

    def _not_as_asked(self, batch: Batch, step: Step) -> Never:
        self._world.wrong(f"{step.verb} of batch {batch.number} was acknowledged and not done")
