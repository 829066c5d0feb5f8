import pytest

from batchd.cli.errors import Refused, Unreachable
from batchd.cli.progress import PlainDisplay
from batchd.cli.waiting import patiently


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_it_asks_for_as_long_as_it_takes_and_says_so_once() -> None:
    clock, said = Clock(), list[str]()
    away = [Unreachable("refused"), Unreachable("refused"), Refused("starting", status=503)]

    def ask() -> str:
        if clock.now < 3600:
            raise away[int(clock.now) % 3]
        return "here"

    assert patiently(ask, PlainDisplay({}, said.append), clock) == "here"
    assert said == ["waiting for batchd: refused", "batchd answers again"]


def test_a_definite_no_is_an_answer() -> None:
    def ask() -> str:
        raise Refused("No batch found.", status=404)

    with pytest.raises(Refused):
        patiently(ask, PlainDisplay({}, list[str]().append), Clock())
