"""A window with fewer in flight: does it show that requests had waited, and how many are enough?

With a queue, fewer in flight make every answer come sooner by what the fewer had to wait, and cost
nothing. A server that merely runs slower the more it has (batching) speeds its quick answers up by
a little only, and loses throughput. Units: seconds.
"""

from typing import NamedTuple

from batchd.backends.samples import Level, Reading

SPARE = 0.2  # of the limit may wait in the server's queue: insurance against too few
QUEUE_PROVEN = 0.8  # of the gain in time that a queue as long as the step would bring

_REFUTED = 0.75  # below this gain there was no queue
_REFUTED_IF_NOISY = 0.5
_REFUTED_IF_NOISY_DECREASE = 0.3  # a queue seemed to be there: more is needed to deny it
_SURPRISE = 0.6


class Trial(NamedTuple):
    """Fewer in flight for a window, to be compared with what was before."""

    limit: int
    reading: Reading
    is_decrease: bool  # because many seemed to wait, not for its own sake
    is_noisy: bool  # few slots serve in runs of luck; each window sees another
    is_even: bool  # the server takes as long for one as for another

    def is_exact(self, now: Reading) -> bool:
        """Whether means can be compared."""
        return self.is_even and self.reading.is_even and now.is_even

    def gain(self, limit: int, now: Reading) -> float:
        """By how much sooner answers come, over what a queue as long as the step would explain.

        Means say it exactly (by Little's law this compares throughput) where answers are even;
        elsewhere the quickest must do.
        """
        steps, before = self.limit / max(self.limit - limit, 1), self.reading
        if self.is_exact(now):
            return (before.level.mean - now.level.mean) / before.level.mean * steps
        return (before.level.low - now.level.low) * before.rate * steps / self.limit

    def enough(self, limit: int, now: Reading, gain: float, base: Level) -> float:
        """What limit lets a few wait and no more."""
        gain = min(max(gain, 0.0), 1.0)
        if self.is_exact(now) and gain < QUEUE_PROVEN:
            return self.limit * (1 + QUEUE_PROVEN - gain)
        # Down to where the queue ended it took its share of the gain, and from there on nothing.
        served = self.limit - gain * (self.limit - limit)
        if gain >= QUEUE_PROVEN:
            served = min(served, self.limit - self.expected(base))
        return with_spare(served)

    def refutes(self, gain: float) -> bool:
        """Whether the gain is too little for a queue to have been there."""
        if not self.is_noisy:
            return gain < _REFUTED
        return gain < (_REFUTED_IF_NOISY_DECREASE if self.is_decrease else _REFUTED_IF_NOISY)

    def expected(self, base: Level) -> float:
        """How many requests had waited before, going by what answers take without a queue."""
        return self.reading.rate * self.reading.wait(base)

    def surprises(self, limit: int, gain: float, base: Level) -> bool:
        """Whether the queue is longer than expected, so that there is one even in the base."""
        return gain >= QUEUE_PROVEN and self.expected(base) < _SURPRISE * (self.limit - limit)


def with_spare(served: float) -> float:
    """The limit for a server that serves so many at once."""
    return served / (1 - SPARE) + 1
