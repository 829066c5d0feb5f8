"""What ends a line: every row of the table, and the arithmetic of waiting."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.model import Failure, FailureKind, Outcome, Reply
from batchd.retry import (
    MAX_HINT,
    Decision,
    LineState,
    Park,
    Policy,
    Requeue,
    Settle,
    Standing,
    clamp,
    decide,
)

POLICY = Policy(fault_limit=5, first_delay=1.0, max_delay=60.0)
NEW = LineState()
FRESH = Standing()
SERVING = Standing(successes=7)


def reply(status: int, *, code: str | None = None, hint: float | None = None) -> Reply:
    return Reply(status_code=status, request_id="r", body=b"{}", error_code=code, hint=hint)


def judge(
    outcome: Outcome, line: LineState = NEW, standing: Standing = SERVING, jitter: float = 0.5
) -> Decision:
    return decide(outcome, line, standing, POLICY, jitter=jitter)


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_success_settles(status: int) -> None:
    assert judge(reply(status)) == Settle()


@pytest.mark.parametrize(
    "status", [300, 307, 400, 402, 403, 404, 405, 410, 413, 415, 422, 428, 499]
)
def test_a_refusal_of_the_line_settles_at_once(status: int) -> None:
    assert judge(reply(status)) == Settle()


@pytest.mark.parametrize(
    "outcome",
    [
        *(reply(status) for status in (408, 409, 500, 501, 502, 503, 504, 520, 529, 599)),
        *(Failure(kind) for kind in FailureKind if kind is not FailureKind.UNREACHABLE),
    ],
)
@pytest.mark.parametrize("standing", [FRESH, SERVING])
def test_a_fault_is_tried_again_up_to_the_limit(outcome: Outcome, standing: Standing) -> None:
    line = NEW
    for faults in range(1, 5):
        decision = judge(outcome, line, standing)
        assert decision == Requeue(0.5 * 2 ** (faults - 1), LineState(faults=faults))
        assert isinstance(decision, Requeue)
        line = decision.state
    assert judge(outcome, line, standing) == Settle()


def test_a_limit_of_one_means_no_second_attempt() -> None:
    policy = Policy(fault_limit=1)
    assert decide(reply(500), NEW, FRESH, policy, jitter=0) == Settle()


def test_a_fault_keeps_what_the_line_has_been_through() -> None:
    line = LineState(faults=1, throttles=3, successes_seen=4)
    decision = judge(reply(500, hint=10), line)
    assert decision == Requeue(11.0, LineState(faults=2, throttles=3, successes_seen=4))


@pytest.mark.parametrize("parks", range(12))
def test_an_unreachable_backend_parks_ever_longer_and_burns_nothing(parks: int) -> None:
    line = LineState(faults=4)
    for jitter, share in ((0.0, 0.5), (0.5, 0.75)):
        decision = judge(Failure(FailureKind.UNREACHABLE), line, Standing(9, parks), jitter)
        assert decision == Park(min(30.0, 2.0**parks) * share, "unreachable", line)


def test_a_429_parks_for_the_hinted_time() -> None:
    for hint, delay in ((0.0, 0.125), (2.0, 2.125), (-5.0, 0.125), (1e9, MAX_HINT + 0.125)):
        decision = judge(reply(429, hint=hint), NEW, FRESH)
        assert decision == Park(delay, "rate_limited", LineState(throttles=1))


def test_a_429_without_a_hint_parks_as_an_outage_does() -> None:
    assert judge(reply(429), NEW, Standing(0, 2)) == Park(
        3.0, "rate_limited", LineState(throttles=1)
    )


def test_429s_while_nobody_is_served_never_settle() -> None:
    line = NEW
    for _ in range(50):
        decision = judge(reply(429), line, SERVING)
        assert isinstance(decision, Park)
        line = decision.state
    assert line.throttles == 1


def test_five_429s_while_others_succeed_settle() -> None:
    line = NEW
    for successes in range(1, 5):
        decision = judge(reply(429), line, Standing(successes))
        assert isinstance(decision, Park)
        line = decision.state
    assert line.throttles == 4
    assert isinstance(judge(reply(429), line, Standing(4)), Park)
    assert judge(reply(429), line, Standing(5)) == Settle()


@pytest.mark.parametrize("standing", [FRESH, SERVING])
def test_a_quota_that_is_used_up_parks(standing: Standing) -> None:
    outcome = reply(429, code="insufficient_quota", hint=1)
    line = LineState(faults=4, throttles=4)
    assert judge(outcome, line, standing) == Park(POLICY.refused_pause, "insufficient_quota", line)


@pytest.mark.parametrize("standing", [FRESH, SERVING])
def test_a_refused_key_parks(standing: Standing) -> None:
    assert judge(reply(401), NEW, standing) == Park(POLICY.refused_pause, "refused_401", NEW)


def test_a_403_parks_only_while_nothing_has_succeeded() -> None:
    assert judge(reply(403), NEW, FRESH) == Park(POLICY.refused_pause, "refused_403", NEW)
    assert judge(reply(403), NEW, Standing(1)) == Settle()


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (10_000, 60)]
)
def test_backoff_doubles_up_to_the_longest_delay(attempt: int, longest: float) -> None:
    assert POLICY.backoff(attempt, hint=None, jitter=0) == 0
    assert POLICY.backoff(attempt, hint=None, jitter=0.5) == longest / 2
    assert POLICY.backoff(attempt, hint=7, jitter=0) == 7


@given(
    st.one_of(st.none(), st.floats()),
    st.integers(1, 10_000),
    st.floats(0, 1, exclude_max=True),
)
def test_no_wait_is_ever_unreasonable(hint: float | None, attempt: int, jitter: float) -> None:
    assert 0 <= POLICY.backoff(attempt, hint=hint, jitter=jitter) <= MAX_HINT + 60


def test_a_hint_is_clamped() -> None:
    values = (None, math.nan, -1.0, 0.0, 5.0, 301.0, math.inf, -math.inf)
    assert [clamp(value) for value in values] == [0, 0, 0, 0, 5, 300, 300, 0]
