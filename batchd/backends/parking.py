"""Why a backend is sent nothing just now, and until when: its circuit breaker. Pure.

Closed: requests go. Open: parked, with a reason and a time. Half open: the time is over, one
request goes first, and the others follow once it was answered. ``now`` is a monotonic time.
"""

import math
from datetime import UTC, datetime

from batchd.config import BackendConfig
from batchd.retry import RATE_LIMITED, Park, Standing

OUTAGES = frozenset({"unreachable", "gone"})
REFUSALS = frozenset({"refused_401", "refused_403"})

_TEXTS = {
    "unreachable": "cannot be reached",
    "gone": "does not answer; it is asked again every few seconds",
    "rate_limited": "asks to wait (429)",
    "insufficient_quota": "says that the quota is used up (`batchd backends resume` tries again)",
    "refused_401": "refuses its API key (401); put a valid one in its place",
    "refused_403": "refuses access (403) to its API key; trying again now and then",
}


class Parking:
    """The parks of one backend."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._until = -math.inf
        self._asked_until = -math.inf  # for so long it asked to wait (429), whatever came on top
        self._successes = 0
        self._parks = 0
        self.reason: str | None = None

    @property
    def standing(self) -> Standing:
        return Standing(self._successes, self._parks, self._name)

    @property
    def is_half_open(self) -> bool:
        """Whether one request must go before the others: also true while it is still parked."""
        return self.reason is not None

    def until(self) -> float:
        """The time before which nothing goes."""
        return self._until

    def is_parked(self, now: float) -> bool:
        """Whether nothing may be sent for a while yet."""
        return now < self._until

    def park(self, park: Park, now: float) -> bool:
        """Send nothing for a while; whether this is news and not one more of the same volley."""
        if now >= self._until:
            self._parks += 1
        if park.reason == RATE_LIMITED:
            self._asked_until = max(self._asked_until, now + park.delay)
        if now + park.delay < self._until:
            return False  # why it waits longest is why it waits
        self._until = now + park.delay
        changed = self.reason != park.reason
        self.reason = park.reason
        return changed

    def end(self) -> None:
        """What kept requests away has gone: one may go at once."""
        self._until = self._asked_until = -math.inf

    def end_refusal(self, now: float) -> None:
        """The key is another one now: one request may go, unless the server asked to wait, too."""
        self._until = self._asked_until
        if self.is_parked(now):
            self.reason = RATE_LIMITED

    def answered(self, now: float, *, ok: bool) -> None:
        """An HTTP answer that parks nothing: whatever it says, the backend is alive."""
        if ok:
            self._successes += 1
        if not self.is_parked(now):  # else it was sent before, and says nothing of the park
            self.reason = None
            self._parks = 0


def waiting_note(config: BackendConfig, reason: str, at: float) -> str:
    """Why a backend is sent nothing since ``at``, as a sentence for people."""
    since = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    text = _TEXTS.get(reason, reason)
    return f"waiting since {since}: backend '{config.name}' at {config.base_url} {text}"
