"""What follows from an attempt: settle the line, send it again later, or park the backend.

Pure arithmetic over DESIGN.md's table "What ends a line"; time and chance are handed in. Faults
are bounded per line; rate limits and outages are not, and burn nothing.
"""

import msgspec

from batchd.model import Failure, FailureKind, Outcome, Reply

RATE_LIMITED = "rate_limited"
MAX_HINT = 300.0  # seconds; a backend may be wrong about how long to wait
THROTTLES_TO_SETTLE = 5

# Failures of a server that did answer, only not usefully.
SIGNS_OF_LIFE = frozenset({FailureKind.NOT_HTTP, FailureKind.NOT_JSON, FailureKind.TOO_LARGE})

_FAULT_STATUSES = frozenset({408, 409})
NOT_FOUND = 404
TOO_MANY_REQUESTS = 429
_OVERLOAD_STATUSES = frozenset({408, 429, 502, 503, 504})
_NO_QUOTA = "insufficient_quota"
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_SERVER_ERROR = 500

_FIRST_PARK = 1.0
_MAX_PARK = 30.0


class LineState(msgspec.Struct, frozen=True):
    """What a line has been through: ``faults``, and 429s while its backend served others.

    ``attempts`` counts all that brought no result, whatever they cost; ``kind`` says what the last
    came to, and ``backend`` where that was.
    """

    faults: int = 0
    throttles: int = 0
    # that backend's count of successes when it last answered this line 429
    successes_seen: int = 0
    attempts: int = 0
    kind: str = ""
    backend: str = ""
    throttled_by: str = ""  # the backend whose 429s are counted


class Standing(msgspec.Struct, frozen=True):
    """How a backend has been doing. ``parks`` counts the parks in a row without a success."""

    successes: int = 0
    parks: int = 0
    backend: str = ""


class Policy(msgspec.Struct, frozen=True):
    fault_limit: int = 5
    first_delay: float = 1.0
    max_delay: float = 60.0
    refused_pause: float = 300.0  # after a refused key
    quota_pause: float = 3600.0  # after a used-up quota

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
    state = msgspec.structs.replace(
        line, attempts=line.attempts + 1, kind=kind_of(outcome), backend=standing.backend
    )
    if isinstance(outcome, Failure):
        if outcome.kind is FailureKind.UNREACHABLE:
            return _park(state, standing, "unreachable", None, jitter)
        return _fault(state, policy, None, jitter)
    pause = _pause(outcome, standing, policy)
    if pause is not None:
        return Park(*pause, state)
    if outcome.status_code == TOO_MANY_REQUESTS:
        return _throttled(outcome, state, standing, line.backend, jitter)
    if is_fault(outcome):
        return _fault(state, policy, outcome.hint, jitter)
    return Settle()


def is_fault(outcome: Outcome) -> bool:
    """Whether an attempt came to something that the backend may do better next time."""
    if isinstance(outcome, Failure):
        return outcome.kind is not FailureKind.UNREACHABLE
    return outcome.status_code in _FAULT_STATUSES or outcome.status_code >= _SERVER_ERROR


def is_overload(outcome: Outcome) -> bool:
    """Whether an attempt says that the backend has too much to do.

    Not a 500: that is how servers dress what they will never do.
    """
    if isinstance(outcome, Failure):
        return outcome.kind is FailureKind.TIMEOUT
    return outcome.status_code in _OVERLOAD_STATUSES and outcome.error_code != _NO_QUOTA


def kind_of(outcome: Outcome) -> str:
    """What an attempt came to, in a word: ``timeout``, ``http_503``."""
    return outcome.kind.value if isinstance(outcome, Failure) else f"http_{outcome.status_code}"


def _pause(reply: Reply, standing: Standing, policy: Policy) -> tuple[float, str] | None:
    """What people have to see to: a quota that is used up, and a bad key, which is a 401 always and
    a 403 while nothing on this backend has succeeded yet."""
    status = reply.status_code
    if status == TOO_MANY_REQUESTS and reply.error_code == _NO_QUOTA:
        return policy.quota_pause, _NO_QUOTA
    if status == _UNAUTHORIZED or (status == _FORBIDDEN and standing.successes == 0):
        return policy.refused_pause, f"refused_{status}"
    return None


def _fault(line: LineState, policy: Policy, hint: float | None, jitter: float) -> Decision:
    faults = line.faults + 1
    if faults >= policy.fault_limit:
        return Settle()
    state = msgspec.structs.replace(line, faults=faults)
    return Requeue(policy.backoff(faults, hint=hint, jitter=jitter), state)


def _throttled(
    reply: Reply, line: LineState, standing: Standing, last_backend: str, jitter: float
) -> Decision:
    here = standing.backend
    if line.throttled_by not in {"", here} and last_backend != here:
        # Goes to and fro between backends: counted at one of them, or it would be at none.
        return _park(line, standing, RATE_LIMITED, reply.hint, jitter)
    # Counted only if the backend has served somebody since: then it may be this line's own fault.
    served_others = line.throttled_by == here and standing.successes > line.successes_seen
    throttles = line.throttles + 1 if served_others or line.throttles == 0 else line.throttles
    if throttles >= THROTTLES_TO_SETTLE and served_others:
        return Settle()
    state = msgspec.structs.replace(
        line, throttles=throttles, successes_seen=standing.successes, throttled_by=here
    )
    return _park(state, standing, RATE_LIMITED, reply.hint, jitter)


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
