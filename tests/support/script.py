"""What becomes of a line each time it is sent: the text under ``behave`` in its body.

One step for each sending, the last step for ever after:

    STEP|STEP|…        in this order
    STEP-then-200      STEP once, then a good answer
    STEP-forever       STEP each time (the same as STEP)
    STEP:3             STEP three times, then a good answer (a step that takes no argument)
    STEP:ARGUMENT      a step that takes one: ``slow:0.5``, ``huge:1000000``, ``redirect:URL``
    HINT:ARGUMENT      ``retry-after:2``: a 429 with this hint once, then a good answer

A step is a status (``429``, ``201``), a ``text-STATUS``, or a name in ``bad_server.STEPS``.
"""

import functools

import msgspec

from tests.support import bad_server
from tests.support.answers import Answer, Ask

HINTS = frozenset({"retry-after", "retry-after-ms", "reset-requests", "reset-tokens"})
WITH_ARGUMENT = HINTS | {"slow", "drip", "error-string", "redirect", "huge", "gzip-bomb"}


@functools.lru_cache(maxsize=4096)
def script(behave: str) -> tuple[str, ...]:
    """The steps of a script; ValueError for a step that does not exist."""
    steps: list[str] = []
    heals = False
    for part in behave.split("|"):
        more, heals = _expand(part)
        steps.extend(more)
    return (*steps, "ok") if heals else tuple(steps)


def step_at(behave: str, nth: int) -> str:
    """The step for the ``nth`` sending, counted from 1."""
    steps = script(behave)
    return steps[min(nth, len(steps)) - 1]


def play(step: str, ask: Ask) -> Answer:
    name, _, arg = step.partition(":")
    return _lookup(name)(msgspec.structs.replace(ask, arg=arg) if arg else ask)


def _expand(part: str) -> tuple[list[str], bool]:
    """The steps of one part, and whether a good answer follows when it is the last."""
    step = part.removesuffix("-forever").removesuffix("-then-200")
    name, colon, arg = step.partition(":")
    _lookup(name)
    if colon and name not in WITH_ARGUMENT:
        return [name] * int(arg), True
    return [step], name in HINTS or part.endswith("-then-200")


def _lookup(name: str) -> bad_server.Step:
    if name.isdigit():
        return functools.partial(bad_server.plain, int(name))
    if name.startswith("text-"):
        return functools.partial(bad_server.refuse_in_text, int(name.removeprefix("text-")))
    if name not in bad_server.STEPS:
        raise ValueError(f"No such step: {name!r}.")
    return bad_server.STEPS[name]
