"""Requests and tokens a minute of one backend, or of some models of it: when the next may go.

Pure: monotonic seconds are handed in. Three things hold a request back, the latest counts.

- **Pace.** What is sent fills a level that runs off evenly, a touch slower than the limit; the
  next goes when it is empty. So an idle minute earns nothing, and a request that came to more
  than was thought delays the next.
- **The last minute.** A server may count over a sliding window, a fixed one or a bucket; whoever
  keeps the sliding window keeps them all. Tokens are counted twice, at the time of sending and
  at the time of the answer, since a server may charge at either.
- **What the server says.** Nothing left: nothing before its reset. Its limit, if it names one,
  is kept like one that is configured, less what it has counted and we did not send.

Tokens are an estimate until the answer tells ``usage``. The estimate is multiplied by what
requests came to over what was estimated, lately, so that its mean error is nil; how far single
ones are off says how far below the limit to stay.
"""

import math
from typing import Literal

import msgspec

from batchd.backends.meter import Log, Meter
from batchd.model import Quota
from batchd.retry import clamp

_LATE = 0.1  # seconds a timer may be late and still be made up for
_LATE_TOKENS = 0.5  # more, since the last minute's sum holds back now and then

# How far below a limit of tokens to stay: in standard deviations, and as a share of it at most.
_SPREAD = 2.5  # of what is in flight
_MAX_SPREAD = 0.012
_LARGE = 5.0  # of the size of the next request
_MAX_LARGE = 0.01
_MAX_ERROR = 0.2

_MEMORY = 128.0  # requests over which estimates are corrected
_DOUBT = 8.0  # requests that the first estimates count for
_FADING = 0.9
_FIRST_TOKENS = 500.0
_ANSWER_TOKENS = 512
_BYTES_PER_TOKEN = 4.0
_MAX_BIAS = 100.0
_MAX_TOKENS = 1e9  # of one request; more is not believed
_LONG_AGO = -1e9  # not in any log


class Charge(float):
    """Tokens charged for one request, and what is needed to correct that later."""

    __slots__ = ("at", "estimate")
    at: float
    estimate: float  # before it was corrected; 0 if the line was not read


class Limits(msgspec.Struct, frozen=True):
    """What is in force, for people; 0: no limit."""

    requests_per_minute: float
    tokens_per_minute: float
    source: Literal["configured", "learned"]

    @property
    def are_any(self) -> bool:
        return self.requests_per_minute > 0 or self.tokens_per_minute > 0


def estimated_tokens(body_size: int, max_tokens: int | None) -> float:
    """Tokens a request may come to, from the bytes of its body and what its answer may have.

    Four bytes to a token is what English text comes to, JSON around it included. An answer whose
    length is not limited counts as 512. Only the proportion between requests matters for long:
    the mean is corrected by what the answers say.
    """
    answer = _ANSWER_TOKENS if max_tokens is None else min(max(max_tokens, 0), _MAX_TOKENS)
    return body_size / _BYTES_PER_TOKEN + answer


class Rates:
    """Requests and tokens a minute of one backend, or of some models of it."""

    def __init__(self, *, requests_per_minute: float = 0, tokens_per_minute: float = 0) -> None:
        self._requests = Meter(requests_per_minute, _LATE)
        self._tokens = Meter(tokens_per_minute, _LATE_TOKENS)
        self._answered = Log()
        self._estimates = _Estimates()
        self._in_flight = 0
        self._closed_until = -math.inf

    @property
    def limits(self) -> Limits:
        """What is in force now."""
        meters = (self._requests, self._tokens)
        requests, tokens = (meter.named_limit() for meter in meters)
        learned = any(meter.has_learned() for meter in meters)
        return Limits(requests, tokens, "learned" if learned else "configured")

    def ready_at(self, now: float) -> float:
        """The earliest time at which the next request may go; ``now`` if at once."""
        # A server that counts its last request says "nothing left": better not to send that one.
        spare = 1.0 if self._requests.has_learned() else 0.0
        at = max(now, self._closed_until, self._requests.ready_at(now, 1.0, spare))
        limit = self._tokens.limit(now)
        if limit == math.inf:
            return at
        expected = self._estimates.likely(limit)
        margin = self._estimates.margin(self._in_flight, limit)
        return max(
            at,
            self._tokens.ready_at(now, expected, margin),
            self._answered.frees_at(now, limit - expected),
        )

    def is_closed(self, now: float) -> bool:
        """Whether the server has said that nothing is left."""
        return now < self._closed_until

    def take(self, now: float) -> float:
        """A request goes now; the tokens provisionally charged for it."""
        self._in_flight += 1
        self._requests.take(now, 1.0)
        tokens = self._tokens.bounded(self._estimates.mean)
        self._tokens.take(now, tokens)
        return _charge(tokens, now, 0.0)

    def sized(self, charged: float, estimate: float) -> float:
        """Its line was read: charge what that says. What is charged now."""
        charge = _as_charge(charged)
        tokens = self._tokens.bounded(self._estimates.corrected(estimate))
        self._tokens.correct(charge.at, tokens - charged)
        return _charge(tokens, charge.at, estimate)

    def put_back(self, charged: float) -> None:
        """It did not go after all."""
        charge = _as_charge(charged)
        self._in_flight = max(self._in_flight - 1, 0)
        self._requests.correct(charge.at, -1.0)
        self._tokens.correct(charge.at, -charged)

    def came_to(self, now: float, charged: float, actual: float | None) -> None:
        """Its answer is here, with its ``usage``; None: unknown, the charge stands."""
        self._in_flight = max(self._in_flight - 1, 0)
        charge = _as_charge(charged)
        tokens = charged
        if actual is not None and 0 <= actual <= _MAX_TOKENS:
            tokens = self._tokens.bounded(actual)
            self._tokens.correct(charge.at, tokens - charged)
            self._estimates.learn(charge, actual, now - charge.at)
        self._answered.add(now, tokens)

    def told(self, quota: Quota, now: float) -> None:
        """What an answer said of the server's limits."""
        for window in (quota.requests, quota.tokens):
            if window is not None and window.remaining is not None and window.remaining <= 0:
                self._closed_until = max(self._closed_until, now + clamp(window.reset))
        if quota.requests is not None:
            self._requests.told(quota.requests, now, answered=0.0, grain=1.0)
        if quota.tokens is not None:
            answered = self._answered.total(now)
            grain = self._estimates.mean
            self._tokens.told(quota.tokens, now, answered=answered, grain=grain)


class _Estimates:
    """How far estimates are off, and what requests come to in the mean."""

    def __init__(self) -> None:
        self.mean = _FIRST_TOKENS
        self._size_variance = 0.0
        self._count = 0.0
        self._doubt = _DOUBT
        self._ratio = 1.0  # of sums, not the mean of ratios: so the sums come out right
        self._estimate = 0.0
        self._actual = 0.0
        self._latency = 0.0
        self._error = 0.0
        self._variance = 0.0

    def likely(self, limit: float) -> float:
        """What few requests come to more than."""
        return self.mean + min(_LARGE * math.sqrt(self._size_variance), _MAX_LARGE * limit)

    def margin(self, in_flight: int, limit: float) -> float:
        """Tokens by which what is in flight may come to more than is charged for it.

        Long answers are longer in flight: of what is, each counts by its latency.
        """
        if not self._latency:
            return 0.0
        error = in_flight * self._error / self._latency
        spread = _SPREAD * math.sqrt(in_flight * self._variance / self._latency)
        most = _MAX_ERROR * limit
        return min(max(error, -most), most) + min(spread, _MAX_SPREAD * limit)

    def corrected(self, estimate: float) -> float:
        return self._ratio * min(max(estimate, 1.0), _MAX_TOKENS)

    def learn(self, charge: Charge, actual: float, latency: float) -> None:
        self._count = min(self._count + 1.0, _MEMORY)
        weight = 1.0 / self._count
        self._size_variance += ((actual - self.mean) ** 2 - self._size_variance) * weight
        self.mean += (actual - self.mean) * weight
        if not charge.estimate:
            return
        self._estimate += (charge.estimate - self._estimate) * weight
        self._actual += (actual - self._actual) * weight
        error = actual - charge
        self._latency += (latency - self._latency) * weight
        self._error += (error * latency - self._error) * weight
        self._variance += (error**2 * latency - self._variance) * weight
        self._doubt *= _FADING
        doubt = self._doubt * self._estimate
        ratio = (self._actual * self._count + doubt) / (self._estimate * self._count + doubt)
        self._ratio = min(max(ratio, 1 / _MAX_BIAS), _MAX_BIAS)


def _charge(tokens: float, at: float, estimate: float) -> Charge:
    charge = Charge(tokens)
    charge.at = at
    charge.estimate = estimate
    return charge


def _as_charge(charged: float) -> Charge:
    return charged if isinstance(charged, Charge) else _charge(charged, _LONG_AGO, 0.0)
