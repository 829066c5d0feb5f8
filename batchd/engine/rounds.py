"""Weighted deficit round robin over whoever has something to send. Pure.

A round gives each member credit for ``QUANTUM`` lines, times its weight. Within it they take turns
line by line, so that nobody waits for another's whole share; who has used its credit waits for the
next round. That begins when nobody who is left in this one can send: what they have left of their
credit is in arrears then, and goes first once they can. Who joins takes part in the round that
runs, but only so many newcomers: a stream of them cannot put the next round off for ever. Credit
that is left when a member leaves is good until the round ends. O(1) per line.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

QUANTUM = 16
_NEWCOMERS = 16  # in a round at least


class Member(Protocol):
    """Who takes part. Both are the rounds' own to change."""

    credit: float
    round: int


M = TypeVar("M", bound=Member)


class Rounds(Generic[M]):
    """``weight_of`` is asked at the beginning of each of a member's rounds: 1 gets ``QUANTUM``."""

    def __init__(self, weight_of: Callable[[M], float]) -> None:
        self._weight_of = weight_of
        self._behind: deque[M] = deque()  # with credit of an earlier round
        self._now: deque[M] = deque()
        self._next: deque[M] = deque()
        self._round = 1
        self._may_join = _NEWCOMERS

    def __len__(self) -> int:
        return len(self._behind) + len(self._now) + len(self._next)

    def join(self, member: M) -> None:
        """Take part, from the end of the line."""
        is_new = member.round != self._round
        if is_new and self._may_join > 0:
            self._may_join -= 1
            self._begin(member, self._round)
        if member.round == self._round and member.credit >= 1:
            self._now.append(member)
        else:
            self._next.append(member)

    def front(self) -> M | None:
        """Whose turn it is; None if nobody takes part."""
        for members in (self._behind, self._now, self._next):
            if members:
                return members[0]
        return None

    def in_turn(self) -> list[M]:
        """Everybody, whose turn it is first; at the end those that have used their credit.

        For who cannot take the first: a later one may be served if nobody before it can send.
        """
        return [*self._behind, *self._now, *self._next]

    def served(self, member: M) -> None:
        """It has sent a line, and nobody before it in turn could."""
        place = self._place_of(member)
        if place is self._next:
            self._begin_round()
            place = self._now
        place.remove(member)
        member.credit -= 1
        if member.credit >= 1:
            place.append(member)
        elif place is self._behind:
            self._begin(member, self._round)
            self._now.append(member)
        else:
            self._next.append(member)

    def leave(self, member: M) -> None:
        """It has nothing to send."""
        self._place_of(member).remove(member)

    def _place_of(self, member: M) -> deque[M]:
        # Whoever stands before it was looked at and could not send: this costs no more than that.
        for members in (self._behind, self._now):
            if member in members:
                return members
        return self._next

    def _begin_round(self) -> None:
        self._behind.extend(self._now)
        self._now, self._next = self._next, deque()
        self._round += 1
        self._may_join = max(_NEWCOMERS, len(self._now))
        for member in self._now:
            self._begin(member, self._round)

    def _begin(self, member: M, number: int) -> None:
        member.round = number
        member.credit = max(1.0, QUANTUM * self._weight_of(member))
