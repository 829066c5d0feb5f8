"""batchd's core, put together for one life on a simulated machine.

Everything that decides is batchd's own. Simulated are the disk, the loop, the hops to SQLite and to
threads, the model server, and the reading of inputs; a validation takes no look at its input: its
verdict is the plan's.
"""

import asyncio
import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from batchd.again import Again
from batchd.batches import Batches
from batchd.bell import Bell, Bells
from batchd.config import BatchesConfig
from batchd.damage import Damage
from batchd.engine.engine import EngineBells
from batchd.engine.finalizer import Finalizer
from batchd.engine.inputs import Inputs
from batchd.engine.inspection import Verdict
from batchd.engine.recovery import Recovery
from batchd.engine.runner import Runner
from batchd.engine.runs import Runs
from batchd.engine.validator import Validator
from batchd.memory import Memory
from batchd.metrics import Metrics
from batchd.model import BatchRecord, LineError
from batchd.retry import Policy
from batchd.room import Room
from batchd.spool import Spool
from batchd.steering import Steering
from batchd.store.database import Database
from batchd.sweeper import Sweeper
from tests.simulation.database import Connection, Reader
from tests.simulation.files import SimFiles
from tests.simulation.flow import SimPool, WatchedKeeper, WatchedScheduler
from tests.simulation.inbox import SimInbox
from tests.simulation.loop import hop
from tests.simulation.orders import SimOrders, models_of
from tests.simulation.plan import FAULT_LIMIT
from tests.simulation.seen import DIRECTORY
from tests.simulation.troubles import DAY, Fault
from tests.simulation.world import World
from tests.simulation.writer import SimWriter

if TYPE_CHECKING:
    import aiosqlite

    from batchd.backends.models import KnownModels

RESERVE = 200
BALLAST = 400
SWEEP_EVERY = 1.5
ORPHAN_AGE = 4.0
_LIFETIME = 30 * 86400
_VALIDATING = 0.1  # seconds at most
_CLOSELY = 0.01
_LONGEST_WINDOW = 3.0
_POLICY = Policy(
    fault_limit=FAULT_LIMIT, first_delay=0.1, max_delay=1.0, refused_pause=1.0, quota_pause=1.0
)
_CONFIG = BatchesConfig()
_METRICS = Metrics()  # nobody reads it; it is slow to make


class Core:
    """The parts, and what they were made of."""

    def __init__(self, world: World) -> None:
        disk, now = world.disk, world.faults.now
        self.bells, self.sweeper_bell = EngineBells(), Bell()
        self.spool = _Spool(world)
        self.room = Room(disk, DIRECTORY, reserve=RESERVE, ballast=BALLAST)
        self.database = _database(world, self.room)
        self.writer = SimWriter(disk, self.room, _METRICS, self._ledger_failed, world.sync_time)
        damage = Damage(_METRICS)
        self.files = SimFiles(
            self.database,
            self.spool,
            max_size=1 << 20,
            room=self.room,
            lifetime=_LIFETIME,
            now=now,
            draw=world.draw,
            damage=damage,
        )
        self.batches = Batches(
            self.database, self.files, room=self.room, now=now, draw=world.draw, ring=self.ring
        )
        self.steering = Steering(self.database, self.batches, now=now, ring=self.ring)
        self.again = Again(self.files, self.batches, disk, {"24h": DAY})
        self.inbox = SimInbox(world, self.database, self.files, self.batches)
        self._world = world
        self.flow = SimPool(world)
        self.pool = self.flow.pool
        self.runs = Runs(self.batches.live, self.pool.note)
        orders = SimOrders(world)
        self.recovery = Recovery(
            self.spool, self.batches, self.runs, self.writer, _METRICS, damage, orders.open
        )
        self._engine()
        self.sweeper = Sweeper(
            self.batches,
            self.files,
            self.spool,
            self.sweeper_bell,
            sweep_every=SWEEP_EVERY,
            orphan_age=ORPHAN_AGE,
            now=now,
        )

    def _engine(self) -> None:
        world, plan = self._world, self._world.plan
        inputs = Inputs(self.spool, lambda path, _: _Lines(world, path))
        self.runner = Runner(
            self.runs,
            WatchedScheduler(world, self.pool),
            self.writer,
            world.disk,
            inputs,
            _POLICY,
            memory=Memory(plan.memory),
            drain=plan.drain,
            draw=world.chance.random,
            drained=self.bells.keeper.ring,
        )
        self.pool.listen(self.runner.ring)
        self.keeper = WatchedKeeper(
            world.steering,
            self.batches,
            self.runs,
            self.recovery,
            self.runner,
            bell=self.bells.keeper,
            finalizer_bell=self.bells.finalizer,
            grace=plan.grace,
        )
        self.finalizer = Finalizer(
            self.batches, self.runs, self.spool, inputs, self.bells.finalizer
        )
        self.validator = _Validator(world, self)

    def start(self, loops: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        loops.create_task(self.room.watch(stop), name="room")
        loops.create_task(self.pool.watch(stop), name="pool")
        loops.create_task(self.validator.run(stop), name="validator")
        loops.create_task(self.runner.run(stop), name="runner")
        loops.create_task(self.keeper.run(stop), name="keeper")
        loops.create_task(self.finalizer.run(stop), name="finalizer")
        loops.create_task(self.sweeper.run(stop), name="sweeper")
        if self._world.expects_drops:
            loops.create_task(self.inbox.run(stop), name="inbox")

    def ring(self) -> None:
        """All bells."""
        Bells([self.bells, self.sweeper_bell]).ring()

    def _ledger_failed(self, reason: str) -> None:  # noqa: ARG002 - for the log
        """As the daemon does it."""
        with contextlib.suppress(OSError):
            self.spool.distrust()
        self._world.endings.die()


def _database(world: World, room: Room) -> Database:
    def failed(reason: str) -> None:  # noqa: ARG001 - for the log
        world.endings.die()

    return Database(
        cast("aiosqlite.Connection", Connection(world.store.raw, world)),
        cast("aiosqlite.Connection", Reader(world.store.raw, world)),
        failed,
        room.make_room,
    )


class _Spool(Spool):
    def __init__(self, world: World) -> None:
        super().__init__(DIRECTORY, world.disk)
        self._endings = world.endings

    def distrust(self) -> None:
        self._endings.spare()
        super().distrust()


class _NoModels:
    async def known_models(self) -> "KnownModels | None":
        return None


class _Validator(Validator):
    """Holds, looks at rows and commits as batchd's does."""

    def __init__(self, world: World, core: Core) -> None:
        bell = core.bells.validator
        super().__init__(
            core.batches, core.files, core.spool, core.room, _NoModels(), _CONFIG, bell
        )
        self._world = world

    async def _inspect(self, record: BatchRecord) -> Verdict:
        world = self._world
        plan = world.seen.by_id[record.id].plan
        if plan.validates_late:
            # The clock may have been set back.
            await hop(min(record.expires_at - world.faults.now(), _LONGEST_WINDOW))
        await hop(world.chance.random() * (_CLOSELY if plan.validates_late else _VALIDATING))
        if not plan.is_valid:
            return Verdict(0, None, [LineError("invalid_json_line", "It is not JSON.", line=1)])
        models = models_of(plan)
        return Verdict(plan.total, models[0] if len(models) == 1 else None, [])


class _Lines:
    """An input as the engine reads it: from the batch's own hold on the simulated disk."""

    def __init__(self, world: World, path: Path) -> None:
        self._world = world
        self._batch = world.seen.by_id[path.parent.name]
        self._fail_perhaps()
        with world.disk.open_read(path) as file:
            self._lines = file.read().splitlines()

    def length(self, index: int) -> int:
        return len(self._lines[index])

    def read(self, index: int) -> bytes:
        self._fail_perhaps()
        return self._lines[index]

    def close(self) -> None:
        pass

    def _fail_perhaps(self) -> None:
        batch, world = self._batch, self._world
        batch.reads += 1
        if batch.plan.lost_after is not None and batch.reads > batch.plan.lost_after:
            world.seen.lose_input(batch)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if world.faults.is_on(Fault.DESCRIPTORS) and world.chance.random() < 0.5:
            world.faults.tally["passing errors"] += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
