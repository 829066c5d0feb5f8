"""One model on one backend: when a request for it may go, and the slot that it goes with.

A slot is taken when a line is picked, and goes through what the line does: read or put back, sent,
answered, settled. Whoever holds it tells it; counts, rates and limits follow from that.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchd.backends.capacity import Capacity
from batchd.backends.rates import Rates, estimated_tokens
from batchd.model import Failure, FailureKind, Outcome, Reply, RequestLine
from batchd.retry import (
    TOO_MANY_REQUESTS,
    Decision,
    Park,
    Standing,
    is_fault,
    is_overload,
    kind_of,
)

if TYPE_CHECKING:
    from batchd.backends.backend import Backend

_PER_GROUP = 8  # requests in flight, where the number of slots is not known


class Lane:
    """What one backend does for one model."""

    def __init__(
        self, backend: "Backend", model: str, capacity: Capacity, rates: Sequence[Rates]
    ) -> None:
        self.backend = backend
        self.model = model
        self.capacity = capacity
        self.learned = Rates()  # servers tell their limits model by model
        self.rates: Sequence[Rates] = [self.learned, *rates]
        self.in_flight = 0
        self.unsettled = 0

    @property
    def name(self) -> str:
        """The backend's."""
        return self.backend.name

    @property
    def load(self) -> float:
        """How full it is, lightened by the backend's weight: the least goes first."""
        if self.backend.pulse.is_suspect:
            return math.inf  # a line that goes there all the same is one that no other takes
        return self.capacity.load / self.backend.weight

    @property
    def groups(self) -> int:
        """How many groups of lines it is to work on at once, so that its cache is of most use.

        One for each slot, if it is known how many slots there are. A measured limit is a little
        above that, so some requests queue at the server, and get whichever slot is free first:
        then slots keep to one prefix only if most that is sent has it.
        """
        limit = self.capacity.concurrency.limit
        return limit if self.backend.lanes.have_known_slots else max(1, limit // _PER_GROUP)

    def ready_at(self, now: float) -> float:
        """The earliest time at which a request may go; infinity until something else happens."""
        backend = self.backend
        if not backend.takes_lines(now) or not self.capacity.is_free():
            return math.inf
        return max(now, backend.parking.until(), *(rates.ready_at(now) for rates in self.rates))

    def take(self, now: float) -> "Slot":
        """A line is picked. Only when ``ready_at(now) <= now``."""
        self.in_flight += 1
        self.unsettled += 1
        self.capacity.in_flight += 1
        self.capacity.unsettled += 1
        is_trial = self.backend.pulse.is_suspect
        probe = self.backend.taken()
        charges = [rates.take(now) for rates in self.rates]
        return Slot(self, charges, probe, is_trial=is_trial)

    def move(self, capacity: Capacity) -> None:
        """Count what is in flight against another limit from now on."""
        self.capacity = capacity
        capacity.in_flight += self.in_flight
        capacity.unsettled += self.unsettled


class Slot:
    """Permission for one attempt to be in flight, and what was charged for it."""

    __slots__ = (
        "_charges",
        "_has_come_back",
        "_is_free",
        "_is_settled",
        "_is_trial",
        "_probe",
        "_rates",
        "_sent_at",
        "lane",
    )

    def __init__(
        self, lane: Lane, charges: list[float], probe: object | None, *, is_trial: bool
    ) -> None:
        """``is_trial``: it goes to a server that answers no look, which its line is not to pay."""
        self.lane = lane
        self._rates = lane.rates
        self._charges = charges
        self._probe = probe
        self._is_trial = is_trial
        self._has_come_back = False
        self._is_free = False
        self._is_settled = False
        self._sent_at = math.inf

    @property
    def standing(self) -> Standing:
        return self.lane.backend.parking.standing

    def may_still_go(self, now: float) -> bool:
        """Whether the server has not asked to wait since the slot was taken."""
        backend = self.lane.backend
        return not (
            (backend.pulse.is_suspect and not self._is_trial)
            or backend.parking.is_parked(now)
            or any(rates.is_closed(now) for rates in self._rates)
        )

    def put_back(self) -> None:
        """The line did not go after all."""
        self.free()
        self.settle()

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        """Send the line once; the slot is free when this returns. Only cancellation is raised."""
        lane, backend = self.lane, self.lane.backend
        now = backend.monotonic()
        self._size(line)
        self._sent_at = now
        lane.capacity.concurrency.sent(now, lane.capacity.in_flight)
        try:
            outcome = await backend.calls.wait_for(backend.caller.send(endpoint, line))
        finally:
            self.free()
        if outcome is None or (self._is_trial and is_fault(outcome)):
            return Failure(FailureKind.UNREACHABLE)
        return outcome

    def _size(self, line: RequestLine) -> None:
        estimate = estimated_tokens(len(line.body), line.max_tokens)
        for at, rates in enumerate(self._rates):
            self._charges[at] = rates.sized(self._charges[at], estimate)

    def came_to(self, outcome: Outcome, decision: Decision) -> None:
        """What the attempt came to, and what was decided of it."""
        backend, capacity = self.lane.backend, self.lane.capacity
        now = backend.monotonic()
        took = now - self._sent_at
        self._correct(outcome, now)
        if self._is_trial:
            if isinstance(outcome, Failure):
                backend.attempts[kind_of(outcome)] += 1
                return  # nothing that was not known
            backend.pulse.looked(now, is_alive=True)
        if is_overload(outcome):
            refused = isinstance(outcome, Reply) and outcome.status_code == TOO_MANY_REQUESTS
            capacity.concurrency.overloaded(now, capacity.in_flight, refused=refused)
        elif not isinstance(decision, Park) and not is_fault(outcome):
            capacity.concurrency.answered(now, took, capacity.in_flight)
        backend.came_to(outcome, decision, took)

    def _correct(self, outcome: Outcome, now: float) -> None:
        self._has_come_back = True
        reply = outcome if isinstance(outcome, Reply) else None
        tokens = reply.usage.total_tokens if reply and reply.ok else 0
        for rates, charge in zip(self._rates, self._charges, strict=True):
            rates.came_to(now, charge, tokens or None)
        if reply and reply.quota is not None:
            self.lane.learned.told(reply.quota, now)

    def free(self) -> None:
        """The answer is here, or the attempt was given up."""
        if not self._is_free:
            self._is_free = True
            self.lane.in_flight -= 1
            self.lane.capacity.in_flight -= 1
            self.lane.backend.given_back(self._probe)

    def settle(self) -> None:
        """What the line came to is durable, or it will be sent again."""
        if self._is_settled:
            return
        self._is_settled = True
        self.lane.unsettled -= 1
        self.lane.capacity.unsettled -= 1
        if not self._has_come_back:
            self._give_up_charges()

    def _give_up_charges(self) -> None:
        """No answer came. A request that was broken off has been counted by its server."""
        was_sent = self._sent_at < math.inf
        now = self.lane.backend.monotonic()
        for rates, charge in zip(self._rates, self._charges, strict=True):
            if was_sent:
                rates.came_to(now, charge, None)
            else:
                rates.put_back(charge)
