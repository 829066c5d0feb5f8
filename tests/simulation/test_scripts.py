"""Histories that are told line by line, and how the checks complain when something is wrong."""

import pytest

from tests.simulation.database import opened_store
from tests.simulation.history import Told, run_history
from tests.simulation.plan import Rot
from tests.simulation.scripts import SCRIPTS

pytestmark = pytest.mark.allow_blocking(reason="its loop is virtual, and waits for nobody")


def run(name: str) -> Told:
    script = SCRIPTS[name]()
    with opened_store() as store:
        return run_history(script.plan, store, script.meddle)


@pytest.mark.parametrize("how", list(Rot))
def test_a_damaged_result_file_costs_nothing_but_sending_lines_again(how: Rot) -> None:
    told = run(how.value)
    assert told.violation is None
    assert (told.tally[how], told.tally["completed"]) == (1, 1)


def test_an_ending_that_waits_for_room_is_given_up_at_a_stop_and_done_by_the_next_life() -> None:
    told = run("stopped while full")
    assert told.violation is None
    assert (told.tally["stops"], told.tally["cancelled"]) == (1, 1)
    assert told.tally["ends while cancelling"] == 2


def test_opening_a_run_that_is_open_changes_nothing() -> None:
    assert run("opened twice").violation is None


def test_a_batch_whose_row_has_lost_the_id_of_a_file_ends_the_life_of_batchd() -> None:
    violation = run("without an id").violation or ""
    assert "SpoolError" in violation
    assert "has lost its output file's id" in violation


def test_a_batch_whose_counts_do_not_add_up_does_not_end() -> None:
    told = run("miscounted")
    assert "20 lines are done, but" in (told.violation or "")
    assert told.tally["finalizing"] == 1
    assert "completed" not in told.tally


def test_a_cancel_between_the_last_look_and_the_commit_is_obeyed() -> None:
    told = run("cancelled at the last moment")
    assert told.violation is None
    assert told.tally["cancelled while finalizing"] == 1
    assert told.tally["cancelled"] == 1
