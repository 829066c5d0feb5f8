"""Weighted deficit round robin over whoever has something to send. Pure.

A round gives each member credit for ``QUANTUM`` lines, times its weight. Within it they take turns
line by line, so that nobody waits for another's whole share; who has used its credit waits for the
next round, which begins when nobody is left in this one. Who joins takes part in the round that
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
        self._now: deque[M] = deque()
        self._next: deque[M] = deque()
        self._round = 1
        self._may_join = _NEWCOMERS

    def __len__(self) -> int:
        return len(self._now) + len(self._next)

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
        if not self._now and self._next:
            self._round += 1
            self._now, self._next = self._next, self._now
            self._may_join = max(_NEWCOMERS, len(self._now))
            for member in self._now:
                self._begin(member, self._round)
        return self._now[0] if self._now else None

    def in_turn(self) -> list[M]:
        """Everybody, whose turn it is first; then those that have used their credit.

        For who cannot take the first: a later one may be served if nobody before it can send.
        """
        self.front()
        return [*self._now, *self._next]

    def served(self, member: M) -> None:
        """It has sent a line."""
        if self._now and self._now[0] is member:
            self._now.popleft()
        elif member in self._now:
            self._now.remove(member)
        else:
            return  # beyond its credit, since nobody else could: it owes nothing for that
        member.credit -= 1
        (self._now if member.credit >= 1 else self._next).append(member)

    def leave(self, member: M) -> None:
        """It has nothing to send."""
        if self._now and self._now[0] is member:
            self._now.popleft()
        else:
            (self._now if member in self._now else self._next).remove(member)

    def _begin(self, member: M, number: int) -> None:
        member.round = number
        member.credit = max(1.0, QUANTUM * self._weight_of(member))
