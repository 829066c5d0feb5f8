"""How a server counts requests or tokens against a limit: three ways, all in use.

Pure bookkeeping over a monotonic time that is handed in. A cost that was refused is not counted.
"""

import math
from collections import deque
from typing import Literal, Protocol


class RateLimit(Protocol):
    limit: float

    def wait(self, cost: float, now: float) -> float:
        """Seconds until there is room for ``cost``; 0 when there is room now."""
        ...

    def charge(self, cost: float, now: float) -> None: ...

    def remaining(self, now: float) -> float: ...

    def reset(self, now: float) -> float:
        """Seconds until all of the limit is there again, if nothing more comes."""
        ...


class Sliding:
    """No stretch of ``window`` seconds, wherever it begins, sees more than ``limit``."""

    def __init__(self, limit: float, window: float) -> None:
        self.limit = limit
        self._window = window
        self._recent: deque[tuple[float, float]] = deque()
        self._used = 0.0

    def wait(self, cost: float, now: float) -> float:
        self._forget(now)
        excess = self._used + cost - self.limit
        if excess <= 0:
            return 0.0
        for at, spent in self._recent:
            excess -= spent
            if excess <= 0:
                return at + self._window - now
        return self._window

    def charge(self, cost: float, now: float) -> None:
        self._recent.append((now, cost))
        self._used += cost

    def remaining(self, now: float) -> float:
        self._forget(now)
        return self.limit - self._used

    def reset(self, now: float) -> float:
        self._forget(now)
        return self._recent[-1][0] + self._window - now if self._recent else 0.0

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] <= now - self._window:
            self._used -= self._recent.popleft()[1]


class Bucket:
    """Full at first, and filled evenly: up to ``limit`` at once, then as it drips in."""

    def __init__(self, limit: float, window: float) -> None:
        self.limit = limit
        self._per_second = limit / window
        self._level = limit
        self._at = -math.inf

    def wait(self, cost: float, now: float) -> float:
        self._fill(now)
        return max(0.0, (min(cost, self.limit) - self._level) / self._per_second)

    def charge(self, cost: float, now: float) -> None:
        self._fill(now)
        self._level -= cost

    def remaining(self, now: float) -> float:
        self._fill(now)
        return max(0.0, self._level)

    def reset(self, now: float) -> float:
        self._fill(now)
        return (self.limit - self._level) / self._per_second

    def _fill(self, now: float) -> None:
        self._level = min(self.limit, self._level + (now - self._at) * self._per_second)
        self._at = now


class Fixed:
    """Windows follow each other from the first request on; each begins with all of ``limit``."""

    def __init__(self, limit: float, window: float) -> None:
        self.limit = limit
        self._window = window
        self._end = -math.inf
        self._used = 0.0

    def wait(self, cost: float, now: float) -> float:
        self._turn(now)
        return 0.0 if self._used + cost <= self.limit else self._end - now

    def charge(self, cost: float, now: float) -> None:
        self._turn(now)
        self._used += cost

    def remaining(self, now: float) -> float:
        self._turn(now)
        return self.limit - self._used

    def reset(self, now: float) -> float:
        self._turn(now)
        return self._end - now

    def _turn(self, now: float) -> None:
        if now < self._end:
            return
        missed = 0 if math.isinf(self._end) else math.floor((now - self._end) / self._window)
        begin = now if math.isinf(self._end) else self._end + missed * self._window
        self._end = begin + self._window
        self._used = 0.0


def rate_limit(
    kind: Literal["sliding", "bucket", "fixed"], limit: float, window: float
) -> RateLimit:
    kinds: dict[str, type[Sliding] | type[Bucket] | type[Fixed]] = {
        "sliding": Sliding,
        "bucket": Bucket,
        "fixed": Fixed,
    }
    return kinds[kind](limit, window)
