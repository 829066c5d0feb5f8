"""How a client uses its batch: by which door it comes, how it is steered, how often it is retried.

    list    created without a key; what a crash left unknown is asked for with a list
    key     created with an idempotency key, by two at once now and then, and again in every life
    repeat  created without a key, and again as SDKs do that got no answer
    drop    a file dropped into the inbox

A batch that is paused and ends neither by its window nor by a cancel is resumed some time.
"""

import random
from enum import StrEnum
from typing import Protocol

import msgspec

from batchd.model import LOCAL_OWNER
from tests.simulation.troubles import DAY


class Door(StrEnum):
    """How it is made."""

    LIST = "list"
    KEY = "key"
    REPEAT = "repeat"
    DROP = "drop"


class Verb(StrEnum):
    """What is asked of a batch that is on its way."""

    PAUSE = "pause"
    RESUME = "resume"
    PRIORITY = "priority"


class Step(msgspec.Struct, frozen=True):
    """One request, at some time at the earliest."""

    at: float
    verb: Verb
    priority: int = 0


class Use(msgspec.Struct, frozen=True, kw_only=True):
    door: Door = Door.LIST
    is_asked_twice: bool = False  # with a key: by two at the same time
    steps: tuple[Step, ...] = ()
    retries: int = 0  # of what came to nothing, one after the other


PLAIN = Use()
_STEERED = 0.4  # of all batches


class Planned(Protocol):
    """What is planned of a batch already."""

    @property
    def owner(self) -> str: ...
    @property
    def create_at(self) -> float: ...
    @property
    def window(self) -> int: ...
    @property
    def cancel_at(self) -> float | None: ...


def drawn_use(chance: random.Random, batch: Planned, *, is_steady: bool) -> Use:
    """``is_steady``: the clock is. If it jumps, none knows when a window ends or a day is over."""
    has_short_window = batch.window < DAY
    is_cancelled = batch.cancel_at is not None
    ends_paused = is_cancelled or (is_steady and has_short_window)
    retried = 0.7 if is_cancelled or has_short_window else 0.25
    return Use(
        door=chance.choice(_doors(batch, is_steady=is_steady)),
        is_asked_twice=chance.random() < 0.3,
        steps=_steps(chance, batch.create_at, ends_paused=ends_paused),
        retries=chance.choice([1, 1, 2]) if chance.random() < retried else 0,
    )


def _doors(batch: Planned, *, is_steady: bool) -> list[Door]:
    """By which it may come, the more usual ones more often."""
    doors = [Door.LIST, Door.LIST, Door.KEY]
    doors += [Door.REPEAT] if is_steady else []
    return doors + ([Door.DROP] if batch.owner == LOCAL_OWNER else [])


def _steps(chance: random.Random, start: float, *, ends_paused: bool) -> tuple[Step, ...]:
    if chance.random() > _STEERED:
        return ()
    at = start + chance.uniform(0, 1.2)
    steps: list[Step] = []
    for _ in range(chance.choice([1, 1, 2])):
        if chance.random() < 0.4:
            steps.append(Step(at, Verb.PRIORITY, chance.randint(-10, 10)))
        steps.append(Step(at, Verb.PAUSE))
        if chance.random() < 0.2:
            steps.append(Step(at + 0.1, Verb.PAUSE))
        at += chance.uniform(0.1, 2)
        steps.append(Step(at, Verb.RESUME))
        at += chance.uniform(0.1, 1)
    if ends_paused and chance.random() < 0.7:
        steps.pop()
    return tuple(steps)
