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

    def served(self) -> None:
        """Whoever is at the front has sent a line."""
        member = self._now.popleft()
        member.credit -= 1
        (self._now if member.credit >= 1 else self._next).append(member)

    def pass_over(self) -> None:
        """Whoever is at the front cannot send just now: the others first."""
        self._now.rotate(-1)

    def leave(self) -> None:
        """Whoever is at the front has nothing to send."""
        self._now.popleft()

    def _begin(self, member: M, number: int) -> None:
        member.round = number
        member.credit = max(1.0, QUANTUM * self._weight_of(member))
