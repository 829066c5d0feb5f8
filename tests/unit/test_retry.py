"""What ends a line: every row of the table, and the arithmetic of waiting."""

import math

import msgspec
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
    is_fault,
    kind_of,
)

POLICY = Policy(fault_limit=5, first_delay=1.0, max_delay=60.0, quota_pause=7200.0)
NEW = LineState()
FRESH = Standing(backend="gpu")
SERVING = Standing(successes=7, backend="gpu")


def reply(status: int, *, code: str | None = None, hint: float | None = None) -> Reply:
    return Reply(status_code=status, request_id="r", body=b"{}", error_code=code, hint=hint)


def judge(
    outcome: Outcome, line: LineState = NEW, standing: Standing = SERVING, jitter: float = 0.5
) -> Decision:
    return decide(outcome, line, standing, POLICY, jitter=jitter)


def after(outcome: Outcome, line: LineState = NEW, **changes: object) -> LineState:
    """What a line has been through after one more attempt, on "gpu"."""
    return msgspec.structs.replace(
        line, attempts=line.attempts + 1, kind=kind_of(outcome), backend="gpu", **changes
    )


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
        line = after(outcome, line, faults=faults)
        assert decision == Requeue(0.5 * 2 ** (faults - 1), line)
    assert judge(outcome, line, standing) == Settle()


def test_a_limit_of_one_means_no_second_attempt() -> None:
    policy = Policy(fault_limit=1)
    assert decide(reply(500), NEW, FRESH, policy, jitter=0) == Settle()


def test_a_fault_keeps_what_the_line_has_been_through() -> None:
    line = LineState(
        faults=1, throttles=3, successes_seen=4, attempts=7, kind="timeout", throttled_by="gpu"
    )
    answer = reply(500, hint=10)
    decision = judge(answer, line)
    assert decision == Requeue(11.0, after(answer, line, faults=2))


@pytest.mark.parametrize("parks", range(12))
def test_an_unreachable_backend_parks_ever_longer_and_burns_nothing(parks: int) -> None:
    line = LineState(faults=4)
    for jitter, share in ((0.0, 0.5), (0.5, 0.75)):
        outcome = Failure(FailureKind.UNREACHABLE)
        decision = judge(outcome, line, Standing(9, parks, "gpu"), jitter)
        delay = min(30.0, 2.0**parks) * share
        assert decision == Park(delay, "unreachable", after(outcome, line))


def test_a_429_parks_for_the_hinted_time() -> None:
    for hint, delay in ((0.0, 0.125), (2.0, 2.125), (-5.0, 0.125), (1e9, MAX_HINT + 0.125)):
        answer = reply(429, hint=hint)
        state = after(answer, throttles=1, throttled_by="gpu")
        assert judge(answer, NEW, FRESH) == Park(delay, "rate_limited", state)


def test_a_429_without_a_hint_parks_as_an_outage_does() -> None:
    state = after(reply(429), throttles=1, throttled_by="gpu")
    assert judge(reply(429), NEW, Standing(0, 2, "gpu")) == Park(3.0, "rate_limited", state)


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
        decision = judge(reply(429), line, Standing(successes, backend="gpu"))
        assert isinstance(decision, Park)
        line = decision.state
    assert line.throttles == 4
    assert isinstance(judge(reply(429), line, Standing(4, backend="gpu")), Park)
    assert judge(reply(429), line, Standing(5, backend="gpu")) == Settle()


def throttled(backends: str, rises: int) -> list[Decision]:
    """A line that is answered 429 on these backends, which have ``rises`` successes in between."""
    line, successes, decisions = NEW, 0, list[Decision]()
    for name in backends:
        successes += rises
        decision = judge(reply(429), line, Standing(successes, backend=name))
        decisions.append(decision)
        if isinstance(decision, Park):
            line = decision.state
    return decisions


def test_a_line_that_goes_to_and_fro_between_backends_settles_too() -> None:
    decisions = throttled("abababababab", 1)
    assert decisions.index(Settle()) == 8  # the fifth time on the first of them


def test_to_and_fro_between_backends_that_serve_nobody_it_never_settles() -> None:
    assert Settle() not in throttled("ab" * 50, 0)


def test_successes_of_one_backend_do_not_count_against_another() -> None:
    line = LineState(throttles=4, successes_seen=1, backend="a", throttled_by="a")
    decision = judge(reply(429), line, Standing(1000, backend="b"))
    assert isinstance(decision, Park)
    assert (decision.state.throttles, decision.state.throttled_by) == (4, "a")


def test_once_only_another_backend_is_left_that_one_counts() -> None:
    decisions = throttled("aabbbbbbb", 1)
    assert decisions.index(Settle()) == 6


def test_after_a_restart_a_line_goes_on_where_it_was() -> None:
    line = LineState(throttles=4)
    decision = judge(reply(429), line, Standing(9, backend="a"))
    assert isinstance(decision, Park)
    assert judge(reply(429), decision.state, Standing(10, backend="a")) == Settle()


@pytest.mark.parametrize("standing", [FRESH, SERVING])
def test_a_quota_that_is_used_up_parks(standing: Standing) -> None:
    outcome = reply(429, code="insufficient_quota", hint=1)
    line = LineState(faults=4, throttles=4)
    state = after(outcome, line)
    assert judge(outcome, line, standing) == Park(POLICY.quota_pause, "insufficient_quota", state)


@pytest.mark.parametrize("standing", [FRESH, SERVING])
def test_a_refused_key_parks(standing: Standing) -> None:
    state = after(reply(401))
    assert judge(reply(401), NEW, standing) == Park(POLICY.refused_pause, "refused_401", state)


def test_a_403_parks_only_while_nothing_has_succeeded() -> None:
    state = after(reply(403))
    assert judge(reply(403), NEW, FRESH) == Park(POLICY.refused_pause, "refused_403", state)
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


@pytest.mark.parametrize(
    ("outcome", "fault", "kind"),
    [
        (reply(200), False, "http_200"),
        (reply(400), False, "http_400"),
        (reply(401), False, "http_401"),
        (reply(408), True, "http_408"),
        (reply(429), False, "http_429"),
        (reply(503), True, "http_503"),
        (Failure(FailureKind.UNREACHABLE), False, "unreachable"),
        (Failure(FailureKind.TIMEOUT), True, "timeout"),
        (Failure(FailureKind.NOT_JSON), True, "not_json"),
    ],
)
def test_an_outcome_in_a_word_and_whether_it_is_a_fault(
    outcome: Outcome, fault: bool, kind: str
) -> None:
    assert (is_fault(outcome), kind_of(outcome)) == (fault, kind)
