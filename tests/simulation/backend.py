"""The model servers of a history: they answer by chance, and know the truth about what was sent.

``Answers`` outlives every crash of batchd; ``SimCaller`` is the door to one server of one life.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

import msgspec

from batchd.backends.models import ListedModel
from batchd.model import Failure, FailureKind, Outcome, Quota, Reply, RequestLine, Window
from batchd.wire.usage import answer_usage
from tests.simulation.lines import Line
from tests.simulation.loop import hop
from tests.simulation.plan import PRIVATE, Plan
from tests.simulation.servers import Server
from tests.simulation.troubles import Fault, Period

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
_SLOW = 5.0
_LOOK = 3.0  # seconds until whoever looks at a server that hangs gives up

_USAGE = (
    ',"usage":{"prompt_tokens":%d,"completion_tokens":%d,'
    '"prompt_tokens_details":{"cached_tokens":1}}'
)
_LIMIT = 6000.0  # a minute, as servers tell it that tell any
_OTHERS = 5400.0  # of it, by others


class Trouble(Protocol):
    """What is wrong right now."""

    @property
    def is_calm(self) -> bool: ...
    @property
    def elapsed(self) -> float: ...
    def is_on(self, fault: Fault, server: str | None = None) -> bool: ...
    def period(self, fault: Fault, server: str | None = None) -> Period | None: ...
    def planned(self, fault: Fault, server: str | None = None) -> Period | None: ...


class Witness(Protocol):
    """Who is told of everything that is sent, and of what servers ask for."""

    def sending(self, server: Server, line: Line, body: bytes) -> None: ...
    def broken_off(self, server: Server, line: Line) -> None: ...
    def answered(self, server: Server, line: Line, outcome: Outcome) -> None: ...
    def hung(self, server: Server, line: Line, seconds: float) -> None: ...


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

    async def send(self, server: Server, request: RequestLine) -> Outcome:
        line = self.lines[request.custom_id]
        line.sendings += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        began = _time()
        try:
            self._witness.sending(server, line, request.body)
            line.is_open = True
            line.settled = False
            outcome = await self._served(server, line)
        except asyncio.CancelledError:
            self._witness.broken_off(server, line)
            raise
        finally:
            self.in_flight -= 1
            server.in_flight[request.model] -= 1
        kind = outcome.status_code if isinstance(outcome, Reply) else outcome.kind
        self.tally[f"answered {kind}"] += 1
        line.came_to(outcome, _time())
        if isinstance(outcome, Reply):
            server.has_answered = True
            server.longest = max(server.longest, _time() - began)
        self._witness.answered(server, line, outcome)
        return outcome

    # -- whether it answers

    async def _served(self, server: Server, line: Line) -> Outcome:
        trouble, began = self._trouble, self._trouble.elapsed
        if self._is_away(server):
            await hop(self._chance.uniform(0.001, 0.01))
            return Failure(FailureKind.UNREACHABLE)
        had_answered = server.has_answered
        took = self._chance.uniform(0.01, self._weather.slowest)
        await hop(took * (_SLOW if trouble.is_on(Fault.SLOW, server.name) else 1))
        if (hang := trouble.period(Fault.HANG, server.name)) is not None:
            await self._wait_out(server, line, hang, max(began, hang.start), had_answered)
        if (drain := self._begun(Fault.DRAIN, server, began)) is not None:
            await self._wait_out(server, line, drain, drain.start, had_answered)
            return Failure(FailureKind.RESET)
        if self._begun(Fault.UNREACHABLE, server, began) is not None:
            return Failure(FailureKind.RESET)
        outcome = self._outcome(server, line)
        return self._with_limits(server, outcome) if isinstance(outcome, Reply) else outcome

    def _is_away(self, server: Server) -> bool:
        faults = (Fault.UNREACHABLE, Fault.DRAIN)
        return any(self._trouble.is_on(fault, server.name) for fault in faults)

    def _begun(self, fault: Fault, server: Server, since: float) -> Period | None:
        """Such a time, if it has begun since a request came."""
        period = self._trouble.planned(fault, server.name)
        if period is None or not since < period.start <= self._trouble.elapsed:
            return None
        return period

    async def _wait_out(
        self, server: Server, line: Line, period: Period, since: float, had_answered: bool
    ) -> None:
        """Say nothing until it is over. batchd must notice if the server ever answered before."""
        await hop(max(period.end - self._trouble.elapsed, 0.0) + self._chance.uniform(0.001, 0.1))
        if had_answered:
            self._witness.hung(server, line, self._trouble.elapsed - since)

    # -- what it answers

    def _outcome(self, server: Server, line: Line) -> Outcome:
        if line.request.model not in server.lists:
            return self._reply(line, 404)
        if self._trouble.is_calm:
            return self._good(line)
        if (refusal := self._refusal(server, line)) is not None:
            return refusal
        return self._by_weather(line)

    def _by_weather(self, line: Line) -> Outcome:
        draw = self._chance.random()
        weather = self._weather
        if line.custom_id == weather.always_throttled:
            return self._reply(line, 429, hint=0.5)
        if draw < weather.faults:
            fault = self._chance.choice(_FAULTS)
            if not isinstance(fault, int):
                return fault
            return self._reply(line, fault, hint=self._chance.choice([None, None, None, 0.4]))
        draw -= weather.faults
        if draw < weather.throttled:
            return self._reply(line, 429, hint=self._chance.choice([None, 0.0, 0.2, 0.8]))
        draw -= weather.throttled
        return self._reply(line, 400) if draw < weather.refused else self._good(line)

    def _refusal(self, server: Server, line: Line) -> Outcome | None:
        for fault, status, code in (
            (Fault.REFUSED_KEY, 401, None),
            (Fault.REFUSED_ACCESS, 403, None),
            (Fault.QUOTA, 429, "insufficient_quota"),
        ):
            if self._trouble.is_on(fault, server.name):
                return self._reply(line, status, code=code)
        if self._trouble.is_on(Fault.THROTTLED, server.name):
            return self._reply(line, 429, hint=self._chance.uniform(0.1, 1.0))
        return None

    def _with_limits(self, server: Server, reply: Reply) -> Reply:
        """With what its headers tell of its limits."""
        used = server.used(_time())
        match server.plan.tells:
            case "plenty":
                window = Window(_LIMIT, _LIMIT - used, 0.01 * used)
            case "little":
                window = Window(_LIMIT, _LIMIT - _OTHERS - used, 60.0)
            case "closing" if self._chance.random() < 0.1:
                window = Window(None, 0.0, self._chance.uniform(0.1, 0.6))
            case _:
                return reply
        self.tally[f"limits told: {server.plan.tells}"] += 1
        quota = Quota(requests=window, tokens=Window(None, 5.0, None))
        return msgspec.structs.replace(reply, quota=quota)

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


def _time() -> float:
    return asyncio.get_running_loop().time()


class SimCaller:
    """The door to a model server, as one configuration of one life opened it."""

    def __init__(self, answers: Answers, server: Server, trouble: Trouble) -> None:
        self.in_flight = 0
        self.is_closed = False
        self._answers = answers
        self._server = server
        self._trouble = trouble

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        assert endpoint == "/v1/chat/completions"
        assert not self.is_closed
        self.in_flight += 1
        try:
            return await self._answers.send(self._server, line)
        finally:
            self.in_flight -= 1

    async def models(self) -> list[ListedModel] | None:
        if not await self.is_alive():
            self._server.hid_its_models = True
            return None
        return [ListedModel(model) for model in self._server.lists]

    async def is_alive(self) -> bool:
        """Whether it says anything, and is no server that is about to leave."""
        trouble, name = self._trouble, self._server.name
        await hop(_LOOK if trouble.is_on(Fault.HANG, name) else 0.01)
        faults = (Fault.HANG, Fault.UNREACHABLE, Fault.DRAIN)
        return not any(trouble.is_on(fault, name) for fault in faults)

    async def reload_key(self) -> bool:
        """Whether there is another key now."""
        await hop(0.01)
        return not self._trouble.is_on(Fault.REFUSED_KEY, self._server.name)

    async def fetch(self, url: str) -> tuple[str, bytes] | None:
        """Its metrics, as vLLM has them. Guests take turns at being served and waiting."""
        if not await self.is_alive():
            self._server.hid_its_models = True  # and its load
            return None
        if not url.endswith("/metrics"):
            return "", b""
        self._answers.tally["looks at the load"] += 1
        guests = self._trouble.period(Fault.GUESTS, self._server.name)
        running = self._server.total + (int(guests.amount) if guests else 0)
        text = f"vllm:num_requests_running {running}\nvllm:num_requests_waiting 0\n"
        return "text/plain", text.encode()
