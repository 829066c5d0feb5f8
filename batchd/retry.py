"""What follows from an attempt: settle the line, send it again later, or park the backend.

Pure arithmetic over DESIGN.md's table "What ends a line"; time and chance are handed in. Faults
are bounded per line; rate limits and outages are not, and burn nothing.
"""

import msgspec

from batchd.model import Failure, FailureKind, Outcome, Reply

MAX_HINT = 300.0  # seconds; a backend may be wrong about how long to wait
THROTTLES_TO_SETTLE = 5

_FAULT_STATUSES = frozenset({408, 409})
_TOO_MANY_REQUESTS = 429
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_SERVER_ERROR = 500

_FIRST_PARK = 1.0
_MAX_PARK = 30.0


class LineState(msgspec.Struct, frozen=True):
    """What a line has been through: ``faults``, and 429s while its backend served others."""

    faults: int = 0
    throttles: int = 0
    # the backend's count of successes when this line was last answered 429
    successes_seen: int = 0


class Standing(msgspec.Struct, frozen=True):
    """How a backend has been doing. ``parks`` counts the parks in a row without a success."""

    successes: int = 0
    parks: int = 0


class Policy(msgspec.Struct, frozen=True):
    fault_limit: int = 5
    first_delay: float = 1.0
    max_delay: float = 60.0
    refused_pause: float = 300.0  # after a refused key or a used-up quota

    def backoff(self, attempt: int, *, hint: float | None, jitter: float) -> float:
        """Seconds to wait before attempt ``attempt + 1``.

        ``jitter`` in [0, 1) is the caller's draw (full jitter). A hint of the backend is a floor.
        """
        ceiling = min(self.max_delay, self.first_delay * 2.0 ** min(attempt - 1, 32))
        return clamp(hint) + ceiling * jitter


class Settle(msgspec.Struct, frozen=True):
    """The outcome stands: write it down."""


class Requeue(msgspec.Struct, frozen=True):
    """Send the line again after ``delay`` seconds; its state is now ``state``."""

    delay: float
    state: LineState


class Park(msgspec.Struct, frozen=True):
    """Send nothing to this backend for ``delay`` seconds; the line waits as long."""

    delay: float
    reason: str
    state: LineState


Decision = Settle | Requeue | Park


def decide(
    outcome: Outcome, line: LineState, standing: Standing, policy: Policy, *, jitter: float
) -> Decision:
    """What to do with a line after an attempt that came to ``outcome``."""
    if isinstance(outcome, Failure):
        if outcome.kind is FailureKind.UNREACHABLE:
            return _park(line, standing, "unreachable", None, jitter)
        return _fault(line, policy, None, jitter)
    if outcome.status_code == _TOO_MANY_REQUESTS:
        return _throttled(outcome, line, standing, policy, jitter)
    if _refused(outcome, standing):
        return Park(policy.refused_pause, f"refused_{outcome.status_code}", line)
    if outcome.status_code in _FAULT_STATUSES or outcome.status_code >= _SERVER_ERROR:
        return _fault(line, policy, outcome.hint, jitter)
    return Settle()


def _refused(reply: Reply, standing: Standing) -> bool:
    """A bad key: 401 always; 403 while nothing on this backend has succeeded yet."""
    if reply.status_code == _UNAUTHORIZED:
        return True
    return reply.status_code == _FORBIDDEN and standing.successes == 0


def _fault(line: LineState, policy: Policy, hint: float | None, jitter: float) -> Decision:
    faults = line.faults + 1
    if faults >= policy.fault_limit:
        return Settle()
    state = msgspec.structs.replace(line, faults=faults)
    return Requeue(policy.backoff(faults, hint=hint, jitter=jitter), state)


def _throttled(
    reply: Reply, line: LineState, standing: Standing, policy: Policy, jitter: float
) -> Decision:
    if reply.error_code == "insufficient_quota":
        return Park(policy.refused_pause, "insufficient_quota", line)
    # Counted only if the backend has served somebody since: then it may be this line's own fault.
    served_others = standing.successes > line.successes_seen
    throttles = line.throttles + 1 if served_others or line.throttles == 0 else line.throttles
    if throttles >= THROTTLES_TO_SETTLE and served_others:
        return Settle()
    state = msgspec.structs.replace(line, throttles=throttles, successes_seen=standing.successes)
    return _park(state, standing, "rate_limited", reply.hint, jitter)


def _park(
    state: LineState, standing: Standing, reason: str, hint: float | None, jitter: float
) -> Park:
    if hint is not None:
        # The hint is a floor; a little jitter keeps clients of one server apart.
        return Park(clamp(hint) + 0.25 * jitter, reason, state)
    ceiling = min(_MAX_PARK, _FIRST_PARK * 2.0 ** min(standing.parks, 8))
    return Park(ceiling * (0.5 + 0.5 * jitter), reason, state)


def clamp(hint: float | None) -> float:
    """A backend's hint in [0, MAX_HINT]; NaN and none count as 0."""
    if hint is None or hint != hint:  # noqa: PLR0124 - NaN is the only number unequal to itself
        return 0.0
    return min(max(hint, 0.0), MAX_HINT)
