"""A model server and a runner in virtual time, to try out what decides how much is in flight.

`Server` has slots and a silent queue before them. All that it runs moves on at one speed, which may
depend on how many it runs (batching), and its slots and speed may change at given times. `run`
keeps it as full as a limit allows, as the engine does, and reports what came of it. Units: seconds.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Control(Protocol):
    """What says how much may be in flight: `Auto` or `Fixed`."""

    @property
    def limit(self) -> int: ...
    @property
    def is_settled(self) -> bool: ...
    def sent(self, now: float, in_flight: int) -> None: ...
    def answered(self, now: float, took: float, in_flight: int) -> None: ...
    def overloaded(self, now: float, in_flight: int, *, refused: bool = False) -> None: ...
    def queued(self, now: float, waiting: int) -> None: ...


@dataclass(frozen=True)
class Change:
    """From `at` on the server is another one; what is None stays."""

    at: float
    slots: int | None = None
    slowness: float | None = None
    crash: bool = False  # everything it holds is answered with a 500


def alone(_running: int) -> float:
    """The speed of requests that do not slow each other down."""
    return 1.0


def lognormal(count: int, seed: int, *, sigma: float = 1.0, mean: float = 1.0) -> list[float]:
    """How long each line takes in a slot."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    return [mean * math.exp(chance.gauss(-sigma * sigma / 2, sigma)) for _ in range(count)]


@dataclass
class Server:
    """`cap`: it answers 429 to what would make it hold more. `tells`: it reports its queue.

    `fails_one_in`: one in so many requests is answered with a 500 instead.
    """

    slots: int
    speed: Callable[[int], float] = alone
    changes: Sequence[Change] = ()
    cap: int | None = None
    tells: bool = False
    fails_one_in: int = 0


@dataclass(frozen=True)
class Seen:
    """One look at the runner, taken after each answer."""

    at: float
    limit: int
    in_flight: int
    settled: bool


@dataclass
class Report:
    makespan: float = 0.0
    seen: list[Seen] = field(default_factory=list["Seen"])
    failed: int = 0
    # how many outcomes had come at each decrease, and the limit before it
    decreases: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def most_in_flight(self, after: float = 0.0) -> int:
        """The most ever in flight while settled, and later than `after`."""
        return max(
            (look.in_flight for look in self.seen if look.settled and look.at > after), default=0
        )

    def limits(self, after: float = 0.0, before: float = math.inf) -> list[int]:
        """The limit at each answer in a stretch of time."""
        return [look.limit for look in self.seen if after < look.at < before]

    def settled_at(self, after: float, within: range) -> float:
        """When it first had settled, with a limit in `within`."""
        return next(
            (s.at for s in self.seen if s.settled and s.at > after and s.limit in within), math.inf
        )


class _Run:
    def __init__(
        self,
        server: Server,
        control: Control,
        works: Sequence[float],
        *,
        gap: float,
        supply: Sequence[tuple[float, int]],
    ) -> None:
        self._server, self._control, self._works, self._gap = server, control, works, gap
        self._slots, self._slowness = server.slots, 1.0
        self._changes = deque(sorted(server.changes, key=lambda change: change.at))
        self._supply = deque(supply)
        self._fresh, self._again = 0, list[int]()
        self._available = 0
        self._parked_until = -math.inf
        self._now = 0.0
        self._done = self._answers = 0
        self._progress = 0.0  # the work done of a request that had always been running
        self._running: list[tuple[float, int]] = []
        self._waiting: deque[int] = deque()
        self._arrivals: deque[tuple[float, int]] = deque()
        self._sent_at: dict[int, float] = {}
        self.report = Report()

    def go(self) -> Report:
        while self._done < len(self._works):
            self._fill()
            at, what = min(
                (self._next_answer(), self._answer),
                (self._arrivals[0][0] if self._arrivals else math.inf, self._arrive),
                (self._changes[0].at if self._changes else math.inf, self._change),
                (self._supply[0][0] if self._supply else math.inf, self._more),
                (self._parked_until if self._parked_until > self._now else math.inf, self._unpark),
                key=lambda event: event[0],
            )
            if at == math.inf:
                raise AssertionError("the simulation has come to a standstill")
            self._progress += (at - self._now) * self._rate()
            self._now = at
            what()
        self.report.makespan = self._now
        return self.report

    def _rate(self) -> float:
        return self._server.speed(len(self._running)) / self._slowness if self._running else 0.0

    def _next_answer(self) -> float:
        if not self._running:
            return math.inf
        return self._now + max(self._running[0][0] - self._progress, 0.0) / self._rate()

    def _fill(self) -> None:
        if self._now < self._parked_until:
            return
        while len(self._sent_at) < self._control.limit:
            if self._again:
                line = self._again.pop()
            elif self._fresh < self._available:
                line, self._fresh = self._fresh, self._fresh + 1
            else:
                return
            self._sent_at[line] = self._now
            self._control.sent(self._now, len(self._sent_at))
            self._arrivals.append((self._now + self._gap, line))

    def _arrive(self) -> None:
        line = self._arrivals.popleft()[1]
        cap = self._server.cap
        if cap is not None and len(self._running) + len(self._waiting) >= cap:
            self._parked_until = self._now + 1.0
            self._fail(line, refused=True)
        else:
            self._waiting.append(line)
            self._start()

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            line = self._waiting.popleft()
            heapq.heappush(self._running, (self._progress + self._works[line], line))

    def _answer(self) -> None:
        line = heapq.heappop(self._running)[1]
        self._start()
        self._answers += 1
        if self._server.fails_one_in and self._answers % self._server.fails_one_in == 0:
            self._fail(line, refused=False)
            return
        self._done += 1
        took = self._now - self._sent_at.pop(line)
        self._told(lambda: self._control.answered(self._now, took, len(self._sent_at)))
        if self._server.tells and self._done % 64 == 0:
            self._control.queued(self._now, len(self._waiting))
        self.report.seen.append(
            Seen(self._now, self._control.limit, len(self._sent_at), self._control.is_settled)
        )

    def _fail(self, line: int, *, refused: bool) -> None:
        self.report.failed += 1
        del self._sent_at[line]
        self._again.append(line)
        in_flight = len(self._sent_at)
        self._told(lambda: self._control.overloaded(self._now, in_flight, refused=refused))

    def _told(self, tell: Callable[[], None]) -> None:
        before = self._control.limit
        tell()
        if self._control.limit < before:
            outcomes = self._done + self.report.failed
            self.report.decreases.append((outcomes, before))

    def _change(self) -> None:
        change = self._changes.popleft()
        self._slots = change.slots or self._slots
        self._slowness = change.slowness or self._slowness
        if change.crash:
            lost = [line for _, line in self._running] + list(self._waiting)
            self._running.clear()
            self._waiting.clear()
            for line in lost:
                self._fail(line, refused=False)
        self._start()

    def _more(self) -> None:
        self._available += self._supply.popleft()[1]

    def _unpark(self) -> None:
        self._parked_until = -math.inf


def run(
    server: Server,
    control: Control,
    works: Sequence[float],
    *,
    gap: float = 0.001,
    supply: Sequence[tuple[float, int]] | None = None,
) -> Report:
    """Send one line for each of `works`, which says how long each takes in a slot.

    `gap` passes between an answer and the arrival of the request that follows it. `supply` says
    when how many lines become known; without it all are there from the start.
    """
    return _Run(server, control, works, gap=gap, supply=supply or [(0.0, len(works))]).go()
