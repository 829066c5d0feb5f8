"""The orders of the batches of a history: made as batchd makes them, kept in memory."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from batchd import prefix
from batchd.gathering import Gathered, Gathering, Group
from batchd.grouping import LineOrder
from batchd.model import BatchRecord
from tests.simulation.plan import BatchPlan
from tests.simulation.troubles import Fault
from tests.simulation.world import World

if TYPE_CHECKING:
    from array import array

_PIECE = 40  # lines that one read gives at most


class _Order(LineOrder):
    """As of a file; a read may find that there is no descriptor left."""

    def __init__(self, world: World, gathered: Gathered) -> None:
        super().__init__(gathered.groups, len(gathered.lines))
        self._world = world
        self._lines = gathered.lines

    @property
    def is_as_in_input(self) -> bool:
        return False

    def read(self, position: int, count: int) -> "array[int]":
        world = self._world
        if world.faults.is_on(Fault.DESCRIPTORS) and world.chance.random() < 0.5:
            world.faults.tally["orders not read"] += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        world.seen.tally["pieces of an order"] += 1
        return self._lines[position : position + min(count, _PIECE)]


class SimOrders:
    """Opens orders, in the place of ``Orders``."""

    def __init__(self, world: World) -> None:
        self._world = world

    def open(self, record: BatchRecord) -> LineOrder | None:
        world = self._world
        batch = world.seen.by_id[record.id]
        plan = batch.plan
        if batch.was_lost and plan.order_is_lost:
            world.seen.tally["lost orders"] += 1
            return None
        if plan.number not in world.orders:
            world.orders[plan.number] = _gathered(plan)
        gathered = world.orders[plan.number]
        if gathered is None:
            total = record.counts.total
            return LineOrder([Group(record.model or "", 0, 0, total, is_rest=True)], total)
        return _Order(world, gathered)


def _gathered(plan: BatchPlan) -> Gathered | None:
    """None for an order as in the input, which needs no file if there is one model."""
    gathering = Gathering(Path("/nowhere"), lambda: None)  # small ones stay in memory
    for line in plan.lines:
        request = prefix.decode(line)
        signature = prefix.signature(request.body, request.url) if plan.is_grouped else 0
        gathering.add(request.body.model, signature)
    gathered = gathering.gathered()
    gathering.close()
    return gathered


def models_of(plan: BatchPlan) -> list[str]:
    """The models that its lines name."""
    return sorted({prefix.decode(line).body.model for line in plan.lines})
