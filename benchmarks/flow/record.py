"""What a virtual GPU server saw: each arrival and each end, written as it happens.

Written with no buffer of our own, so that the record is whole however the server dies. Instants are
those of the machine's monotonic clock, which all processes share.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

ON_THE_WIRE = 0.05  # seconds within which a request may cross a 429


class Row(msgspec.Struct, frozen=True, array_like=True):
    life: int  # the server's process id: numbers begin anew in each
    number: int
    what: Literal["arrived", "ended", "aborted"]
    at: float
    nonce: str = ""
    status: int = 0
    started: float = 0
    tokens: int = 0
    told: float = 0


class Served(msgspec.Struct, kw_only=True):
    """One request. ``ended`` is infinite and ``status`` 0 when it was never answered."""

    nonce: str
    arrived: float
    tokens: int = 0
    started: float = math.inf
    ended: float = math.inf
    left: float = math.inf  # when it was answered or its client hung up
    status: int = 0
    told: float = 0  # seconds that a 429 asked to wait


class Recorder:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._encode = msgspec.json.Encoder().encode

    def add(self, row: Row) -> None:
        os.write(self._file, self._encode(row) + b"\n")

    def close(self) -> None:
        os.close(self._file)


_decode = msgspec.json.Decoder(Row).decode


def read_record(path: Path, since: float = -math.inf) -> list[Served]:
    """The requests that arrived from ``since`` on, in order of arrival."""
    found: dict[tuple[int, int], Served] = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        row = _decode(line)
        if row.what == "arrived":
            found[row.life, row.number] = Served(nonce=row.nonce, arrived=row.at, tokens=row.tokens)
            continue
        served = found[row.life, row.number]
        served.left = row.at
        if row.what == "ended":
            served.ended, served.status = row.at, row.status
            served.started, served.told = row.started, row.told
    return [served for served in found.values() if served.arrived >= since]


def makespan(record: Iterable[Served]) -> float:
    """From the first arrival to the last good answer."""
    good = [served for served in record if served.status == 200]  # noqa: PLR2004 - HTTP's OK
    return max(s.ended for s in good) - min(s.arrived for s in good)


def in_flight(record: Iterable[Served], begin: float, end: float) -> tuple[int, float]:
    """The most and the mean that were in flight between two instants."""
    steps: list[tuple[float, int]] = []
    for served in record:
        if served.arrived < end and served.left > begin:
            steps += [(max(served.arrived, begin), 1), (min(served.left, end), -1)]
    steps.sort()  # at the same instant one leaves before another comes
    now = most = 0
    area, before = 0.0, begin
    for at, change in steps:
        area += now * (at - before)
        now, before = now + change, at
        most = max(most, now)
    return most, area / (end - begin) if end > begin else 0.0


def served_share(record: Iterable[Served], slots: int, begin: float, end: float) -> float:
    """How much of the slots' time between two instants was used."""
    used = sum(
        max(0.0, min(served.ended, end) - max(served.started, begin))
        for served in record
        if served.status == 200  # noqa: PLR2004 - HTTP's OK
    )
    return used / (slots * (end - begin))


def good_between(record: Iterable[Served], begin: float, end: float) -> list[Served]:
    """Those with a good answer that arrived between two instants."""
    return [
        served
        for served in record
        if begin <= served.arrived < end and served.status == 200  # noqa: PLR2004 - HTTP's OK
    ]


def answer_rate(record: Iterable[Served], begin: float, end: float) -> float:
    """Good answers per second between two instants."""
    count = sum(begin <= s.ended < end and s.status == 200 for s in record)  # noqa: PLR2004 - OK
    return count / (end - begin)


def disobeyed(record: Iterable[Served]) -> list[float]:
    """Of each request that came while the server had told to wait, how long after it was told.

    Requests that may have crossed the 429 on the wire are not among them.
    """
    record = list(record)
    coming = sorted((s for s in record if s.told), key=lambda s: s.ended, reverse=True)
    told: list[Served] = []
    found: list[float] = []
    for served in record:
        while coming and coming[-1].ended < served.arrived:
            told.append(coming.pop())
        told = [one for one in told if one.ended + one.told > served.arrived]
        if told and served.arrived - told[0].ended > ON_THE_WIRE:
            found.append(served.arrived - told[0].ended)
    return found
