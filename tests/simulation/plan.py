"""What a seed means: the batches of a history, the faults that meet it, and how its lives end.

Everything is drawn here, before anything runs; only latencies, answers and what a crash leaves are
drawn on the way, from streams of the same seed. Times are seconds of virtual time. After
``calm_at`` nothing goes wrong any more but the crashes that are still to come, so every history has
an end.
"""

import random
from enum import StrEnum

import msgspec

from batchd.model import RequestLine

# What stands in every prompt and every answer, and must stand in no log record.
PRIVATE = "PRIVATE"

FAULT_LIMIT = 3
STEADY_LINES = 14
LEAST_LINES = 20
LEAST_SLOTS = 4
DAY = 86400


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


class Fault(StrEnum):
    """What may be wrong for a while, or once."""

    DISK_FULL = "full disks"
    DESCRIPTORS = "lacks of descriptors"
    UNREACHABLE = "outages"
    REFUSED_KEY = "refused keys"
    REFUSED_ACCESS = "refused accesses"
    QUOTA = "used-up quotas"
    BAD_SYNC = "failed syncs"
    BAD_APPEND = "failed writes"
    BAD_DIRECTORY = "failed syncs of a directory"
    BAD_COMMIT = "failed commits"
    CLOCK = "jumps of the clock"


class Period(msgspec.Struct, frozen=True):
    """A time in which something is wrong; ``amount`` is bytes of room or seconds of a jump."""

    start: float
    end: float
    fault: Fault
    amount: float = 0


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """How the model server answers while it is not calm: shares of all answers."""

    refused: float = 0  # 400
    faults: float = 0  # 5xx, 408, 409, timeouts, resets, no JSON
    throttled: float = 0  # 429
    slowest: float = 0.3


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
    must_run: bool = False  # nothing may keep it from that

    @property
    def total(self) -> int:
        return len(self.lines)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    seed: int
    slots: int
    memory: int
    drain: float
    grace: float
    requests_per_minute: float
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
    calm_at = chance.uniform(2.5, 4)
    return Plan(
        seed=seed,
        slots=chance.randint(LEAST_SLOTS, 8),
        memory=chance.choice([1 << 20, 1 << 20, 1 << 20, 6000]),
        drain=chance.choice([0.05, 0.5, 5.0]),
        grace=chance.choice([0.0, 0.1, 3.0]),
        requests_per_minute=chance.choice([0, 0, 0, 0, 6000]),
        slowest_sync=chance.choice([0, 0, 0, 0, 0.3]),
        batches=batches,
        weather=_weather(chance),
        periods=_periods(chance, calm_at),
        endings=_endings(chance),
        calm_at=calm_at,
    )


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
        lines=[_line(chance, 0, index) for index in range(size)],
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
        lines=[_line(chance, number, index) for index in range(size)],
        create_at=chance.uniform(0, 1.0),
        window=window,
        validates_late=window < DAY and chance.random() < 0.3,
        keep=DAY if chance.random() < 0.2 else 30 * DAY,
        is_valid=chance.random() > 0.06,
        cancel_at=perhaps(0.3, chance.uniform(0, 2.5)),
        cancel_when=chance.choice(_CANCEL_WHEN) if chance.random() < 0.25 else None,
        delete_input_at=perhaps(0.15, chance.uniform(0, 2)),
        lost_after=chance.randint(0, size) if chance.random() < 0.08 else None,
    )


def _line(chance: random.Random, batch: int, index: int) -> bytes:
    padding = "x" * chance.choice([0, 0, 0, 10, 700])
    return (
        b'{"custom_id":"%d-%d","method":"POST","url":"/v1/chat/completions","body":'
        b'{"model":"m",  "temperature":1.0000000000000000001,"messages":[{"role":"user",'
        b'"content":"%s asks %d-%d %s"}]}}'
        % (batch, index, PRIVATE.encode(), batch, index, padding.encode())
    )


def request(index: int, line: bytes) -> RequestLine:
    """What the model server must be sent for a line, cut out by hand."""
    body = line[line.index(b'"body":') + len(b'"body":') : -1]
    name = line[len(b'{"custom_id":"') : line.index(b'","method"')]
    return RequestLine(index, name.decode(), "m", body)


def _weather(chance: random.Random) -> Weather:
    slowest = chance.choice([0.1, 0.2, 0.3, 0.6])
    match chance.randrange(5):
        case 0 | 1:
            return Weather(slowest=slowest)
        case 2:
            return Weather(refused=0.1, faults=0.1, slowest=slowest)
        case 3:
            return Weather(refused=0.05, faults=0.35, slowest=slowest)
        case _:
            return Weather(throttled=0.2, faults=0.05, slowest=slowest)


# How often a history has such a period, and how long it lasts at most.
_FAULTS: tuple[tuple[Fault, float, float], ...] = (
    (Fault.DISK_FULL, 0.25, 1.5),
    (Fault.DESCRIPTORS, 0.15, 1.0),
    (Fault.UNREACHABLE, 0.12, 1.0),
    (Fault.REFUSED_KEY, 0.06, 1.0),
    (Fault.REFUSED_ACCESS, 0.04, 0.5),
    (Fault.QUOTA, 0.04, 0.5),
    (Fault.BAD_SYNC, 0.10, 0),
    (Fault.BAD_APPEND, 0.04, 0),
    (Fault.BAD_DIRECTORY, 0.04, 0),
    (Fault.BAD_COMMIT, 0.04, 0),
    (Fault.CLOCK, 0.05, 0),
    (Fault.CLOCK, 0.05, 0),
)


def _periods(chance: random.Random, calm_at: float) -> list[Period]:
    periods: list[Period] = []
    for fault, share, longest in _FAULTS:
        if chance.random() < share:
            start = chance.uniform(0, 2.5)
            end = min(start + chance.uniform(0.1, 1) * longest, calm_at)
            amount = 0.0
            if fault is Fault.DISK_FULL:
                amount = chance.uniform(0, 600)
            elif fault is Fault.CLOCK:
                amount = chance.choice([2 * DAY, -DAY])
            periods.append(Period(start, end, fault, amount))
    return periods


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
