"""What is postponed waits longer each time, and no longer than a pause that it did not cause."""

from batchd.engine.postponed import LONGEST_POSTPONED, POSTPONED, Postponed


def test_it_waits_twice_as_long_each_time_up_to_a_limit() -> None:
    it, now, waits = Postponed(), 0.0, list[float]()
    for _ in range(6):
        it.note("a", now)
        assert it.waits("a", now)
        waits.append(it.rest(now) or 0)
        now += waits[-1]
        assert not it.waits("a", now)
    assert waits == [POSTPONED, 20, 40, 80, LONGEST_POSTPONED, LONGEST_POSTPONED]
    assert it.rest(now) is None


def test_others_are_forgotten() -> None:
    it = Postponed()
    it.note("a", 0)
    it.keep({"b"})
    assert not it.waits("a", 0)


def test_the_end_of_a_pause_for_room_ends_the_waits_from_before_it() -> None:
    it = Postponed()
    it.note("before", 0)
    it.follow(1, is_full=True)
    it.note("its cause, perhaps", 2)
    it.follow(3, is_full=True)
    assert it.waits("before", 3)
    it.follow(4, is_full=False)
    assert not it.waits("before", 4)
    assert it.waits("its cause, perhaps", 4)
    it.note("its cause, perhaps", 12)
    assert it.rest(12) == 2 * POSTPONED
