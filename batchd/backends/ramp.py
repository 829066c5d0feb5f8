"""The first growth of a limit: one more for each answer, which doubles it in the time of an answer.

Doubling by windows would be too slow for servers with hundreds of slots. It ends when answers wait,
seen by the quickest of each small block of them, or when twice as many in flight bring no more.
That is noticed an answer's time late, which does no harm: too many in flight cost no throughput.
"""

import enum
import math

from batchd.backends.samples import Level, Window, level_of

_WAIT = 0.35  # of an answer's time spent waiting ends the ramp, if seen twice ...
_SURE_WAIT = 0.7  # ... or once
_SURE_WAIT_IN_ORDER = 0.1  # answers in the order of the requests: few slots, which show it soon
_RISE = 1.25  # of throughput, at least, for twice as many in flight ...
_RISE_FROM = 64  # ... measured from this limit on: below it throughput is mere noise
_BLOCK = 8  # answers, or this share of the limit
_SAME = 1e-9


class Pace(enum.Enum):
    """What the ramp says after an answer."""

    WAIT = enum.auto()
    GROW = enum.auto()
    QUEUE = enum.auto()
    FLAT = enum.auto()


class Ramp:
    """Growth by one for each answer, as long as it pays."""

    def __init__(self, limit: int, *, hold_at: float = math.inf) -> None:
        # Until a request of the second round was answered nothing is known: grow a little only.
        self._hold_at = hold_at
        self._block: list[float] = []
        self._queues_seen = 0
        self._newest_sent = -math.inf
        self._overtaken = False
        self._mark = limit
        self._mark_at: float | None = None
        self._mark_rate = 0.0
        self._answers = 0

    def answered(
        self, now: float, took: float, window: Window, limit: int, base: Level | None
    ) -> Pace:
        began_at = window.began_at if window.began_at is not None else now
        if self._mark_at is None:
            self._mark_at = began_at
        self._answers += 1
        sent_at = now - took
        self._overtaken = self._overtaken or sent_at < self._newest_sent - _SAME
        self._newest_sent = max(self._newest_sent, sent_at)
        if base and sent_at > began_at + _SAME and self._shows_queue(took, limit, base):
            return Pace.QUEUE
        if limit >= self._hold_at or (sent_at <= began_at + _SAME and self._hold_at == math.inf):
            return Pace.WAIT
        return Pace.FLAT if limit + 1 >= 2 * self._mark and self._is_flat(now) else Pace.GROW

    def interrupt(self, limit: int) -> None:
        """The slots were not full for a while: what was measured is void."""
        self._block, self._answers = [], 0
        self._mark, self._mark_at, self._mark_rate = limit, None, 0.0

    def _shows_queue(self, took: float, limit: int, base: Level) -> bool:
        self._block.append(took)
        if len(self._block) < max(_BLOCK, limit // _BLOCK):
            return False
        level, self._block = level_of(self._block), []
        waited = (level.low - base.low) / level.mean
        if waited <= _WAIT:
            self._queues_seen, self._hold_at = 0, math.inf
        else:
            self._queues_seen += 1
        sure = _SURE_WAIT if self._overtaken else _SURE_WAIT_IN_ORDER
        return waited > sure or self._queues_seen > 1

    def _is_flat(self, now: float) -> bool:
        elapsed = now - (self._mark_at or 0.0)
        rate = self._answers / elapsed if elapsed > 0 else math.inf
        flat = self._mark >= _RISE_FROM and rate < _RISE * self._mark_rate
        self._mark, self._mark_at, self._mark_rate = 2 * self._mark, now, rate
        self._answers = 0
        return flat
