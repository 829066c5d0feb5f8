"""Histories that are told line by line, and how the checks complain when something is wrong."""

from collections.abc import Callable

import pytest

from batchd.retry import THROTTLES_TO_SETTLE
from tests.simulation.database import opened_store
from tests.simulation.history import Told, run_history
from tests.simulation.plan import FAULT_LIMIT, Rot
from tests.simulation.scripts import CROWD, SCRIPTS

pytestmark = pytest.mark.allow_blocking(reason="its loop is virtual, and waits for nobody")


def run(name: str, *, tell: Callable[[str], None] | None = None) -> Told:
    script = SCRIPTS[name]()
    with opened_store() as store:
        return run_history(script.plan, store, script.meddle, tell=tell)


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


@pytest.mark.parametrize("name", ["hung", "drained", "left out while it hangs"])
def test_what_hangs_on_a_server_that_is_gone_is_broken_off_and_done_by_another(name: str) -> None:
    told = run(name)
    assert told.violation is None
    assert told.tally["lines broken off"] >= 1
    assert (told.tally["completed"], told.tally["answered 200"]) == (1, 60)


def test_a_server_that_is_left_out_finishes_its_lines_and_may_come_back() -> None:
    told = run("left out and back")
    assert told.violation is None
    assert told.tally["servers in flight at a reload"] >= 1
    assert "lines broken off" not in told.tally
    assert told.tally["answered 200"] == 40


def test_a_large_order_is_read_in_pieces_even_if_it_cannot_be_read_for_a_while() -> None:
    told = run("read in pieces")
    assert told.violation is None
    assert told.tally["pieces of an order"] > 20
    assert told.tally["orders not read"] >= 1
    assert told.tally["completed"] == 1


def test_a_small_batch_behind_a_large_one_waits_for_one_round_of_everybodys_lines() -> None:
    events: list[list[str]] = []
    told = run("crowd", tell=lambda text: events.append(text.split()))
    assert told.violation is None
    sent = [event[2].partition("-")[0] for event in events if event[1] == "sent"]
    first = min(sent.index(str(number)) for number in range(1, CROWD))
    last = max(len(sent) - sent[::-1].index(str(number)) for number in range(1, CROWD))
    # Four lines of each, and of the large one what two owners in turn leave it: far from all of it.
    assert last - first <= 2 * (4 * (CROWD - 1) + 4)
    assert sent[last:].count("0") > 100


def test_faults_stay_on_record_however_often_batchd_is_stopped() -> None:
    told = run("failing for ever")
    assert told.violation is None
    assert told.tally["stops"] == 4
    assert told.tally["faults on record at a start"] >= 10
    faults = sum(count for kind, count in told.tally.items() if kind.startswith("answered"))
    assert faults == 20 * FAULT_LIMIT


def test_a_polite_server_makes_way_for_guests_within_seconds() -> None:
    told = run("beside guests")
    assert told.violation is None
    assert told.tally["lines sent beside many guests"] >= 10


def test_a_line_that_is_throttled_alone_ends_with_its_429_and_each_time_is_waited_for() -> None:
    told = run("throttled for ever")
    assert told.violation is None
    assert told.tally["hints to wait"] == THROTTLES_TO_SETTLE
    assert (told.tally["completed"], told.tally["answered 200"]) == (1, 79)
