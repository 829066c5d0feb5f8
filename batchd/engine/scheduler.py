"""Which line goes next: one weighted deficit round robin, over owners, then over their batches.

Owners take turns (``rounds``), whatever models their lines are of; the models of an owner take
turns, and the batches of each. So a batch of up to ``QUANTUM`` lines is done within one round: the
time of its own lines and of a share of everybody's. O(1) per line however many batches run; a batch
with nothing to send sleeps in a heap until a line is due.

The weight of a batch doubles with every two steps of priority, and grows as its window runs out: to
2 when half is left, to 8 at the end. It is looked at anew in each round. Owners weigh the same.
"""

import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from weakref import WeakKeyDictionary

from batchd.backends.lane import Lane, Slot
from batchd.backends.pool import Pool
from batchd.engine.queue import LineQueue
from batchd.engine.rounds import Rounds
from batchd.engine.runs import Run

_TRY_AGAIN = 5.0  # seconds after a fault, where nothing but faults came lately
_LOOKS = 256  # models looked at in one go: clients name them
_URGENT = 1 / 8  # the share of a window that may be left for the weight to grow no more


Picked = tuple[Run, LineQueue, int, Slot]


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
    """One owner's batches with lines that could go now, by model."""

    def __init__(self, name: str, weight_of: Callable[[Seat], float]) -> None:
        self.name = name
        self.credit = 0.0
        self.round = 0
        self._weight_of = weight_of
        self._by_model: dict[str, Rounds[Seat]] = {}
        self._turns: deque[str] = deque()

    @property
    def models(self) -> Iterable[str]:
        return self._by_model

    def join(self, seat: Seat) -> None:
        model = seat.queue.model
        seats = self._by_model.get(model)
        if seats is None:
            seats = self._by_model[model] = Rounds[Seat](self._weight_of)
            self._turns.append(model)
        seats.join(seat)

    def next_models(self) -> Iterator[tuple[str, Rounds[Seat]]]:
        """Its models in turn, each once, but no more than can be looked at in one go."""
        for _ in range(min(len(self._turns), _LOOKS)):
            model = self._turns[0]
            self._turns.rotate(-1)
            yield model, self._by_model[model]

    def leave(self, model: str) -> None:
        """It has no more lines of this model that could go now."""
        self._turns.remove(model)
        del self._by_model[model]


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
        self._owners = Rounds[_Owner](lambda _: 1.0)
        self._by_name: dict[str, _Owner] = {}
        self._seats: dict[LineQueue, Seat] = {}
        self._asleep: list[tuple[float, int, Seat]] = []
        self._ties = itertools.count()
        self._failing = WeakKeyDictionary[Lane, float]()  # whose last answer was a fault, and when
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

    def next(self, now: float) -> Picked | None:
        """The line to send next, and the slot it goes with; None if no line may go now."""
        self._wake_due(now)
        if not self._pool.has_room or self._running.total() >= self._most:
            return None
        for owner in self._owners.in_turn():
            if self._running[owner.name] >= self._most_per_owner:
                continue
            found = self._next_of(owner, now)
            if found is not None:
                self._owners.served(owner)
                return found
            if not owner.models:
                self._owners.leave(owner)
                del self._by_name[owner.name]
        return None

    def _next_of(self, owner: _Owner, now: float) -> Picked | None:
        for model, seats in owner.next_models():
            lane = self._pool.lane(model, now)
            found = self._next_for(lane, seats, now) if lane is not None else None
            if found is None and lane is not None and len(seats):
                # What is left has failed there, and waits for another.
                lane = self._pool.lane(model, now, avoid=lane.name)
                found = self._next_for(lane, seats, now) if lane is not None else None
            if not len(seats):
                owner.leave(model)
            if found is not None:
                return found
        return None

    def _next_for(self, lane: Lane, seats: Rounds[Seat], now: float) -> Picked | None:
        """A line for this lane, of the batch whose turn it is among those that have one."""
        waiting: list[Seat] = []
        found = None
        while (seat := seats.front()) is not None:
            index = self._index_of(seat, lane, now)
            if index is not None:
                seats.served(seat)
                found = seat.run, seat.queue, index, self._taken(seat, lane, now)
                break
            seats.leave(seat)
            if not seat.is_gone and seat.queue.has_due:
                self._note_hunger(seat)
                waiting.append(seat)
            else:
                seat.is_awake = False
                self._rest(seat)
        for seat in waiting:
            seats.join(seat)
        return found

    def _index_of(self, seat: Seat, lane: Lane, now: float) -> int | None:
        if seat.is_gone:
            return None
        return seat.queue.take(now, lane.name, lane.groups, partial(self._spares, lane, now))

    def _spares(self, lane: Lane, now: float) -> bool:
        """Whether lines that failed on this lane are to go to another backend.

        That is a wish: where no other has room just now they go back. But as long as nothing but
        faults comes there they would use up their attempts, so they wait for one that is busy,
        too, and a single line tries now and then whether it does better.
        """
        other = self._pool.lane(lane.model, now, avoid=lane.name)
        if other is not None and not other.backend.pulse.is_suspect:
            return True
        failed_at = self._failing.get(lane)
        if failed_at is None or (not lane.in_flight and now >= failed_at + _TRY_AGAIN):
            return False
        return self.has_other(lane.model, lane.name)

    def _taken(self, seat: Seat, lane: Lane, now: float) -> Slot:
        self._note_hunger(seat)
        self._running[seat.run.owner] += 1
        return lane.take(now)

    def has_other(self, model: str, name: str) -> bool:
        """Whether another backend than this one does this model's lines just now."""
        return self._pool.has_other(model, name)

    def came_to(self, lane: Lane, now: float, *, is_fault: bool) -> None:
        """An attempt there ended its line, or came to a fault."""
        if is_fault:
            self._failing[lane] = now
        else:
            self._failing.pop(lane, None)

    def _weight(self, seat: Seat) -> float:
        run = seat.run
        window = max(1, run.expires_at - run.created_at)
        return weight(run.priority, (run.expires_at - self._wall_clock()) / window)

    def landed(self, run: Run) -> None:
        """A line is in flight no more."""
        self._running[run.owner] -= 1

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
        asleep = self._asleep[0][0] if self._asleep else math.inf
        models = {model for owner in self._by_name.values() for model in owner.models}
        looked_at = itertools.islice(models, _LOOKS)
        return min(asleep, *(self._pool.ready_at(model, now) for model in looked_at), math.inf)

    def _rest(self, seat: Seat) -> None:
        if seat.is_gone:
            return
        self._note_hunger(seat)
        due = seat.queue.next_at()
        if due is not None:
            heapq.heappush(self._asleep, (due, next(self._ties), seat))

    def _note_hunger(self, seat: Seat) -> None:
        if seat.queue.is_hungry:
            self.hungry[seat.queue] = None

    def _wake_due(self, now: float) -> None:
        while self._asleep and self._asleep[0][0] <= now:
            self._wake(heapq.heappop(self._asleep)[2])

    def _wake(self, seat: Seat) -> None:
        if seat.is_gone or seat.is_awake:
            return
        seat.is_awake = True
        name = seat.run.owner
        owner = self._by_name.get(name)
        if owner is None:
            owner = self._by_name[name] = _Owner(name, self._weight)
            self._owners.join(owner)
        owner.join(seat)
