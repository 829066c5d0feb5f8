"""What a seed means: the batches of a history, the faults that meet it, and how its lives end.

Everything is drawn here, before anything runs; only latencies, answers and what a crash leaves are
drawn on the way, from streams of the same seed. Times are seconds of virtual time. After
``calm_at`` nothing goes wrong any more but the crashes that are still to come, so every history has
an end.
"""

import random
from enum import StrEnum

import msgspec

from batchd.model import LOCAL_OWNER, RequestLine
from tests.simulation.fleet import MODELS, Fleet, drawn_fleet
from tests.simulation.troubles import (
    DAY,
    Fault,
    Period,
    Weather,
    drawn_hangs,
    drawn_periods,
    drawn_weather,
)
from tests.simulation.use import PLAIN, Use, drawn_use

# What stands in every prompt and every answer, and must stand in no log record.
PRIVATE = "PRIVATE"

FAULT_LIMIT = 3
STEADY_LINES = 14
LEAST_LINES = 20


class EndKind(StrEnum):
    """How a life ends. ``DEATH`` is never planned: batchd gave up, or fell."""

    KILL = "kills"
    POWER = "power cuts"
    DEATH = "deaths"
    STOP = "stops"


class Trigger(StrEnum):
    """When it ends: ``count`` of these after the life began, or after a status was reached."""

    OPERATION = "disk operation"
    PASS = "pass of the loop"  # noqa: S105 - no password
    COMMIT = "commit"
    SENDING = "sending"
    RECOVERED = "disk operation after recovery"
    FINALIZING = "disk operation after finalizing"
    CANCELLING = "disk operation after cancelling"


class Rot(StrEnum):
    """What happens to a result file that was on disk, while batchd is down."""

    FLIP = "flipped bits"
    CUT = "cut files"
    GONE = "lost files"
    TWICE = "repeated lines"


class Ending(msgspec.Struct, frozen=True):
    """And what is done to the machine before the next life.

    A stop after a status comes ``count`` hundredths of a second after it.
    """

    kind: EndKind
    trigger: Trigger
    count: int
    then_bad_sync: bool = False  # the first sync of the next life fails
    then_rot: Rot | None = None


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    lines: list[bytes]  # of the input file
    create_at: float
    window: int = DAY
    keep: int = 30 * DAY  # its results
    is_valid: bool = True
    validates_late: bool = False  # just when its window ends
    cancel_at: float | None = None
    cancel_when: str | None = None  # a status
    delete_input_at: float | None = None
    lost_after: int | None = None  # reads of its input
    order_is_lost: bool = False  # with its input
    owner: str = LOCAL_OWNER
    priority: int = 0
    is_grouped: bool = False  # in the order of its prompts, not of its input
    must_run: bool = False  # nothing may keep it from that
    use: Use = PLAIN

    @property
    def total(self) -> int:
        return len(self.lines)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    seed: int
    fleet: Fleet
    max_running: int = 0
    max_running_per_owner: int = 0
    memory: int
    drain: float
    grace: float
    slowest_sync: float
    batches: list[BatchPlan]
    weather: Weather
    periods: list[Period]
    endings: list[Ending]
    calm_at: float

    @property
    def line_count(self) -> int:
        return sum(batch.total for batch in self.batches)


def custom_id(batch: int, index: int) -> str:
    return f"{batch}-{index}"


def planned(seed: int) -> Plan:
    """The plan of a seed."""
    chance = random.Random(f"plan {seed}")  # noqa: S311 - a simulation
    batches = _batches(chance)
    fleet = drawn_fleet(chance)
    hangs = drawn_hangs(chance, fleet)
    calm_at = max([chance.uniform(2.5, 4), *(period.end for period in hangs)])
    plan = Plan(
        seed=seed,
        fleet=fleet,
        max_running=chance.choice([0, 0, 0, 0, 0, 6]),
        max_running_per_owner=chance.choice([0, 0, 0, 0, 0, 5]),
        memory=chance.choice([1 << 20, 1 << 20, 1 << 20, 6000]),
        drain=chance.choice([0.05, 0.5, 5.0]),
        grace=chance.choice([0.0, 0.1, 3.0]),
        slowest_sync=chance.choice([0, 0, 0, 0, 0.3]),
        batches=batches,
        weather=drawn_weather(chance),
        periods=[*drawn_periods(chance, fleet, calm_at), *hangs],
        endings=_endings(chance),
        calm_at=calm_at,
    )
    return msgspec.structs.replace(plan, batches=_used(plan))


_CANCEL_WHEN = ("validating", "in_progress", "finalizing", "finalizing")


def _batches(chance: random.Random) -> list[BatchPlan]:
    count = chance.choice([1, 1, 1, 2, 3])
    sizes = [chance.randint(STEADY_LINES, 17)]
    sizes += [chance.randint(3, 6) for _ in range(count - 1)]
    if sum(sizes) < LEAST_LINES:
        sizes[0] += LEAST_LINES - sum(sizes)
    plans = [_steady(chance, sizes[0])]
    plans += [_any(chance, number, size) for number, size in enumerate(sizes[1:], start=1)]
    return plans


def _steady(chance: random.Random, size: int) -> BatchPlan:
    """The one that surely runs: if it is cancelled, then late."""
    return BatchPlan(
        number=0,
        lines=_lines(chance, 0, size),
        is_grouped=chance.random() < 0.5,
        create_at=0.0,
        must_run=True,
        cancel_when="finalizing" if chance.random() < 0.1 else None,
        delete_input_at=chance.uniform(0.3, 2) if chance.random() < 0.1 else None,
    )


def _any(chance: random.Random, number: int, size: int) -> BatchPlan:
    def perhaps(share: float, value: float) -> float | None:
        return value if chance.random() < share else None

    window = chance.randint(1, 3) if chance.random() < 0.35 else DAY
    return BatchPlan(
        number=number,
        lines=_lines(chance, number, size),
        is_grouped=chance.random() < 0.5,
        owner=chance.choice([LOCAL_OWNER, "guest"]),
        priority=chance.choice([0, 0, -3, 4]),
        create_at=chance.uniform(0, 1.0),
        window=window,
        validates_late=window < DAY and chance.random() < 0.3,
        keep=DAY if chance.random() < 0.2 else 30 * DAY,
        is_valid=chance.random() > 0.06,
        cancel_at=perhaps(0.3, chance.uniform(0, 2.5)),
        cancel_when=chance.choice(_CANCEL_WHEN) if chance.random() < 0.25 else None,
        delete_input_at=perhaps(0.15, chance.uniform(0, 2)),
        lost_after=chance.randint(0, size) if chance.random() < 0.08 else None,
        order_is_lost=chance.random() < 0.5,
    )


def _used(plan: Plan) -> list[BatchPlan]:
    """Its batches, with what clients do with them."""
    chance = random.Random(f"uses {plan.seed}")  # noqa: S311 - a simulation
    is_steady = all(period.fault is not Fault.CLOCK for period in plan.periods)
    return [
        msgspec.structs.replace(batch, use=drawn_use(chance, batch, is_steady=is_steady))
        for batch in plan.batches
    ]


def _lines(chance: random.Random, batch: int, size: int) -> list[bytes]:
    """Of one model or two, with as many beginnings of prompts as chance has it."""
    models = chance.choice([MODELS[:1], MODELS[:1], MODELS])
    groups = chance.randint(1, 5)
    return [
        line_text(
            batch,
            index,
            model=chance.choice(models),
            group=chance.randrange(groups),
            padding=chance.choice([0, 0, 0, 10, 700]),
        )
        for index in range(size)
    ]


def line_text(
    batch: int, index: int, *, model: str = "m", group: int = 0, padding: int = 0
) -> bytes:
    """A line of an input file."""
    return (
        b'{"custom_id":"%d-%d","method":"POST","url":"/v1/chat/completions","body":'
        b'{"model":"%s",  "temperature":1.0000000000000000001,"messages":'
        b'[{"role":"system","content":"%s of group %d"},{"role":"user",'
        b'"content":"%s asks %d-%d %s"}]}}'
        % (
            *(batch, index, model.encode(), PRIVATE.encode(), group),
            *(PRIVATE.encode(), batch, index, b"x" * padding),
        )
    )


def request(index: int, line: bytes) -> RequestLine:
    """What the model server must be sent for a line, cut out by hand."""
    body = line[line.index(b'"body":') + len(b'"body":') : -1]
    name = line[len(b'{"custom_id":"') : line.index(b'","method"')]
    model = body[len(b'{"model":"') : body.index(b'",')]
    return RequestLine(index, name.decode(), model.decode(), body)


def _endings(chance: random.Random) -> list[Ending]:
    """One crash at least."""
    endings: list[Ending] = []
    for _ in range(chance.choice([1, 1, 1, 2, 2])):
        if chance.random() < 0.15:
            endings.append(_stop(chance))
        crash = _crash(chance)
        if chance.random() < 0.15:
            crash = msgspec.structs.replace(crash, then_rot=chance.choice(list(Rot)))
        endings.append(crash)
        draw = chance.random()
        if crash.kind is EndKind.KILL and draw < 0.5:
            # What the kill left in the page cache only is put to the test.
            count = chance.randint(0, 6)
            endings.append(Ending(EndKind.POWER, Trigger.RECOVERED, count))
        elif crash.kind is EndKind.KILL and draw < 0.8:
            endings[-1] = msgspec.structs.replace(crash, then_bad_sync=True)
    return endings


def _stop(chance: random.Random) -> Ending:
    if chance.random() < 0.6:
        return Ending(EndKind.STOP, Trigger.SENDING, chance.randint(1, 30))
    trigger = chance.choice([Trigger.FINALIZING, Trigger.CANCELLING])
    return Ending(EndKind.STOP, trigger, chance.randint(0, 3))


def _crash(chance: random.Random) -> Ending:
    kind = chance.choice([EndKind.KILL, EndKind.POWER])
    match chance.randrange(8):
        case 0 | 1 | 2:
            return Ending(kind, Trigger.OPERATION, chance.randint(1, 60))
        case 3:
            return Ending(kind, Trigger.PASS, chance.randint(1, 600))
        case 4:
            return Ending(kind, Trigger.COMMIT, chance.randint(1, 8))
        case 5:
            return Ending(kind, Trigger.SENDING, chance.randint(1, 30))
        case 6:
            return Ending(kind, Trigger.FINALIZING, chance.randint(0, 8))
        case _:
            return Ending(kind, Trigger.CANCELLING, chance.randint(0, 8))
