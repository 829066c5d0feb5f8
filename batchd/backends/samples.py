"""What the answers of one model server tell about it: how long they take, how many come a second.

Only answers count that were asked for while all slots were taken; with slots to spare they say
nothing about the limit. A heavy tail makes means useless in small samples, so a reading also has
`low`, the tenth percentile: a queue makes every request wait, the quickest as long as the others.
Units: seconds.
"""

import math
from typing import NamedTuple

_QUANTILE = 10  # one in so many answers is quicker than `low`
_EVEN = 0.4  # below this spread means are the better measure
_REFILL = 1 / 16  # of an answer's time: slots free for no longer than this are just being refilled


class Level(NamedTuple):
    """How long answers take while nothing waits."""

    low: float
    mean: float

    def toward(self, other: "Level", share: float) -> "Level":
        """This level, moved by a share of the way to another one."""
        low = self.low + share * (other.low - self.low)
        if self.mean == math.inf:  # not known so far
            return Level(low, other.mean)
        return Level(low, self.mean + share * (other.mean - self.mean))

    def floor(self, other: "Level") -> "Level":
        return Level(min(self.low, other.low), min(self.mean, other.mean))


class Reading(NamedTuple):
    """What a window saw. `spread`: standard deviation over mean; `rate`: answers a second."""

    level: Level
    spread: float
    rate: float

    def wait(self, base: Level) -> float:
        """How long requests waited, if answers took `base` without a queue."""
        waited = self.level.low - base.low
        # Of requests that run in step most wait for nothing and the others for a whole round.
        return max(waited, self.level.mean - base.mean) if self.is_even else waited

    @property
    def is_even(self) -> bool:
        """Whether answers take about the same time, so that means can be trusted."""
        return self.spread < _EVEN


def level_of(took: list[float]) -> Level:
    return Level(sorted(took)[len(took) // _QUANTILE], sum(took) / len(took))


class Window:
    """Collects answers until there are `size` to requests that were sent since it began."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.began_at: float | None = None
        self._took: list[float] = []
        self._answers = 0

    def begin(self, now: float) -> None:
        """The slots are full under the limit that this window is about."""
        if self.began_at is None:
            self.began_at = now

    def add(self, now: float, took: float) -> bool:
        """Count an answer; whether the window is now complete."""
        self._answers += 1
        if self.began_at is not None and now - took >= self.began_at:
            self._took.append(took)
        return len(self._took) >= self.size

    def read(self, now: float) -> Reading:
        """What it came to. Only when complete."""
        level = level_of(self._took)
        variance = sum((took - level.mean) ** 2 for took in self._took) / len(self._took)
        elapsed = now - (self.began_at or 0.0)
        rate = self._answers / elapsed if elapsed > 0 else 0.0
        return Reading(level, math.sqrt(variance) / max(level.mean, 1e-9), rate)


class Opening:
    """The level as the first answers show it: they found an empty server, or nearly so.

    Of `limit` requests that went together the quickest answers come first, so that the first few
    are enough to tell the tenth percentile of them all.
    """

    def __init__(self, limit: int) -> None:
        self._size = max(8, limit // 8)
        self._rank = min(limit // _QUANTILE, self._size - 1)
        self._took: list[float] = []

    def add(self, took: float) -> Level | None:
        """Count an answer; the level as soon as it is known."""
        self._took.append(took)
        if len(self._took) < self._size:
            return None
        self._took.sort()
        # The mean of the quickest is no mean of all, unless all take the same.
        even = self._took[-1] < 1.5 * self._took[0]
        return Level(self._took[self._rank], self._took[-1] if even else math.inf)


class Fullness:
    """Whether all slots are taken, apart from the moment that it takes to fill them again."""

    def __init__(self) -> None:
        self._short_since: float | None = None
        self._last_took = math.inf

    def sent(self, now: float) -> bool:
        """All slots are taken; whether they were so, but for moments, all the time."""
        short_since, self._short_since = self._short_since, None
        return short_since is None or now - short_since <= self._last_took * _REFILL

    def answered(self, now: float, took: float, in_flight: int, limit: int) -> bool:
        """Whether this answer came while the slots were full."""
        self._last_took = took
        if self._short_since is None and in_flight + 1 < limit - max(1, limit // 8):
            self._short_since = now
        return self._short_since is None or now - self._short_since <= took * _REFILL
