"""What may go wrong in a history, and when: drawn by chance.

Times are seconds of virtual time.
"""

import random
from enum import StrEnum

import msgspec

from tests.simulation.fleet import Fleet

DAY = 86400
MANY_GUESTS = 30  # so many that a server's count shows them whatever batchd does


class Fault(StrEnum):
    """What may be wrong for a while, or once."""

    DISK_FULL = "full disks"
    DESCRIPTORS = "lacks of descriptors"
    UNREACHABLE = "outages"
    REFUSED_KEY = "refused keys"
    REFUSED_ACCESS = "refused accesses"
    QUOTA = "used-up quotas"
    HANG = "hangs"
    DRAIN = "drains"
    THROTTLED = "floods of 429"
    SLOW = "slow times"
    GUESTS = "guests"
    BAD_SYNC = "failed syncs"
    BAD_APPEND = "failed writes"
    BAD_DIRECTORY = "failed syncs of a directory"
    BAD_COMMIT = "failed commits"
    CLOCK = "jumps of the clock"


class Period(msgspec.Struct, frozen=True):
    """A time in which something is wrong, at one server if it is a server's.

    ``amount`` is bytes of room, seconds of a jump, or a number of guests.
    """

    start: float
    end: float
    fault: Fault
    amount: float = 0
    server: str | None = None


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """How the model server answers while it is not calm: shares of all answers."""

    refused: float = 0  # 400
    faults: float = 0  # 5xx, 408, 409, timeouts, resets, no JSON
    throttled: float = 0  # 429
    always_throttled: str = ""  # the line that gets nothing else
    slowest: float = 0.3


def drawn_weather(chance: random.Random) -> Weather:
    """How a server answers when nothing else is wrong with it."""
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
    (Fault.BAD_SYNC, 0.10, 0),
    (Fault.BAD_APPEND, 0.04, 0),
    (Fault.BAD_DIRECTORY, 0.04, 0),
    (Fault.BAD_COMMIT, 0.04, 0),
    (Fault.CLOCK, 0.05, 0),
    (Fault.CLOCK, 0.05, 0),
)
# The same for each server.
_AT_SERVERS: tuple[tuple[Fault, float, float], ...] = (
    (Fault.UNREACHABLE, 0.10, 1.0),
    (Fault.REFUSED_KEY, 0.05, 1.0),
    (Fault.REFUSED_ACCESS, 0.04, 0.5),
    (Fault.QUOTA, 0.04, 0.5),
    (Fault.THROTTLED, 0.06, 0.7),
    (Fault.SLOW, 0.08, 2.0),
)
_HANGS = ((Fault.HANG, 0.04, 14.0), (Fault.DRAIN, 0.04, 8.0))


def drawn_periods(chance: random.Random, fleet: Fleet, calm_at: float) -> list[Period]:
    """What goes wrong with the machine, and with the servers one by one."""
    return [*_periods(chance, calm_at), *_at_servers(chance, fleet, calm_at)]


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


def _at_servers(chance: random.Random, fleet: Fleet, calm_at: float) -> list[Period]:
    periods: list[Period] = []
    for server in fleet.servers:
        for fault, share, longest in _AT_SERVERS:
            if chance.random() < share:
                start = chance.uniform(0, 2.5)
                end = min(start + chance.uniform(0.1, 1) * longest, calm_at)
                periods.append(Period(start, end, fault, server=server.name))
        if server.polite:
            start = chance.uniform(0, 2)
            guests = chance.choice([1, 2, MANY_GUESTS])
            end = start + chance.choice([1, 2, 6])
            periods.append(Period(start, end, Fault.GUESTS, guests, server.name))
    return periods


def drawn_hangs(chance: random.Random, fleet: Fleet) -> list[Period]:
    """Servers that answer nothing for so long that batchd must notice it."""
    periods: list[Period] = []
    for server in fleet.servers:
        for fault, share, longest in _HANGS:
            if chance.random() < share:
                start = chance.uniform(0.2, 1.5)
                end = start + chance.uniform(0.1, 1) * longest
                periods.append(Period(start, end, fault, server=server.name))
    return periods
