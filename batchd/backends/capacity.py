"""How many requests may be in flight: counts, and the limit that bounds them. Pure.

One for each (backend, model) where the limit is found by measuring, one for a whole backend where
it is a number. Two bounds apply: the slots, each free again as soon as its answer is read, and
twice as many lines sent but not yet durable.
"""

from typing import Protocol


class Concurrency(Protocol):
    """Who sets the limit: a number, or what measuring finds. ``now``: of the loop's clock."""

    @property
    def limit(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def throughput(self) -> float: ...
    @property
    def is_settled(self) -> bool: ...
    @property
    def to_keep(self) -> int: ...
    def sent(self, now: float, in_flight: int) -> None: ...
    def answered(self, now: float, took: float, in_flight: int) -> None: ...
    def overloaded(self, now: float, in_flight: int, *, refused: bool = False) -> None: ...
    def queued(self, now: float, waiting: int) -> None: ...


class Capacity:
    """Slots taken and lines unsettled, held against the limit."""

    def __init__(self, concurrency: Concurrency) -> None:
        self.concurrency = concurrency
        self.in_flight = 0
        self.unsettled = 0

    def is_free(self) -> bool:
        """Whether one more request may go."""
        limit = self.concurrency.limit
        return self.in_flight < limit and self.unsettled < 2 * limit

    @property
    def load(self) -> float:
        """How full it is with one request more: 1 at the limit."""
        return (self.in_flight + 1) / self.concurrency.limit
