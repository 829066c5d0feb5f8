"""What overloads (429, 5xx, timeouts) do to a limit: one decrease for all that was in flight, and a
roof over it, which is lifted step by step when all is quiet and ever more rarely, so that a hidden
cap is met again only now and then.

A server that is away for a moment refuses whatever it is sent, and step by step that brings any
limit down to one. How many are too many it does not tell: so when requests that went after the
first step are answered again, the limit may go up at once to where it was.
"""

from typing import NamedTuple

_BACK_OFF = 0.8
_CERTAIN = 3  # overloads among as many outcomes as the limit, or ...
_SHARE = 8  # ... one in so many; fewer may be lines that the server can never answer
_PATIENCE, _LONGEST_PATIENCE = 4, 256  # windows
_LIFT = 0.25


class _Burst(NamedTuple):
    """Overloads one after another: its first decrease was from ``limit`` to below ``height``."""

    began_at: float
    limit: int
    height: int


class Roof:
    """How high a limit may be, and when it must come down."""

    def __init__(self, ceiling: int) -> None:
        self.height = self._ceiling = ceiling
        self._patience, self._penalty = 0, _PATIENCE // 2
        self._lifts = 0
        self._is_quiet = True  # a window has passed since it was lowered
        self._is_forgetful = False  # it was overload that lowered it
        self._burst: _Burst | None = None
        self._outcomes = 0
        self._overloads = 0

    def outcome(self, limit: int) -> None:
        """An answer came, or none will."""
        self._outcomes += 1
        if self._outcomes >= limit:
            self._outcomes = self._overloads = 0

    def answered(self, limit: int, sent_at: float) -> bool:
        """A useful answer came; whether it ends an outage."""
        self.outcome(limit)
        burst = self._burst
        if burst is None or sent_at < burst.began_at:
            return False
        self._burst = None
        if 2 * limit >= burst.limit:
            return False
        self.height = burst.height
        return True

    def overload(self, now: float, limit: int, in_flight: int, *, refused: bool) -> int | None:
        """Count one; the new limit if it must come down. `refused`: the server said so itself."""
        self.outcome(limit)
        if self._outcomes < 0 or 2 * (in_flight + 1) < limit:
            return None
        self._overloads += 1
        if not refused and self._overloads < min(limit, max(_CERTAIN, limit // _SHARE)):
            return None
        # What is in flight now was sent under the old limit: its fate says nothing about the new.
        self._outcomes, self._overloads = -max(limit, in_flight + 1), 0
        self.lower(in_flight)
        self._is_forgetful = True
        self._burst = self._burst or _Burst(now, limit, self.height)
        return max(1, min(self.height, round(_BACK_OFF * limit)))

    def lower(self, height: int) -> None:
        """More than this was too much."""
        self.height = max(1, min(self.height, height))
        if self._is_quiet:  # else it is one trouble, and no more to be feared for its many steps
            self._penalty = min(2 * self._penalty, _LONGEST_PATIENCE)
        self._patience = self._penalty
        self._lifts, self._is_quiet, self._is_forgetful = 0, False, False

    def quiet(self) -> None:
        """A window has passed without overload."""
        self._is_quiet = True
        self._patience -= 1
        if self._patience <= 0 and self.height < self._ceiling:
            self._lifts += 1
            raised = round(self.height * (1 + _LIFT * self._lifts)) + 1
            self.height = min(raised, self._ceiling)
        if self._is_forgetful and self._patience <= -self._penalty:
            self._patience, self._penalty = 0, max(self._penalty // 2, _PATIENCE // 2)
