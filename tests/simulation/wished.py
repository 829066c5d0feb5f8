"""A value that a client changes now and then, and what it may be after a crash."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Wished(Generic[T]):
    """What was acknowledged last, or what was asked for since: a lost answer leaves either."""

    def __init__(self, value: T) -> None:
        self.acknowledged = value
        self._asked: list[T] = []

    def ask(self, value: T) -> None:
        self._asked.append(value)

    def grant(self, value: T) -> None:
        """The answer came."""
        self.acknowledged = value
        self._asked.clear()

    def may_be(self, value: T) -> bool:
        return value == self.acknowledged or value in self._asked
