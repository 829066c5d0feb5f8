"""When the next request may go to a backend: slots, requests per minute, parks.

Pure bookkeeping over a monotonic time that is handed in; nobody waits here. Requests per minute
are spaced evenly instead of coming in a burst at the minute. After an outage one request goes
first; the others follow once it was answered.
"""

import math

from batchd.retry import Park, Standing

_LATE = 0.05


class Limiter:
    """The limits of one backend, shared by all batches."""

    def __init__(self, *, max_in_flight: int, requests_per_minute: float) -> None:
        self.max_in_flight = max_in_flight
        self._spacing = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next_at = -math.inf
        self._parked_until = -math.inf
        self._successes = 0
        self._parks = 0
        self.in_flight = 0
        self.park_reason: str | None = None

    @property
    def standing(self) -> Standing:
        return Standing(self._successes, self._parks)

    def ready_at(self, now: float) -> float:
        """The earliest time at which a request may go; infinity while all slots are taken."""
        slots = 1 if self.park_reason is not None else self.max_in_flight
        if self.in_flight >= slots:
            return math.inf
        return max(now, self._next_at, self._parked_until)

    def unpark(self) -> None:
        """What kept requests away has gone: the next may go at once."""
        self._parked_until = -math.inf

    def is_parked(self, now: float) -> bool:
        """Whether nothing may be sent for a while yet."""
        return now < self._parked_until

    def take(self, now: float) -> None:
        """A request goes now. Only when ``ready_at(now) <= now``."""
        self.in_flight += 1
        # A timer that fired a little late is made up for, so that the rate is met in the mean.
        self._next_at = max(now - _LATE, self._next_at) + self._spacing

    def put_back(self) -> None:
        """The request taken last did not go after all."""
        self.in_flight -= 1
        self._next_at -= self._spacing

    def give_back(self) -> None:
        """Its answer is here, or it was given up."""
        self.in_flight -= 1

    def answered(self, *, ok: bool) -> None:
        """An HTTP answer that parks nothing: whatever it says, the backend is alive."""
        self.park_reason = None
        self._parks = 0
        if ok:
            self._successes += 1

    def park(self, park: Park, now: float) -> bool:
        """Send nothing for a while; whether this is news and not one more of the same volley."""
        news = now >= self._parked_until
        if news:
            self._parks += 1
        self._parked_until = max(self._parked_until, now + park.delay)
        changed = self.park_reason != park.reason
        self.park_reason = park.reason
        return changed
