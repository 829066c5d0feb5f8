"""One machine through all lives of batchd on it, and what is known of them from outside."""

import random
from collections.abc import Callable
from typing import Never, ParamSpec, TypeVar

from batchd.model import Outcome, Reply
from tests.simulation.backend import Answers, Line
from tests.simulation.checks import Checks
from tests.simulation.database import CommitError, Statement, Store
from tests.simulation.disk import Crash, SimDisk
from tests.simulation.endings import Endings
from tests.simulation.faults import Faults
from tests.simulation.loop import VirtualLoop, hop
from tests.simulation.outcome import Outcomes
from tests.simulation.plan import Plan, Trigger
from tests.simulation.seen import DIRECTORY, FILES, HOLDS, INCOMING, Seen

P = ParamSpec("P")
T = TypeVar("T")


class Wrong(Crash):
    """A violation: the history ends here."""


class _Disk(SimDisk):
    """Answers calls from coroutines like the database: others get a turn before or after."""

    latency: Callable[[], float]
    turn: Callable[[], bool]

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.turn():
            await hop(self.latency())
            return work(*args, **kwargs)
        result = work(*args, **kwargs)
        await hop(self.latency())
        return result


class World:
    """Tells everybody of what happens, and is the database's watcher and the model server's."""

    def __init__(self, plan: Plan, store: Store) -> None:
        chance = random.Random(f"world {plan.seed}")  # noqa: S311 - a simulation
        self.plan = plan
        self.store = store
        self.loop = VirtualLoop()
        self.faults = Faults(plan, self.loop, chance)
        self.loop.delay = self.faults.latency
        self.disk = _Disk(random.Random(f"disk {plan.seed}"), self.faults.now)  # noqa: S311 - a simulation
        self.disk.latency = self.faults.latency
        self.disk.turn = lambda: chance.random() < 0.5
        self.endings = Endings(plan, self.loop, self.disk, chance)
        self.seen = Seen(plan)
        self.answers = Answers(plan, self.seen.lines, self.faults, self)
        self.checks = Checks(self.disk, store.raw, self.seen, plan.slots, self.wrong)
        self.outcomes = Outcomes(self.disk, store.raw, self.checks, self.wrong)
        self.chance = chance
        self.trace: list[tuple[object, ...]] = []
        self.violation: str | None = None

    def begin(self) -> None:
        for folder in (DIRECTORY, FILES, HOLDS, INCOMING):
            self.disk.make_directory(folder)
        self.faults.schedule(self.disk)

    def draw(self, size: int) -> bytes:
        return self.chance.randbytes(size)

    def note(self, *what: object) -> None:
        self.trace.append((round(self.loop.elapsed, 6), *what))

    def wrong(self, text: str) -> Never:
        self.violation = f"at {self.loop.elapsed:.3f}: {text}"
        self.disk.dead = True
        raise Wrong

    # -- the database's watcher

    @property
    def is_dead(self) -> bool:
        return self.disk.dead

    def latency(self) -> float:
        return self.faults.latency()

    def sync_time(self) -> float:
        """What the writer's thread takes for a group."""
        return self.latency() + self.chance.random() * self.plan.slowest_sync

    def commit_error(self) -> CommitError | None:
        return self.faults.commit_error()

    def committing(self) -> None:
        self.endings.committing()

    def committed(self, statements: list[Statement]) -> None:
        for statement in statements:
            batch = self.seen.committed(statement)
            if batch is not None:
                self.note(batch.number, batch.status)
                if batch.is_terminal:
                    self.outcomes.ended(batch)
                elif batch.status == "finalizing":
                    self.endings.reached(Trigger.FINALIZING)
                elif batch.status == "cancelling":
                    self.endings.reached(Trigger.CANCELLING)
        self.endings.committed()

    # -- the model server's witness

    def sending(self, line: Line, body: bytes) -> None:
        self.note("sent", line.custom_id)
        self.checks.sending(line, body, self.answers.in_flight + 1)
        self.endings.sending()

    def broken_off(self, line: Line) -> None:
        """By batchd, or with it: then it was in flight at a crash."""
        if not self.is_dead:
            line.is_open = False

    def answered(self, line: Line, outcome: Outcome) -> None:
        kind = outcome.status_code if isinstance(outcome, Reply) else outcome.kind.value
        self.note("answered", line.custom_id, kind)
