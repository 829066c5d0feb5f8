"""Shares follow weights, nobody waits for another's whole share, and newcomers starve nobody."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.engine.rounds import QUANTUM, Rounds


class Sender:
    """Has ``left`` lines to send."""

    def __init__(self, name: str, weight: float = 1.0, left: int = 1 << 30) -> None:
        self.name = name
        self.weight = weight
        self.left = left
        self.credit = 0.0
        self.round = 0


def rounds_of(*senders: Sender) -> Rounds[Sender]:
    rounds = Rounds[Sender](lambda sender: sender.weight)
    for sender in senders:
        rounds.join(sender)
    return rounds


def send(rounds: Rounds[Sender], lines: int) -> list[str]:
    """Who sent each of so many lines."""
    sent: list[str] = []
    while len(sent) < lines and (sender := rounds.front()) is not None:
        if not sender.left:
            rounds.leave(sender)
            continue
        sender.left -= 1
        sent.append(sender.name)
        rounds.served(sender)
    return sent


def test_members_take_turns_line_by_line() -> None:
    assert send(rounds_of(Sender("a"), Sender("b"), Sender("c", left=1)), 7) == list("abcabab")


@given(st.lists(st.floats(0.25, 8), min_size=2, max_size=6))
def test_shares_are_as_the_weights(weights: list[float]) -> None:
    senders = [Sender(str(number), weight) for number, weight in enumerate(weights)]
    counts = Counter(send(rounds_of(*senders), int(sum(weights) * QUANTUM * 50)))
    for sender in senders:
        share = counts[sender.name] / counts.total()
        assert share == pytest.approx(sender.weight / sum(weights), rel=0.25)


def test_a_small_one_is_done_within_one_round() -> None:
    large = [Sender(f"large {number}", weight=8.0) for number in range(10)]
    rounds = rounds_of(*large)
    send(rounds, 500)
    rounds.join(Sender("small", left=QUANTUM))
    sent = send(rounds, 10 * 8 * QUANTUM + QUANTUM)
    assert sent.count("small") == QUANTUM


def test_a_stream_of_newcomers_does_not_put_the_next_round_off_for_ever() -> None:
    old = Sender("old")
    rounds = rounds_of(old)
    sent = send(rounds, QUANTUM)
    for number in range(2000):
        rounds.join(Sender(f"new {number}", left=5))
        sent += send(rounds, 5)
    assert sent.count("old") > 200


def test_leaving_and_coming_back_earns_no_second_share_of_a_round() -> None:
    steady, flighty = Sender("steady"), Sender("flighty")
    rounds = rounds_of(steady, flighty)
    sent: list[str] = []
    for _ in range(50 * QUANTUM):
        front = rounds.front()
        assert front is not None
        sent.append(front.name)
        rounds.served(front)
        if front is flighty and rounds.front() is flighty:
            rounds.leave(flighty)
            rounds.join(flighty)
    assert abs(sent.count("steady") - sent.count("flighty")) <= QUANTUM


def test_nobody_means_nobody() -> None:
    rounds = rounds_of(Sender("a", left=0))
    assert send(rounds, 1) == []
    assert rounds.front() is None
    assert len(rounds) == 0


def test_one_that_cannot_send_keeps_its_turn_and_holds_nobody_up() -> None:
    stuck, free = Sender("stuck"), Sender("free")
    rounds = rounds_of(stuck, free)
    for _ in range(3 * QUANTUM):
        able = next(sender for sender in rounds.in_turn() if sender is not stuck)
        rounds.served(able)
    assert rounds.front() is stuck
    assert send(rounds, QUANTUM) == ["stuck"] * QUANTUM
    rounds.leave(free)
    assert send(rounds, 1) == ["stuck"]


def send_past(rounds: Rounds[Sender], lines: int, *stuck: Sender) -> list[str]:
    """Who sent each of so many lines while some cannot."""
    sent: list[str] = []
    for _ in range(lines):
        able = next(sender for sender in rounds.in_turn() if sender not in stuck)
        rounds.served(able)
        sent.append(able.name)
    return sent


def test_those_behind_one_that_can_never_send_take_turns() -> None:
    stuck, b, c = Sender("stuck"), Sender("b"), Sender("c")
    rounds = rounds_of(stuck, b, c)
    counts = Counter(send_past(rounds, 1000, stuck))
    assert counts == {"b": 500, "c": 500}


@given(st.lists(st.floats(0.25, 8), min_size=2, max_size=5), st.integers(1, 3))
def test_some_that_can_never_send_change_nothing_in_the_shares_of_the_others(
    weights: list[float], blocked: int
) -> None:
    able = [Sender(str(number), weight) for number, weight in enumerate(weights)]
    stuck = [Sender(f"stuck {number}", weight=2.0) for number in range(blocked)]
    rounds = rounds_of(stuck[0], *able, *stuck[1:])
    counts = Counter(send_past(rounds, int(sum(weights) * QUANTUM * 50), *stuck))
    for sender in able:
        share = counts[sender.name] / counts.total()
        assert share == pytest.approx(sender.weight / sum(weights), rel=0.25)


def test_one_that_could_not_send_has_at_most_one_share_in_arrears() -> None:
    stuck, b, c = Sender("stuck"), Sender("b"), Sender("c")
    rounds = rounds_of(stuck, b, c)
    send_past(rounds, 100 * QUANTUM, stuck)
    assert send(rounds, QUANTUM) == ["stuck"] * QUANTUM
    counts = Counter(send(rounds, 30 * QUANTUM))
    assert max(counts.values()) - min(counts.values()) <= QUANTUM


def test_newcomers_have_their_turn_while_one_can_never_send() -> None:
    stuck, old = Sender("stuck"), Sender("old")
    rounds = rounds_of(stuck, old)
    sent = send_past(rounds, 2 * QUANTUM, stuck)
    for number in range(200):
        new = Sender(f"new {number}")
        rounds.join(new)
        sent += send_past(rounds, 6, stuck)
        rounds.leave(new)
    assert sent.count("old") > 150
    assert sum(name.startswith("new") for name in sent) > 400


def test_one_that_leaves_while_it_cannot_send_is_gone() -> None:
    stuck, b, c = Sender("stuck"), Sender("b"), Sender("c")
    rounds = rounds_of(stuck, b, c)
    send_past(rounds, 3 * QUANTUM, stuck)
    rounds.leave(stuck)
    assert len(rounds) == 2
    assert "stuck" not in send(rounds, 100)


def test_looking_who_could_send_changes_no_shares() -> None:
    """As who has nothing for one backend leaves, and takes its place again for the next."""
    heavy, light = Sender("heavy", weight=2.0), Sender("light")
    rounds = rounds_of(heavy, light)
    sent: list[str] = []
    for _ in range(60 * QUANTUM):
        looked_at: list[Sender] = []
        while (sender := rounds.front()) is not None:
            rounds.leave(sender)
            looked_at.append(sender)
        for sender in looked_at:
            rounds.join(sender)
        sent += send(rounds, 1)
    assert sent.count("heavy") / sent.count("light") == pytest.approx(2, rel=0.1)
