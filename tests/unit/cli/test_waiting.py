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


@pytest.mark.parametrize("status", [502, 504])
def test_an_answer_of_a_proxy_leaves_a_doubt_whatever_comes_then(status: int) -> None:
    def create(_key: str) -> "Batch":
        raise Refused("Bad Gateway", status=status)

    for clock in (Clock(), Interrupted()):
        with pytest.raises(InDoubt) as caught:
            create_once(create, silent(), clock)
        assert str(caught.value).endswith(UNKNOWN)


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
@pytest.mark.parametrize(
    "first", [Unreachable("broke off"), Refused("Bad Gateway", status=502)], ids=["silence", "502"]
)
def test_a_no_in_the_end_takes_no_doubt_away(first: CommandFailed, status: int) -> None:
    failures = [first]

    def create(_key: str) -> "Batch":
        raise failures.pop() if failures else Refused("no", status=status)

    with pytest.raises(InDoubt, match="no"):
        create_once(create, silent(), Clock())


def test_an_answer_that_is_no_batch_leaves_a_doubt() -> None:
    def create(_key: str) -> "Batch":
        raise CommandFailed("it answered, but not with a batch: is it batchd?")

    with pytest.raises(InDoubt, match="not with a batch"):
        create_once(create, silent(), Clock())


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_a_no_from_the_first_to_the_last_is_a_no(status: int) -> None:
    def create(_key: str) -> "Batch":
        raise Refused("no", status=status)

    with pytest.raises(Refused):
        create_once(create, silent(), Clock())
