from typing import TYPE_CHECKING

import pytest

from batchd.cli.errors import CommandFailed, Refused, Unreachable
from batchd.cli.progress import PlainDisplay
from batchd.cli.waiting import InDoubt, create_once, patiently

if TYPE_CHECKING:
    from batchd.cli.objects import Batch

UNKNOWN = "Whether the batch was made is not known: see `batchd list`."


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


class Interrupted(Clock):
    """The person presses Ctrl-C as soon as somebody sleeps."""

    def sleep(self, seconds: float) -> None:  # noqa: ARG002 - as it is called
        raise KeyboardInterrupt


def silent() -> PlainDisplay:
    return PlainDisplay({}, list[str]().append)


def test_ctrl_c_before_an_answer_leaves_a_doubt() -> None:
    def create(_key: str) -> "Batch":
        raise KeyboardInterrupt

    with pytest.raises(InDoubt, match="interrupted") as caught:
        create_once(create, silent(), Clock())
    assert str(caught.value).endswith(UNKNOWN)


def test_ctrl_c_after_a_no_leaves_none() -> None:
    def create(_key: str) -> "Batch":
        raise Refused("starting", status=503)

    with pytest.raises(KeyboardInterrupt):
        create_once(create, silent(), Interrupted())


def test_a_no_takes_no_doubt_away_that_an_earlier_silence_left() -> None:
    failures: list[CommandFailed] = [Unreachable("broke off"), Refused("starting", status=503)]

    class InterruptedLater(Clock):
        def sleep(self, seconds: float) -> None:  # noqa: ARG002 - as it is called
            if not failures:
                raise KeyboardInterrupt

    def create(_key: str) -> "Batch":
        raise failures.pop(0)

    with pytest.raises(InDoubt):
        create_once(create, silent(), InterruptedLater())
