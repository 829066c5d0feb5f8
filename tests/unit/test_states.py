"""The state machine: every status with every event."""

import itertools

import pytest

from batchd.errors import InvalidTransition
from batchd.states import TERMINAL, TRANSITIONS, UNFINISHED, BatchStatus, Event, next_status

# Contract section 6, written down a second time.
STEPS = {
    ("validating", "validated"): "in_progress",
    ("validating", "rejected"): "failed",
    ("validating", "cancel"): "cancelling",
    ("validating", "window_closed"): "expired",
    ("in_progress", "lines_done"): "finalizing",
    ("in_progress", "window_closed"): "finalizing",
    ("in_progress", "cancel"): "cancelling",
    ("finalizing", "published"): "completed",
    ("finalizing", "published_late"): "expired",
    ("finalizing", "cancel"): "cancelling",
    ("cancelling", "published"): "cancelled",
}

PAIRS = list(itertools.product(BatchStatus, Event))


def test_there_are_eight_statuses_and_seven_events() -> None:
    assert len(PAIRS) == 8 * 7


@pytest.mark.parametrize(("status", "event"), PAIRS)
def test_what_is_in_the_table_happens_and_all_else_is_refused(
    status: BatchStatus, event: Event
) -> None:
    expected = STEPS.get((status.value, event.value))
    if expected is None:
        with pytest.raises(InvalidTransition, match=f"{status} cannot take {event}"):
            next_status(status, event)
    else:
        assert next_status(status, event) == expected


def test_every_status_can_be_reached() -> None:
    reached = {BatchStatus.VALIDATING}
    while more := {to for at in reached for to in TRANSITIONS[at].values()} - reached:
        reached |= more
    assert reached == set(BatchStatus)


def test_the_terminal_statuses_have_no_way_out() -> None:
    assert {status.value for status in TERMINAL} == {"completed", "failed", "expired", "cancelled"}
    assert set(BatchStatus) == TERMINAL | UNFINISHED
    assert not TERMINAL & UNFINISHED
