"""Which line goes next: one weighted deficit round robin, over owners, then over their batches.

For each model the owners with lines of it take turns (``rounds``), and for each owner its batches.
So a batch of up to ``QUANTUM`` lines is done within one round: the time of its own lines and of a
share of everybody's. O(1) per line however many batches run; a batch with nothing to send sleeps in
a heap until a line is due.

The weight of a batch doubles with every two steps of priority, and grows as its window runs out: to
2 when half is left, to 8 at the end. It is looked at anew in each round. Owners weigh the same.
"""

import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable

from batchd.backends.lane import Slot
from batchd.backends.pool import Pool
from batchd.engine.queue import LineQueue
from batchd.engine.rounds import Rounds
from batchd.engine.runs import Run

_URGENT = 1 / 8  # the share of a window that may be left for the weight to grow no more


def weight(priority: int, share_left: float) -> float:
    """How much more than another a batch is served; 1 for one of priority 0 that has just begun."""
    return 2.0 ** (priority / 2) / min(1.0, max(share_left, _URGENT))


class Seat:
    """A batch's place among those with lines of one model."""

    def __init__(self, run: Run, queue: LineQueue) -> None:
        self.run = run
        self.queue = queue
        self.is_awake = False
        self.is_gone = False
        self.credit = 0.0
        self.round = 0


class _Owner:
    """One owner's batches among those with lines of one model."""

    def __init__(self, name: str, weight_of: Callable[[Seat], float]) -> None:
        self.name = name
        self.seats = Rounds[Seat](weight_of)
        self.credit = 0.0
        self.round = 0


class _Ring:
    """Owners and their batches with lines of one model that could go now."""

    def __init__(self, model: str, weight_of: Callable[[Seat], float]) -> None:
        self.model = model
        self._weight_of = weight_of
        self._owners = Rounds[_Owner](lambda _: 1.0)
        self._by_name: dict[str, _Owner] = {}

    def __bool__(self) -> bool:
        return len(self._owners) > 0

    def join(self, seat: Seat) -> None:
        name = seat.run.owner
        owner = self._by_name.get(name)
        if owner is None:
            owner = self._by_name[name] = _Owner(name, self._weight_of)
            self._owners.join(owner)
        owner.seats.join(seat)

    def front(self, may_run: Callable[[str], bool]) -> Seat | None:
        """Whose turn it is, among the owners that may run more; then ``served`` or ``leave``."""
        for _ in range(len(self._owners)):
            owner = self._owners.front()
            if owner is None:
                break
            if may_run(owner.name):
                return owner.seats.front()
            self._owners.pass_over()
        return None

    def served(self) -> None:
        """Whoever is at the front has sent a line."""
        owner = self._owners.front()
        if owner is not None:
            owner.seats.served()
            self._owners.served()

    def leave(self) -> None:
        """The batch at the front has nothing to send."""
        owner = self._owners.front()
        if owner is not None:
            owner.seats.leave()
            if not len(owner.seats):
                self._owners.leave()
                del self._by_name[owner.name]


class Scheduler:
    """The running batches in turn. ``now`` is of the loop's clock, ``wall_clock`` tells windows.

    ``max_running``: lines in flight at most, in all and for each owner; 0: no bound of its own.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        wall_clock: Callable[[], float],
        max_running: int = 0,
        max_running_per_owner: int = 0,
    ) -> None:
        self._pool = pool
        self._wall_clock = wall_clock
        self._most = max_running or math.inf
        self._most_per_owner = max_running_per_owner or math.inf
        self._running: Counter[str] = Counter()
        self._all_running = 0
        self._rings: dict[str, _Ring] = {}
        self._rotation: deque[_Ring] = deque()
        self._seats: dict[LineQueue, Seat] = {}
        self._asleep: list[tuple[float, int, Seat]] = []
        self._ties = itertools.count()
        self.hungry: dict[LineQueue, None] = {}  # a set that keeps its order

    # -- who takes part

    def add(self, run: Run) -> None:
        """Let a batch take part, from the end of the rings."""
        for queue in run.queues:
            if queue not in self._seats:
                self._seats[queue] = Seat(run, queue)
                self._wake(self._seats[queue])

    def remove(self, run: Run) -> None:
        """A batch takes part no more. Where it still stands it is passed over."""
        for queue in run.queues:
            self.hungry.pop(queue, None)
            seat = self._seats.pop(queue, None)
            if seat is not None:
                seat.is_gone = True

    # -- whose turn it is

    def next(self, now: float) -> tuple[Run, LineQueue, int, Slot] | None:
        """The line to send next, and the slot it goes with; None if no line may go now."""
        self._wake_due(now)
        if not self._pool.has_room:
            return None
        for _ in range(len(self._rotation)):
            if self._all_running >= self._most:
                return None
            ring = self._rotation[0]
            found = self._next_of(ring, now)
            if ring:
                self._rotation.rotate(-1)
            else:
                self._rotation.popleft()
                del self._rings[ring.model]
            if found is not None:
                return found
        return None

    def _next_of(self, ring: _Ring, now: float) -> tuple[Run, LineQueue, int, Slot] | None:
        while ring and (lane := self._pool.lane(ring.model, now)) is not None:
            seat = ring.front(self._may_run)
            if seat is None:
                return None
            run, queue = seat.run, seat.queue
            index = (
                None if seat.is_gone else queue.take(now, lane.name, lane.groups, self.has_other)
            )
            if index is None:
                ring.leave()
                seat.is_awake = False
                self._rest(seat)
                continue
            if queue.is_hungry:
                self.hungry[queue] = None
            ring.served()
            self._running[run.owner] += 1
            self._all_running += 1
            if run.state(index).backend == lane.name:
                lane = self._pool.lane(ring.model, now, avoid=lane.name) or lane
            return run, queue, index, lane.take(now)
        return None

    def has_other(self, model: str, name: str) -> bool:
        """Whether another backend than this one does this model's lines just now."""
        return self._pool.has_other(model, name)

    def _may_run(self, owner: str) -> bool:
        return self._running[owner] < self._most_per_owner

    def _weight(self, seat: Seat) -> float:
        run = seat.run
        window = max(1, run.expires_at - run.created_at)
        return weight(run.priority, (run.expires_at - self._wall_clock()) / window)

    def landed(self, run: Run) -> None:
        """A line is in flight no more."""
        self._running[run.owner] -= 1
        self._all_running -= 1

    # -- who waits

    def line_waits(self, queue: LineQueue) -> None:
        """A line of this queue will be due again."""
        seat = self._seats.get(queue)
        if seat is not None and not seat.is_awake:
            self._rest(seat)

    def wake(self, queue: LineQueue) -> None:
        """A line of this queue may go at once."""
        self.hungry.pop(queue, None)
        seat = self._seats.get(queue)
        if seat is not None:
            self._wake(seat)

    def next_at(self, now: float) -> float:
        """When a line may go: infinity if something else must happen first."""
        ready = (self._pool.ready_at(ring.model, now) for ring in self._rotation if ring)
        return min(self._asleep[0][0] if self._asleep else math.inf, *ready, math.inf)

    def _rest(self, seat: Seat) -> None:
        if seat.is_gone:
            return
        if seat.queue.is_hungry:
            self.hungry[seat.queue] = None
        due = seat.queue.next_at()
        if due is not None:
            heapq.heappush(self._asleep, (due, next(self._ties), seat))

    def _wake_due(self, now: float) -> None:
        while self._asleep and self._asleep[0][0] <= now:
            self._wake(heapq.heappop(self._asleep)[2])

    def _wake(self, seat: Seat) -> None:
        if seat.is_gone or seat.is_awake:
            return
        seat.is_awake = True
        model = seat.queue.model
        ring = self._rings.get(model)
        if ring is None:
            ring = self._rings[model] = _Ring(model, self._weight)
            self._rotation.append(ring)
        ring.join(seat)
