"""How much of one resource went to a backend, requests or tokens, and when more of it may go.

Pure: monotonic seconds are handed in, limits are a minute. What is sent fills a level that runs
off evenly, a touch slower than the limit allows; a log of the last minute holds more back when a
server that counts over a sliding window would. What is charged can be corrected afterwards, as of
the time when it was sent.

A limit that the server names is kept like one that is configured; the lower holds. What the
server has counted and we did not send is others' use: that much of the limit is left to them.
"""

import math

from batchd.model import Window

_MINUTE = 60.0
_PACE = 0.99
_GRAIN = 0.1  # seconds, the resolution of the log of the last minute
_LAG = 0.05  # seconds a request may travel more than another before the server counts it
_MAX_LIMIT = 1e12  # a learned limit above is none
_FOREIGN = 0.02  # share of a limit by which a server's count may differ from ours
_LEAST = 0.05  # share of a learned limit that is used whatever else the server has counted
_SLOWEST = 0.2  # a minute, however low a limit was learned
_HOUR, _DAY = _LONG_PERIODS = (3600.0, 86400.0)
_AGREE = 3  # answers in a row that say the same of a period are believed
_EVEN_REFILL = 0.45, 1.2  # what a whole refill may seem to take, over what it takes: all is rounded
_SLACK = 30.0  # seconds


class Meter:
    """One resource: its limits, the level that runs off, and the log of the last minute."""

    def __init__(self, configured: float, late: float) -> None:
        self._configured = configured or math.inf
        self._late = late
        self._told = math.inf  # the limit as the server names it
        self._period = Period()
        self._foreign = 0.0
        self._foreign_until = -math.inf
        self._level = 0.0
        self._level_at = -math.inf
        self._log = Log()

    def limit(self, now: float) -> float:
        """A minute."""
        learned = self._told * _MINUTE / self._period.seconds
        if now < self._foreign_until:
            learned = max(learned - self._foreign, learned * _LEAST)
        return min(self._configured, max(learned, _SLOWEST))

    def named_limit(self) -> float:
        limit = self.limit(math.inf)
        return 0.0 if limit == math.inf else limit

    def has_learned(self) -> bool:
        return self._told * _MINUTE / self._period.seconds < self._configured

    def bounded(self, amount: float) -> float:
        """What one request can be charged: never more than all there is."""
        return min(amount, self._configured, self._told)

    def ready_at(self, now: float, amount: float, margin: float) -> float:
        limit = self.limit(now)
        if limit == math.inf:
            return now
        empty = now + self._level_now(now) / _per_second(limit)
        return max(empty, self._log.frees_at(now, limit - margin - amount))

    def take(self, now: float, amount: float) -> None:
        self._level = self._level_now(now) + amount
        self._level_at = now
        self._log.add(now, amount)

    def correct(self, at: float, amount: float) -> None:
        self._level += amount
        self._log.correct(at, amount)

    def told(self, window: Window, now: float, *, answered: float, grain: float) -> None:
        """``answered``: what came back in the last minute; ``grain``: what one request is."""
        limit = window.limit
        if limit is None or not limit >= 1.0:
            return
        if limit != self._told:
            self._told, self._period = (limit if limit <= _MAX_LIMIT else math.inf), Period()
        self._period.told(window, now)
        is_longer = self._period.seconds > _MINUTE
        if window.remaining is None or is_longer or self._told == math.inf:
            return
        # Whether it counts what we send or what it answered, more than this is not of us.
        ours = max(self._log.total(now), answered)
        tolerance = max(_FOREIGN * limit, 2.0 * grain)
        foreign = limit - window.remaining - ours
        self._foreign = foreign if foreign > tolerance else 0.0
        self._foreign_until = now + _MINUTE

    def _level_now(self, now: float) -> float:
        """Runs off, but not below what makes up for a late timer; a minute at most is owed."""
        limit = self.limit(now)
        if limit == math.inf:
            return 0.0
        ran_off = (now - self._level_at) * _per_second(limit)
        return min(max(self._level - ran_off, -self._late * _per_second(limit)), max(limit, 1.0))


class Period:
    """For how long the limit is that a server names: a minute, until its resets say otherwise.

    Any one of them may be wrong, as when a clock is off: several in a row are believed, of a day
    only after a while, since an hour's may look like one for some answers. What was believed is
    over when it cannot be: when for longer than any reset said no longer one has come.
    """

    def __init__(self) -> None:
        self.seconds = _MINUTE
        self._enough = _AGREE
        self._longer = 0  # answers in a row that speak of a longer one
        self._longer_since = 0.0
        self._against = 0  # answers that do not fit, less those that do
        self._against_since = 0.0
        self._highest = 0.0  # reset since then

    def told(self, window: Window, now: float) -> None:
        """An answer came with this."""
        if window.reset is None:
            return
        if _period(window) <= self.seconds:
            self._longer = 0
        else:
            self._lengthen(now)
        if self.seconds > _MINUTE:
            self._doubt(window, window.reset, now)

    def _lengthen(self, now: float) -> None:
        if not self._longer:
            self._longer_since = now
        self._longer += 1
        if self._longer < self._enough:
            return
        if self.seconds == _MINUTE:
            self._begin(_HOUR)
        elif now - self._longer_since > _MINUTE:
            self._begin(_DAY)

    def _begin(self, seconds: float) -> None:
        self.seconds = seconds
        self._longer = self._against = 0

    def _doubt(self, window: Window, reset: float, now: float) -> None:
        least, most = _EVEN_REFILL
        if least * self.seconds <= _whole_refill(window, reset) <= most * self.seconds:
            self._against = max(self._against - 1, 0)
            return
        if not self._against:
            self._against_since, self._highest = now, 0.0
        self._against += 1
        self._highest = max(self._highest, reset)
        is_over = now - self._against_since > self._highest + _SLACK
        if is_over and self._against >= _AGREE and self._highest < self.seconds / 2:
            self._enough *= 2  # so that a clock that stays off is believed ever more rarely
            self._begin(_MINUTE)


class Log:
    """Amounts of the last minute, by the time they belong to."""

    def __init__(self) -> None:
        self._sums: dict[int, float] = {}  # in order of time
        self._total = 0.0
        self._first_gone_at = math.inf

    def add(self, at: float, amount: float) -> None:
        self._expire(at)
        grain = math.floor(at / _GRAIN)
        if not self._sums:
            self._first_gone_at = _gone_at(grain)
        self._sums[grain] = self._sums.get(grain, 0.0) + amount
        self._total += amount

    def correct(self, at: float, amount: float) -> None:
        """Change what was added then, if that was not more than a minute ago."""
        grain = math.floor(at / _GRAIN)
        if grain in self._sums:
            self._sums[grain] += amount
            self._total += amount

    def total(self, now: float) -> float:
        self._expire(now)
        return self._total

    def frees_at(self, now: float, most: float) -> float:
        """When the sum of the last minute is at most ``most``, or nothing is left in it."""
        total = self.total(now)
        at = now
        for grain, amount in self._sums.items():
            if total <= most:
                break
            total -= amount
            at = _gone_at(grain)
        return at

    def _expire(self, now: float) -> None:
        while now >= self._first_gone_at:
            self._total -= self._sums.pop(next(iter(self._sums)))
            if not self._sums:
                self._total = 0.0  # sums of floats drift
                self._first_gone_at = math.inf
                return
            self._first_gone_at = _gone_at(next(iter(self._sums)))


def _gone_at(grain: int) -> float:
    return (grain + 1) * _GRAIN + _MINUTE + _LAG


def _per_second(limit: float) -> float:
    """The pace: a request a minute below a small limit, so that the server never counts it full."""
    return min(limit * _PACE, max(limit - 1.1, limit * (2 * _PACE - 1))) / _MINUTE


def _period(window: Window) -> float:
    """Seconds the limit is for: a minute, unless the reset says that it cannot be."""
    if window.limit is None or window.reset is None or window.reset <= _MINUTE + 1:
        return _MINUTE
    whole = _whole_refill(window, window.reset)
    for period in _LONG_PERIODS:
        if math.isclose(whole, period, rel_tol=0.1):  # it refills evenly: reset is when it is full
            return period
    return next((period for period in _LONG_PERIODS if window.reset <= period), _LONG_PERIODS[-1])


def _whole_refill(window: Window, reset: float) -> float:
    """How long it takes from nothing left, if it refills evenly."""
    limit = window.limit or 0.0
    used = limit - (window.remaining or 0.0)
    return reset * limit / used if used > 0 else math.inf
