"""Histories told line by line: what chance meets too seldom, or never.

Each is a plan with few words of its own, and perhaps somebody who meddles with a running life.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from batchd.closing import Closing
from batchd.ledger import Ledger
from batchd.model import LOCAL_OWNER, BatchRecord
from batchd.states import Event
from tests.simulation.core import Core
from tests.simulation.fleet import Fleet, Reload, ServerPlan
from tests.simulation.life import Meddle
from tests.simulation.plan import BatchPlan, Ending, EndKind, Plan, Rot, Trigger, line_text
from tests.simulation.troubles import MANY_GUESTS, Fault, Period, Weather
from tests.simulation.world import World

KILL, POWER, STOP = EndKind.KILL, EndKind.POWER, EndKind.STOP


class Script(NamedTuple):
    plan: Plan
    meddle: Meddle | None = None


def _plain(*endings: Ending, lines: int = 20, **changes: object) -> Plan:
    """One batch of a calm server, 4 slots; nothing goes wrong but what is said."""
    texts = [line_text(0, index) for index in range(lines)]
    plan = Plan(
        seed=0,
        fleet=Fleet(servers=(ServerPlan(name="server-0"),)),
        memory=1 << 20,
        drain=0.5,
        grace=0.1,
        slowest_sync=0,
        batches=[BatchPlan(number=0, lines=texts, create_at=0.0, must_run=True)],
        weather=Weather(slowest=0.1),
        periods=[],
        endings=list(endings),
        calm_at=0.0,
    )
    return msgspec.structs.replace(plan, **changes)


def _with_batch(plan: Plan, **changes: object) -> Plan:
    return msgspec.structs.replace(
        plan, batches=[msgspec.structs.replace(plan.batches[0], **changes)]
    )


def damaged(how: Rot) -> Script:
    """A result file that was known to be good is damaged while batchd is down."""
    first = Ending(KILL, Trigger.SENDING, 9)
    second = Ending(KILL, Trigger.SENDING, 4, then_rot=how)  # all that is there was read back
    return Script(_plain(first, second, weather=Weather(slowest=0.1, refused=0.5), calm_at=9.0))


def stopped_while_full() -> Script:
    """Stopped while never-run lines wait for room: the ending is given up, and done again."""
    full = Period(0.101, 9.0, Fault.DISK_FULL, 0)
    plan = _plain(
        Ending(STOP, Trigger.CANCELLING, 50),
        Ending(KILL, Trigger.RECOVERED, 0),
        periods=[full],
        calm_at=9.0,
        grace=0.0,
    )
    return Script(_with_batch(plan, cancel_at=0.1))


def opened_twice() -> Script:
    """A run that is there already is not opened again."""

    async def meddle(world: World, core: Core) -> None:
        for batch in world.seen.unfinished:
            await core.recovery.open(batch.id)

    return Script(_plain(Ending(KILL, Trigger.SENDING, 9)), meddle)


def without_an_id() -> Script:
    """A row that lost the id of its output file: nothing may be written any more."""

    async def meddle(world: World, core: Core) -> None:  # noqa: ARG001 - it is the row
        await world.seen.reached(0, "in_progress").wait()
        world.store.lose_transaction()
        world.store.raw.execute("UPDATE batch SET output_file_id = NULL")
        world.endings.crash()

    return Script(_plain(Ending(KILL, Trigger.SENDING, 99)), meddle)


class _Miscounting(Ledger):
    @property
    def never_run(self) -> int:
        return super().never_run + 1


def miscounted() -> Script:
    """Counts that do not add up when a batch is to end."""

    async def meddle(world: World, core: Core) -> None:
        await world.seen.reached(0, "finalizing").wait()
        for run in core.runs:
            run.ledger.__class__ = _Miscounting

    return Script(_plain(Ending(KILL, Trigger.SENDING, 9)), meddle)


def cancelled_at_the_last_moment() -> Script:
    """A window has closed, and a cancel comes between the last look at the row and the commit."""

    async def meddle(world: World, core: Core) -> None:  # noqa: ARG001 - it is the core
        as_shipped = core.batches.finished

        async def finished(batch_id: str, event: Event, closing: Closing) -> BatchRecord | None:
            if event is Event.PUBLISHED_LATE:
                await core.batches.cancel(LOCAL_OWNER, batch_id)
            return await as_shipped(batch_id, event, closing)

        core.batches.finished = finished

    slow = Weather(slowest=3.0)
    plan = _plain(Ending(KILL, Trigger.SENDING, 2), weather=slow, calm_at=30.0)
    return Script(_with_batch(plan, window=4), meddle)


_TWO = (ServerPlan(name="server-0"), ServerPlan(name="server-1", slots=1))


def dead(how: Fault) -> Script:
    """A server answers no more, with lines in flight; another must do them."""
    return Script(
        _plain(
            fleet=Fleet(servers=_TWO),
            periods=[Period(0.3, 100.0, how, server="server-0")],
            lines=60,
        )
    )


def left_out_while_it_hangs() -> Script:
    """A server is left out since it hangs: what hangs on it goes elsewhere."""
    fleet = Fleet(servers=_TWO, reloads=(Reload(0.5, _TWO[1:]),))
    return Script(
        _plain(fleet=fleet, periods=[Period(0.3, 100.0, Fault.HANG, server="server-0")], lines=60)
    )


def left_out_and_back() -> Script:
    """One server goes and comes back as another would: with other limits, while lines are slow."""
    others = (msgspec.structs.replace(_TWO[0], slots=2), _TWO[1])
    fleet = Fleet(servers=_TWO, reloads=(Reload(0.2, _TWO[1:]), Reload(4.0, others)))
    return Script(_plain(fleet=fleet, weather=Weather(slowest=1.0), lines=40))


def beside_guests() -> Script:
    """Others use the server, too, for a while."""
    server = ServerPlan(name="server-0", slots=8, polite=True)
    guests = Period(0.2, 6.0, Fault.GUESTS, MANY_GUESTS, "server-0")
    slow = Weather(slowest=0.6)
    return Script(_plain(fleet=Fleet(servers=(server,)), periods=[guests], lines=200, weather=slow))


def read_in_pieces() -> Script:
    """Two large groups, read on again and again, at a server whose limit is found by measuring."""
    server = ServerPlan(name="server-0", slots=None)
    texts = [line_text(0, index, group=index % 2) for index in range(700)]
    plan = _plain(
        Ending(KILL, Trigger.SENDING, 300),
        fleet=Fleet(servers=(server,), ceiling=64),
        periods=[Period(0.1, 0.6, Fault.DESCRIPTORS)],
        calm_at=1.0,
    )
    return Script(_with_batch(plan, lines=texts, is_grouped=True))


CROWD = 40


def crowd() -> Script:
    """Many small batches of two owners behind a large one."""
    large = BatchPlan(
        number=0,
        lines=[line_text(0, index) for index in range(300)],
        create_at=0.0,
        must_run=True,
    )
    small = [
        BatchPlan(
            number=number,
            lines=[line_text(number, index) for index in range(4)],
            create_at=0.3,
            owner=("local", "guest")[number % 2],
        )
        for number in range(1, CROWD)
    ]
    return Script(_plain(batches=[large, *small]))


def failing_for_ever() -> Script:
    """Nothing but faults, and a daemon that is stopped again and again: no budget begins anew."""
    stops = [Ending(STOP, Trigger.SENDING, 9) for _ in range(4)]
    return Script(_plain(*stops, weather=Weather(slowest=0.1, faults=1.0), calm_at=60.0))


def throttled_for_ever() -> Script:
    """One line gets nothing but 429 while the others are answered: it must not wait for ever."""
    weather = Weather(slowest=0.3, always_throttled="0-0")
    return Script(_plain(weather=weather, calm_at=60.0, lines=80))


SCRIPTS: Mapping[str, Callable[[], Script]] = {
    **{how.value: (lambda how=how: damaged(how)) for how in Rot},
    "stopped while full": stopped_while_full,
    "opened twice": opened_twice,
    "without an id": without_an_id,
    "miscounted": miscounted,
    "cancelled at the last moment": cancelled_at_the_last_moment,
    "hung": lambda: dead(Fault.HANG),
    "drained": lambda: dead(Fault.DRAIN),
    "left out while it hangs": left_out_while_it_hangs,
    "left out and back": left_out_and_back,
    "beside guests": beside_guests,
    "read in pieces": read_in_pieces,
    "crowd": crowd,
    "throttled for ever": throttled_for_ever,
    "failing for ever": failing_for_ever,
}
