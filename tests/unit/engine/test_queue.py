"""Each line is given out once, group by group, and again only when its time has come."""

import random
from array import array
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.engine.queue import MAX_OPEN, MAX_WAITING, LineQueue
from batchd.gathering import Group
from batchd.ledger import Bitmap
from batchd.retry import LineState


class Results(Bitmap):
    """Which lines are done."""

    @property
    def total(self) -> int:
        return self.size

    def is_done(self, index: int) -> bool:
        return index in self


class Giving:
    """A queue, and what it gave out to whom."""

    def __init__(self, *groups: str, done: tuple[int, ...] = (), total: int | None = None) -> None:
        """``groups``: a letter for each line, in the order of the file: lines of one letter are a
        group. Without, one group as in the input."""
        letters = groups[0] if groups else ""
        self.letters = letters
        lines = array("I", sorted(range(len(letters)), key=lambda at: letters.index(letters[at])))
        found: list[Group] = []
        start = 0
        for letter in dict.fromkeys(letters):
            count = letters.count(letter)
            found.append(Group("m", 1, start, count, is_rest=False))
            start += count
        size = len(letters) if total is None else total
        self.results = Results(size)
        for index in done:
            self.results.add(index)
        self.states: dict[int, LineState] = {}

        def read(at: int, count: int) -> "array[int]":
            return lines[at : at + count]

        self.queue = LineQueue(
            "m",
            found or [Group("m", 0, 0, size, is_rest=True)],
            read if letters else None,
            self.results,
            self.states,
        )
        self.others = False

    def take(self, home: str = "a", width: int = 4, now: float = 0.0) -> int | None:
        while True:
            index = self.queue.take(now, home, width, lambda: self.others)
            if index is None and self.queue.is_hungry:
                self.queue.fill()
                continue
            return index

    def all(self, home: str = "a", width: int = 4) -> list[int]:
        found: list[int] = []
        while (index := self.take(home, width)) is not None:
            found.append(index)
        return found

    def end(self, index: int) -> None:
        """Its answer has come and is durable."""
        self.queue.landed(index)
        self.results.add(index)
        self.queue.gone(index)

    def fail(self, index: int, until: float, backend: str = "a") -> None:
        self.states[index] = LineState(faults=1, backend=backend)
        self.queue.wait_until(index, until)


def test_lines_come_in_order_and_done_ones_not_at_all() -> None:
    assert Giving(total=6, done=(0, 3, 5)).all() == [1, 2, 4]
    assert Giving(total=0).all() == []
    assert Giving("xyxyx", done=(0,)).all(width=1) == [2, 4, 1, 3]


def test_each_slot_has_a_group_of_its_own() -> None:
    it = Giving("abcd" * 50)
    chance = random.Random(1)  # noqa: S311 - a test
    flying = [it.take() for _ in range(4)]
    given_out = Counter(it.letters[index or 0] for index in flying)
    assert given_out == Counter("abcd")
    while max(given_out.values()) < 50:
        index = flying.pop(chance.randrange(4))
        assert index is not None
        it.end(index)
        following = it.take()
        assert following is not None
        assert it.letters[following] == it.letters[index]
        given_out[it.letters[following]] += 1
        flying.append(following)


def test_groups_are_opened_as_they_end_and_the_last_is_shared() -> None:
    it = Giving("aabbbbccdddddddd")
    flying: list[int] = []
    most: Counter[str] = Counter()
    order: list[str] = []
    while True:
        while len(flying) < 2 and (index := it.take(width=2)) is not None:
            flying.append(index)
            order.append(it.letters[index])
        if not flying:
            break
        counts = Counter(it.letters[index] for index in flying)
        most |= counts
        it.end(flying.pop(0))
    assert sorted(order) == sorted("aabbbbccdddddddd")
    assert most["a"] == most["b"] == most["c"] == 1
    assert most["d"] == 2


def test_a_backend_keeps_its_groups_and_helps_with_others_when_it_has_none() -> None:
    it = Giving("aaaabbbb")
    assert [it.letters[it.take(home, 1) or 0] for home in ("x", "y")] == ["a", "b"]
    assert it.letters[it.take("x", 1) or 0] == "a"
    assert it.letters[it.take("y", 1) or 0] == "b"
    assert it.letters[it.take("z", 1) or 0] in "ab"


def test_no_more_groups_are_open_than_a_cache_can_hold() -> None:
    it = Giving("".join(chr(200 + number) * 10 for number in range(100)))
    taken = [it.take(width=256) for _ in range(64)]
    assert len({it.letters[index or 0] for index in taken}) == MAX_OPEN


@given(
    st.text("abc", min_size=1, max_size=60), st.integers(1, 6), st.randoms(use_true_random=False)
)
def test_whatever_happens_every_line_is_given_out_until_it_is_done(
    letters: str, width: int, chance: random.Random
) -> None:
    it = Giving(letters)
    flying: list[int] = []
    now, sent = 0.0, Counter[int]()
    for _ in range(100 * len(letters)):
        now += 1
        if len(flying) < width:
            index = it.take(chance.choice("xy"), width, now)
            if index is not None:
                assert index not in flying
                assert index not in it.results
                sent[index] += 1
                flying.append(index)
        if flying and chance.random() < 0.7:
            index = flying.pop(chance.randrange(len(flying)))
            match chance.randrange(4) if sent[index] < 3 else 3:
                case 0:
                    it.fail(index, now + chance.random() * 5, chance.choice("xy"))
                case 1:
                    it.queue.put_back(index)
                case _:
                    it.end(index)
        if it.results.count == len(letters):
            break
    assert it.results.count == len(letters)


def test_a_line_that_waits_comes_when_it_is_due_and_takes_turns_with_fresh_ones() -> None:
    it = Giving(total=3)
    assert it.take() == 0
    assert it.queue.next_at() is None
    it.fail(0, 5.0)
    assert it.queue.next_at() == 5.0
    assert it.take(now=4.9) == 1
    assert it.take(now=5.0) == 0
    assert it.take(now=5.0) == 2
    assert it.take(now=5.0) is None


def test_a_line_that_was_put_back_comes_first() -> None:
    it = Giving("aaab")
    index = it.take()
    assert index is not None
    it.queue.put_back(index)
    assert it.take() == index


def test_a_line_that_failed_goes_elsewhere_if_others_do_its_model() -> None:
    it = Giving(total=3)
    first = it.take("x")
    assert first == 0
    it.fail(0, 0.0, backend="x")
    it.others = True
    assert it.take("x") == 1
    assert it.take("y") == 0
    it.fail(0, 0.0, backend="x")
    assert it.take("x") == 2
    assert it.take("x") is None
    assert it.queue.has_due
    it.others = False
    assert it.take("x") == 0
    assert not it.queue.has_due


def test_too_many_lines_that_wait_keep_fresh_ones_back() -> None:
    it = Giving(total=MAX_WAITING + 10)
    for _ in range(MAX_WAITING):
        index = it.take()
        assert index is not None
        it.fail(index, 100.0)
    assert it.take() is None
    assert len(it.queue.waiting) == MAX_WAITING
    assert it.take(now=100.0) is not None
    assert it.take(now=100.0) is not None


def test_an_order_is_read_a_piece_at_a_time() -> None:
    it = Giving("ab" * 5000, done=tuple(range(4000)))
    reads = 0

    def read(at: int, count: int) -> "array[int]":
        nonlocal reads
        reads += 1
        assert count <= 512
        return array("I", range(at, at + count))

    queue = LineQueue("m", [Group("m", 1, 0, 10_000, is_rest=False)], read, it.results, {})
    assert queue.take(0, "a", 4, lambda: False) is None
    assert queue.is_hungry
    assert reads == 0
    queue.fill()
    assert queue.take(0, "a", 4, lambda: False) == 4000
    assert reads <= 9


@pytest.mark.parametrize("error", [OSError, EOFError])
def test_an_order_that_cannot_be_read_is_asked_for_again(error: type[Exception]) -> None:
    fails = True

    def read(at: int, count: int) -> "array[int]":
        if fails:
            raise error
        return array("I", range(at, at + count))

    queue = LineQueue("m", [Group("m", 1, 0, 3, is_rest=False)], read, Results(3), {})
    assert queue.take(0, "a", 4, lambda: False) is None
    with pytest.raises(error):
        queue.fill()
    assert queue.is_hungry
    fails = False
    queue.fill()
    assert queue.take(0, "a", 4, lambda: False) == 0


def test_an_order_that_is_lost_costs_no_line() -> None:
    it = Giving("ababab")
    taken = [it.take(), it.take()]
    first = taken[0]
    assert first is not None
    it.end(first)
    it.queue.read_plainly()
    taken += it.all()
    assert sorted(index for index in taken if index is not None) == list(range(6))
