"""One machine through all lives of batchd on it, and what is known of them from outside."""

import itertools
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Never, ParamSpec, TypeVar

from batchd.model import Outcome, Reply
from batchd.store import batches as batch_table
from batchd.store import inbox as inbox_table
from tests.simulation.backend import Answers
from tests.simulation.budgets import Budgets
from tests.simulation.chains import Chains
from tests.simulation.checks import Checks
from tests.simulation.database import CommitError, Params, Statement, Store
from tests.simulation.disk import Crash, SimDisk
from tests.simulation.drops import Drops
from tests.simulation.endings import Endings
from tests.simulation.faults import Faults
from tests.simulation.lines import Line
from tests.simulation.loop import VirtualLoop, hop
from tests.simulation.outcome import Outcomes
from tests.simulation.plan import Plan, Trigger
from tests.simulation.seen import DIRECTORY, FILES, HOLDS, INCOMING, Seen
from tests.simulation.servers import Server, Servers
from tests.simulation.steering import Steering
from tests.simulation.troubles import MANY_GUESTS, Fault
from tests.simulation.use import Door

if TYPE_CHECKING:
    from batchd.gathering import Gathered

_TOO_MANY = 429
# A silence of so many seconds, or so many times as long as an answer takes, asks for looks; and
# until two of them, three seconds each, were in vain.
_SILENCE, _TIMES, _LOOKS = 3.0, 3.0, 10.0

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
        self.servers = Servers(plan.fleet.servers, plan.fleet.ceiling, self.wrong)
        self.budgets = Budgets(self.disk, self.wrong)
        self.checks = Checks(
            self.disk, store.raw, self.seen, self.servers, self.budgets, self.wrong
        )
        self._events = itertools.count(1)
        self.steering = Steering(store.raw, plan, self.seen, lambda: next(self._events), self.wrong)
        self.chains = Chains(self.disk, self.seen, self.wrong)
        self.drops = Drops(self.disk, store.raw, self.seen, self.faults.now, self.wrong)
        self._told = self._who_is_told()
        self.outcomes = Outcomes(self.disk, store.raw, self.checks, self.wrong)
        self.chance = chance
        self.trace: list[tuple[object, ...]] = []
        self.violation: str | None = None
        self.orders: dict[int, Gathered | None] = {}  # by number of the batch

    def begin(self) -> None:
        for folder in (DIRECTORY, FILES, HOLDS, INCOMING):
            self.disk.make_directory(folder)
        if self.expects_drops:
            self.drops.make_directories()
        self.faults.schedule(self.disk)

    @property
    def expects_drops(self) -> bool:
        return any(batch.use.door is Door.DROP for batch in self.plan.batches)

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
            if (tell := self._told.get(statement[0])) is not None:
                tell(statement[1])
            batch = self.seen.committed(statement)
            if batch is not None:
                self.note(batch.number, batch.status)
                if batch.is_terminal:
                    self.outcomes.ended(batch)
                    self.seen.ended(batch)
                elif batch.status == "finalizing":
                    self.endings.reached(Trigger.FINALIZING)
                elif batch.status == "cancelling":
                    self.endings.reached(Trigger.CANCELLING)
        self.endings.committed()

    def _who_is_told(self) -> Mapping[str, Callable[[Params], None]]:
        """Of a statement that was committed, besides what follows from the status."""

        def steered(params: Params) -> None:
            self.steering.committed(str(params["id"]))

        return {
            batch_table.INSERT: self.chains.creating,
            batch_table.PAUSE: steered,
            batch_table.RESUME: steered,
            batch_table.SET_PRIORITY: steered,
            inbox_table.INSERT: self.drops.claimed,
            inbox_table.LEFT: self.drops.left,
            inbox_table.DELIVERED: self.drops.delivered,
        }

    # -- the model servers' witness

    def picked(self, batch_id: str, index: int) -> None:
        """A line was given a slot."""
        self.seen.by_id[batch_id].lines[index].picked = next(self._events)

    def sending(self, server: Server, line: Line, body: bytes) -> None:
        self.note("sent", line.custom_id, server.name)
        now = self.loop.time()
        self.servers.arrives(server, line.request.model, line.picked, now)
        guests = self.faults.period(Fault.GUESTS, server.name)
        if guests is not None and guests.amount >= MANY_GUESTS:
            self.seen.tally["lines sent beside many guests"] += 1
            if server.is_rude(now, self.faults.elapsed - guests.start):
                self.wrong(f"{server.name} has {server.total} lines beside {guests.amount} guests")
        self.checks.sending(line, body, now)
        self.steering.sending(line)
        self.endings.sending()

    def broken_off(self, server: Server, line: Line) -> None:
        """By batchd, or with it: then it was in flight at a crash."""
        if not self.is_dead:
            line.is_open = False
            self.steering.broken_off(server, line)
            self.note("broken off", line.custom_id, server.name)
            self.seen.tally["lines broken off"] += 1

    def answered(self, server: Server, line: Line, outcome: Outcome) -> None:
        kind = outcome.status_code if isinstance(outcome, Reply) else outcome.kind.value
        self.note("answered", line.custom_id, kind)
        if not isinstance(outcome, Reply):
            return
        now, event = self.loop.time(), next(self._events)
        if outcome.status_code == _TOO_MANY and outcome.hint:
            server.asks_to_wait(now + outcome.hint, event)
            self.seen.tally["hints to wait"] += 1
        window = outcome.quota.requests if outcome.quota else None
        if window is not None and window.remaining == 0 and window.reset is not None:
            server.has_nothing_left(line.request.model, now + window.reset, event)

    def hung(self, server: Server, line: Line, seconds: float) -> None:
        """A line got no answer for so long: batchd should have noticed."""
        patience = max(_SILENCE, _TIMES * server.longest) + _LOOKS + self.plan.drain
        if seconds > patience:
            self.wrong(f"line {line.custom_id} hung at {server.name} for {seconds:.1f} s")

    def closed(self, server: Server) -> None:
        """batchd has closed its connections to a server."""
        if all(plan.name != server.name for plan in self.servers.now_configured):
            server.closed()
