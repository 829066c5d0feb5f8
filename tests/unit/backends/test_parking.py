"""When a backend is sent nothing: closed, open, half open. All in virtual time."""

from batchd.backends.parking import Parking
from batchd.retry import LineState, Park, Standing


def park(delay: float, reason: str = "unreachable") -> Park:
    return Park(delay, reason, LineState())


def test_the_longest_of_several_parks_counts() -> None:
    it = Parking("gpu")
    assert it.park(park(10), 0)
    assert not it.park(park(5), 1)
    assert it.until() == 10
    it.park(park(30), 2)
    assert (it.until(), it.is_parked(31.9), it.is_parked(32)) == (32, True, False)


def test_the_reason_is_that_of_the_longest() -> None:
    it = Parking("gpu")
    it.park(park(300, "refused_401"), 0)
    assert not it.park(park(1), 0)
    assert it.reason == "refused_401"
    assert it.park(park(1), 300)
    assert it.reason == "unreachable"


def test_a_volley_of_failures_is_one_park() -> None:
    it = Parking("gpu")
    for _ in range(5):
        it.park(park(1), 0)
    assert it.standing == Standing(0, 1, "gpu")
    it.park(park(2), 1)
    assert it.standing == Standing(0, 2, "gpu")
    it.answered(3, ok=True)
    assert it.standing == Standing(1, 0, "gpu")


def test_a_new_reason_is_news() -> None:
    it = Parking("gpu")
    assert it.park(park(1), 0)
    assert not it.park(park(1), 0)
    assert it.park(park(1, "rate_limited"), 0)
    assert it.reason == "rate_limited"


def test_it_is_half_open_from_the_park_to_the_first_answer_after_it() -> None:
    it = Parking("gpu")
    assert not it.is_half_open
    it.park(park(10), 0)
    it.answered(9, ok=True)  # was sent before
    assert it.is_half_open
    it.answered(10, ok=False)
    assert not it.is_half_open
    assert it.standing == Standing(1, 0, "gpu")


def test_an_end_lets_one_go_at_once() -> None:
    it = Parking("gpu")
    it.park(park(3600, "insufficient_quota"), 0)
    it.end()
    assert (it.is_parked(1), it.is_half_open) == (False, True)
    it.park(park(2), 1)
    assert it.until() == 3


def test_another_key_ends_a_refusal_but_no_wait_that_the_server_asked_for() -> None:
    it = Parking("gpu")
    it.park(park(300, "refused_401"), 0)
    it.park(park(2, "rate_limited"), 1)
    it.end_refusal(2)
    assert (it.is_parked(2.9), it.is_parked(3), it.reason) == (True, False, "rate_limited")
    it.park(park(300, "refused_401"), 4)
    it.end_refusal(5)
    assert (it.is_parked(5), it.is_half_open) == (False, True)


def test_who_says_that_it_is_over_is_believed_though_the_server_asked_to_wait() -> None:
    it = Parking("gpu")
    it.park(park(60, "rate_limited"), 0)
    it.end()
    it.end_refusal(1)
    assert not it.is_parked(1)
