"""Signs of life, in virtual time: when a backend is looked at, and what that says."""

import itertools

from batchd.backends.pulse import Pulse


def beating(now: float = 0.0, took: float = 0.1) -> Pulse:
    """A pulse with a request that was answered just now, and others in flight."""
    it = Pulse()
    it.began(now - took)
    it.answered(now, took, is_fault=False)
    return it


def test_nothing_is_asked_while_answers_come() -> None:
    it = beating()
    for now in range(1, 100):
        assert not it.wants_look(now, in_flight=4)
        it.answered(now, 0.5, is_fault=False)


def test_silence_makes_it_suspect() -> None:
    it = beating()
    assert not it.wants_look(3, in_flight=1)
    assert not it.is_suspect
    assert it.wants_look(3.1, in_flight=1)
    assert it.is_suspect


def test_a_server_whose_answers_take_long_may_be_silent_for_longer() -> None:
    it = beating(took=20)
    assert not it.wants_look(60, in_flight=1)
    assert it.wants_look(60.1, in_flight=1)


def test_a_long_answer_is_forgotten_after_many_short_ones() -> None:
    it = beating(took=20)
    for _ in range(200):
        it.answered(0, 0.1, is_fault=False)
    assert it.wants_look(3.1, in_flight=1)


def test_it_is_not_silent_with_nothing_in_flight() -> None:
    it = beating()
    assert not it.wants_look(1000, in_flight=0)
    it.began(1000)
    assert not it.wants_look(1003, in_flight=1)


def test_before_the_first_answer_silence_may_be_long() -> None:
    it = Pulse()
    it.began(0)
    assert not it.wants_look(60, in_flight=1)
    assert it.wants_look(60.1, in_flight=1)


def gone(it: Pulse, now: float) -> None:
    """Two looks in vain."""
    while not it.is_gone:
        assert it.wants_look(now, in_flight=1)
        it.looked(now, is_alive=False)
        now += 1


def test_one_that_was_only_too_busy_for_a_look_may_be_silent_for_longer_next_time() -> None:
    it = beating()
    gone(it, 10)
    it.looked(12, is_alive=True)
    assert not it.wants_look(12 + 33, in_flight=1)
    assert it.wants_look(12 + 33.1, in_flight=1)


def test_that_lesson_is_bounded_and_forgotten_after_many_answers() -> None:
    it = beating()
    gone(it, 100_000)
    it.looked(100_010, is_alive=True)
    assert not it.wants_look(101_810, in_flight=1)
    assert it.wants_look(101_810.1, in_flight=1)
    for _ in range(400):
        it.answered(200_000, 0.1, is_fault=False)
    assert it.wants_look(200_004, in_flight=1)


def test_a_server_that_answers_slowly_and_nothing_but_lines_is_left_alone_in_the_end() -> None:
    """Each answer takes 400 s, and while it works it does not answer looks."""
    it = Pulse()
    now, aborts, answers = 0.0, 0, 0
    while now < 86_400:
        began = now
        it.began(now)
        while now < began + 400:
            now += 1
            if it.wants_look(now, in_flight=1):
                it.looked(now, is_alive=False)
            if it.is_gone:
                break
        if it.is_gone:
            aborts += 1
            it.looked(now, is_alive=True)
        else:
            answers += 1
            it.answered(now, now - began, is_fault=False)
    assert aborts <= 3
    assert answers > 200


def test_ten_faults_in_a_row_make_it_suspect() -> None:
    it = beating()
    for _ in range(9):
        it.failed()
    assert not it.wants_look(1, in_flight=0)
    it.answered(1, 0.1, is_fault=False)
    for _ in range(5):
        it.failed()
        it.answered(1, 0.1, is_fault=True)
    assert it.wants_look(1, in_flight=0)


def test_a_look_in_vain_is_repeated_ever_more_rarely_and_the_second_means_gone() -> None:
    it, now, looks = beating(), 10.0, list[float]()
    while len(looks) < 8:
        if it.wants_look(now, in_flight=1):
            looks.append(now)
            it.looked(now, is_alive=False)
            assert it.is_gone == (len(looks) >= 2)
        now += 0.5
    waits = [after - before for before, after in itertools.pairwise(looks)]
    assert waits == [1, 1, 2, 4, 8, 8, 8]
    assert it.is_suspect


def test_from_the_fourth_look_in_vain_on_a_line_may_go_with_each() -> None:
    it = beating()
    found = list[bool]()
    for now in range(10, 70, 10):
        assert it.wants_look(now, in_flight=1)
        it.looked(now, is_alive=False)
        found.append(it.wants_line)
        it.line_went(now)
        assert not it.wants_line
    assert found == [False] * 3 + [True] * 3
    assert it.is_tried(68)
    assert not it.is_tried(60 + 600)


def test_once_it_lives_no_line_is_wanted_any_more() -> None:
    looked, answered = beating(), beating()
    for it in (looked, answered):
        for now in range(10, 60, 10):
            it.looked(now, is_alive=False)
        it.line_went(50)
        it.looked(55, is_alive=False)
    looked.looked(60, is_alive=True)
    answered.answered(60, 1, is_fault=False)
    for it in (looked, answered):
        assert not it.wants_line
        assert not it.is_tried(60)


def test_a_look_that_is_answered_clears_it() -> None:
    it = beating()
    for _ in range(10):
        it.failed()
    assert it.wants_look(90, in_flight=1)
    it.looked(90, is_alive=False)
    assert it.is_suspect
    assert not it.wants_look(90.9, in_flight=1)
    assert it.wants_look(91, in_flight=1)
    it.looked(100, is_alive=True)
    assert not it.is_suspect
    assert not it.is_gone
    assert not it.wants_look(103, in_flight=1)
    assert it.wants_look(103.1, in_flight=1)


def test_an_answer_to_a_line_clears_it_and_a_fault_does_not() -> None:
    it = beating()
    assert it.wants_look(10, in_flight=1)
    it.answered(10, 10, is_fault=True)
    assert it.is_suspect
    it.answered(10, 10, is_fault=False)
    assert not it.is_suspect
