"""The model server of a history: it answers by chance, and remembers the truth about what was sent.

``Answers`` outlives every crash of batchd; ``SimBackend`` is the door to it of one life, with
batchd's own ``Limiter``.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from batchd.backends.limits import Limiter
from batchd.model import Failure, FailureKind, Outcome, Reply, RequestLine
from batchd.retry import Park
from batchd.wire.lines import answer_usage
from tests.simulation.loop import hop
from tests.simulation.plan import PRIVATE, Fault, Plan

_FAULTS = (
    Failure(FailureKind.TIMEOUT),
    Failure(FailureKind.RESET),
    Failure(FailureKind.NOT_JSON),
    Failure(FailureKind.TOO_LARGE),
    500,
    503,
    408,
    409,
)
# An answer after which a line is done, whatever else is going on.
_FINAL = frozenset({200, 400})
_FAULT_STATUSES = frozenset({408, 409, 500, 503})

_USAGE = (
    ',"usage":{"prompt_tokens":%d,"completion_tokens":%d,'
    '"prompt_tokens_details":{"cached_tokens":1}}'
)


class Line:
    """The truth about one line of one batch, over all lives."""

    __slots__ = (
        "batch",
        "custom_id",
        "failures",
        "faults",
        "is_open",
        "replies",
        "request",
        "sendings",
        "settled",
    )

    def __init__(self, batch: int, request: RequestLine) -> None:
        self.batch = batch
        self.request = request
        self.custom_id = request.custom_id
        self.sendings = 0
        self.replies: set[tuple[int, bytes]] = set()
        self.failures: set[FailureKind] = set()
        self.forget_life()

    def forget_life(self) -> None:
        """Of the life that runs: sent and perhaps not durable; finally answered; faults."""
        self.is_open = False
        self.settled = False
        self.faults = 0


class Trouble(Protocol):
    """What is wrong right now."""

    @property
    def is_calm(self) -> bool: ...
    def is_on(self, fault: Fault) -> bool: ...


class Witness(Protocol):
    """Who is told of everything that is sent."""

    def sending(self, line: Line, body: bytes) -> None: ...
    def broken_off(self, line: Line) -> None: ...
    def answered(self, line: Line, outcome: Outcome) -> None: ...


class Answers:
    """What is answered to whom. All of its chance is one stream."""

    def __init__(
        self, plan: Plan, lines: Mapping[str, Line], trouble: Trouble, witness: Witness
    ) -> None:
        self.lines = lines
        self.in_flight = 0
        self.most_in_flight = 0
        self.tally: Counter[str] = Counter()
        self._weather = plan.weather
        self._trouble = trouble
        self._witness = witness
        self._chance = random.Random(f"answers {plan.seed}")  # noqa: S311 - a simulation

    async def send(self, request: RequestLine) -> Outcome:
        line = self.lines[request.custom_id]
        line.sendings += 1
        self._witness.sending(line, request.body)
        line.is_open = True
        line.settled = False
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await hop(self._chance.uniform(0.01, self._weather.slowest))
        except asyncio.CancelledError:
            self._witness.broken_off(line)
            raise
        finally:
            self.in_flight -= 1
        outcome = self._outcome(line)
        kind = outcome.status_code if isinstance(outcome, Reply) else outcome.kind
        self.tally[f"answered {kind}"] += 1
        _note_on(line, outcome)
        self._witness.answered(line, outcome)
        return outcome

    def _outcome(self, line: Line) -> Outcome:
        if self._trouble.is_calm:
            return self._good(line)
        if (refusal := self._refusal(line)) is not None:
            return refusal
        draw = self._chance.random()
        weather = self._weather
        if draw < weather.faults:
            fault = self._chance.choice(_FAULTS)
            return self._reply(line, fault) if isinstance(fault, int) else fault
        draw -= weather.faults
        if draw < weather.throttled:
            return self._reply(line, 429, hint=self._chance.choice([None, 0.0, 0.2]))
        draw -= weather.throttled
        return self._reply(line, 400) if draw < weather.refused else self._good(line)

    def _refusal(self, line: Line) -> Outcome | None:
        if self._trouble.is_on(Fault.UNREACHABLE):
            return Failure(FailureKind.UNREACHABLE)
        for fault, status, code in (
            (Fault.REFUSED_KEY, 401, None),
            (Fault.REFUSED_ACCESS, 403, None),
            (Fault.QUOTA, 429, "insufficient_quota"),
        ):
            if self._trouble.is_on(fault):
                return self._reply(line, status, code=code)
        return None

    def _good(self, line: Line) -> Reply:
        tokens = self._chance.randint(1, 9)
        usage = self._chance.choice(
            [
                "",
                ',"usage":null',
                _USAGE % (tokens, tokens + 1),
                f',"usage":{{"input_tokens":{tokens},"output_tokens":2,"total_tokens":7}}',
            ]
        )
        padding = "y" * self._chance.choice([0, 0, 0, 20, 600])
        text = f"{PRIVATE} answers {line.custom_id} {line.sendings} {padding}"
        return _reply(200, f'{{"content":"{text}"{usage}}}')

    def _reply(
        self, line: Line, status: int, *, hint: float | None = None, code: str | None = None
    ) -> Reply:
        text = f"{PRIVATE} refuses {line.custom_id} {line.sendings}"
        return _reply(status, f'{{"error":{{"message":"{text}"}}}}', hint=hint, code=code)


def _note_on(line: Line, outcome: Outcome) -> None:
    if isinstance(outcome, Reply):
        line.replies.add((outcome.status_code, outcome.body))
        line.settled = outcome.status_code in _FINAL
        line.faults += outcome.status_code in _FAULT_STATUSES
    else:
        line.failures.add(outcome.kind)
        line.faults += outcome.kind is not FailureKind.UNREACHABLE
    line.is_open = line.settled


def _reply(status: int, body: str, *, hint: float | None = None, code: str | None = None) -> Reply:
    data = body.encode()
    return Reply(
        status_code=status,
        request_id=f"req_{status}",
        body=data,
        usage=answer_usage(data),
        error_code=code,
        hint=hint,
    )


class SimBackend:
    """What the runner asks, as ``backends.backend.Backend`` does it."""

    def __init__(self, answers: Answers, plan: Plan, trouble: Trouble) -> None:
        self.limiter = Limiter(
            max_in_flight=plan.slots, requests_per_minute=plan.requests_per_minute
        )
        self._answers = answers
        self._trouble = trouble
        self._note: str | None = None

    @property
    def note(self) -> str | None:
        return self._note

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        assert endpoint == "/v1/chat/completions"
        return await self._answers.send(line)

    def answered(self, *, ok: bool) -> None:
        if not self.limiter.is_parked(_time()):
            self._note = None
        self.limiter.answered(ok=ok)

    def park(self, park: Park) -> None:
        self._answers.tally[f"park {park.reason}"] += 1
        if self.limiter.park(park, _time()):
            self._note = f"waiting: {park.reason}"

    async def recheck(self) -> bool:
        """Whether there is another key now."""
        if self.limiter.park_reason != "refused_401" or not self.limiter.is_parked(_time()):
            return False
        await hop(0.01)
        if self._trouble.is_on(Fault.REFUSED_KEY):
            return False
        self.limiter.unpark()
        return True


def _time() -> float:
    return asyncio.get_running_loop().time()
