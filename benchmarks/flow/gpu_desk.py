"""Where a virtual GPU server's requests are answered, from arrival to end.

Owns who is being answered, and the timers; the slots, the rates and the draws are told what happens
and decide. Every arrival and every end goes to the record. Knows no sockets.
"""

import asyncio
import functools
import os
import time
from typing import Literal, cast

import msgspec

from benchmarks.flow.draws import draw
from benchmarks.flow.gpu_gate import GpuGate, Refusal
from benchmarks.flow.gpu_settings import GpuCounts, GpuSettings
from benchmarks.flow.record import Recorder, Row
from benchmarks.flow.slots import Slots, Work
from tests.support import answers
from tests.support.answers import Answer
from tests.support.model_desk import ENDPOINTS
from tests.support.model_protocol import Connection, Request
from tests.support.nonce import RequestBody, nonce_of, read_body

_CHARACTERS_A_TOKEN = 4
_OK, _TOO_MANY = 200, 429
_RATES = ("requests_per_window", "tokens_per_window", "window", "rate_kind", "refused_share")

_encode = msgspec.json.Encoder().encode


class Visit(msgspec.Struct, kw_only=True, eq=False):
    """One request until it is answered or its client is gone."""

    connection: Connection
    path: str
    body: RequestBody
    nonce: str
    number: int
    prompt_tokens: int
    completion_tokens: int
    work: Work
    timer: asyncio.TimerHandle | None = None


class GpuDesk:
    def __init__(self, settings: GpuSettings, recorder: Recorder) -> None:
        self.connections: set[Connection] = set()
        self.settings = settings
        self.counts = GpuCounts()
        self.left_alone = asyncio.Event()  # draining, and the last client has gone
        self._draining = False
        self._recorder = recorder
        self._life = os.getpid()
        self._gate = GpuGate(settings)
        self._slots = _slots(settings)
        self._visits: dict[Connection, Visit] = {}
        self._of_work: dict[Work, Visit] = {}

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        visit = self._visits.pop(connection, None)
        if visit is not None:
            self.counts.aborted += 1
            self._note(visit, "aborted")
            if visit.timer is not None:
                visit.timer.cancel()
            self._leave(visit, time.monotonic())
        if self._draining and not self.connections:
            self.left_alone.set()

    def arrived(self, connection: Connection, request: Request) -> None:
        path = request.path.partition("?")[0]
        if request.method == "POST" and path.endswith(ENDPOINTS):
            self._receive(connection, path, request)
        else:
            connection.send(self._side_page(path, request), lambda: None)

    def set(self, **changes: object) -> None:
        """Change settings while running. The cache stays as it was when the server started."""
        known = msgspec.structs.asdict(self.settings) | changes
        self.settings = msgspec.convert(known, GpuSettings)
        if any(name in changes for name in _RATES):
            self._gate = GpuGate(self.settings)
        self._begin(self._slots.resize(self.settings.slots, time.monotonic()))

    def drain(self) -> None:
        """As llama.cpp ends: what is open gets no further byte, and waits for its client to go."""
        self._draining = True
        for connection in self.connections - self._visits.keys():
            connection.close()
        if not self.connections:
            self.left_alone.set()

    # -- one visit

    def _receive(self, connection: Connection, path: str, request: Request) -> None:
        now = time.monotonic()
        body = read_body(request.body)
        nonce = nonce_of(body)
        drawn = draw(self.settings, nonce)
        self.counts.arrived += 1
        visit = Visit(
            connection=connection,
            path=path,
            body=body,
            nonce=nonce,
            number=self.counts.arrived,
            prompt_tokens=len(request.body) // _CHARACTERS_A_TOKEN,
            completion_tokens=drawn.completion_tokens,
            work=Work(arrived=now, service=drawn.service, prefix=_prefix(body)),
        )
        self._note(visit, "arrived")
        tokens = visit.prompt_tokens + visit.completion_tokens
        refusal = self._gate.admit(tokens, now, time.time())
        if refusal is not None:
            self._refuse(visit, refusal)
            return
        self._visits[connection] = self._of_work[visit.work] = visit
        self._begin(self._slots.arrive(visit.work))
        self.counts.most_in_flight = max(
            self.counts.most_in_flight, self._slots.serving + self._slots.waiting
        )

    def _begin(self, started: list[Work]) -> None:
        loop = asyncio.get_running_loop()
        for work in started:
            visit = self._of_work[work]
            if work.hit is not None:
                self.counts.cache_hits += work.hit
                self.counts.cache_misses += not work.hit
            wait = max(0.0, work.due - time.monotonic())
            visit.timer = loop.call_later(wait, self._answer, visit)

    def _answer(self, visit: Visit) -> None:
        if self._draining:
            return
        del self._visits[visit.connection]
        visit.connection.send(self._good(visit), functools.partial(self._answered, visit))
        self._leave(visit, visit.work.due)

    def _answered(self, visit: Visit) -> None:
        self.counts.answered += 1
        self._note(visit, "ended", status=_OK)

    def _leave(self, visit: Visit, at: float) -> None:
        del self._of_work[visit.work]
        self._begin(self._slots.leave(visit.work, at))

    def _refuse(self, visit: Visit, refusal: Refusal) -> None:
        headers = refusal.headers | self._gate.headers(visit.work.arrived)
        wire = answers.error(_TOO_MANY, visit.nonce, code="rate_limit_exceeded", headers=headers)
        self.counts.refused += 1
        visit.connection.send(
            Answer(status=_TOO_MANY, wire=wire),
            lambda: self._note(visit, "ended", status=_TOO_MANY, told=refusal.told),
        )

    def _good(self, visit: Visit) -> Answer:
        said = answers.good(visit.path, visit.body, number=visit.number)
        said["usage"] = {
            "prompt_tokens": visit.prompt_tokens,
            "completion_tokens": visit.completion_tokens,
            "total_tokens": visit.prompt_tokens + visit.completion_tokens,
        }
        headers = self._gate.headers(time.monotonic())
        return Answer(status=_OK, wire=answers.http(_OK, _encode(said), headers=headers))

    def _note(
        self,
        visit: Visit,
        what: Literal["arrived", "ended", "aborted"],
        *,
        status: int = 0,
        told: float = 0,
    ) -> None:
        self._recorder.add(
            Row(
                life=self._life,
                number=visit.number,
                what=what,
                at=visit.work.arrived if what == "arrived" else time.monotonic(),
                nonce=visit.nonce,
                status=status,
                started=visit.work.started,
                tokens=visit.prompt_tokens + visit.completion_tokens,
                told=told,
            )
        )

    # -- everything that is not a line

    def _side_page(self, path: str, request: Request) -> Answer:
        self.counts.serving, self.counts.waiting = self._slots.serving, self._slots.waiting
        if path == "/_counts":
            return _page(_encode(self.counts))
        if path == "/_settings":
            if request.body:
                self.set(**msgspec.json.decode(request.body, type=dict[str, object]))
            return _page(_encode(self.settings))
        if path == "/metrics":
            return _page(_metrics(self.counts, self.settings.models[0]), kind="text/plain")
        if path == "/health":
            return _page(b'{"status":"ok"}')
        if path.endswith("/models"):
            return Answer(status=_OK, wire=answers.models(self.settings.models))
        return Answer(status=404, wire=answers.error(404, "", code="unknown_url"))


def _slots(settings: GpuSettings) -> Slots:
    return Slots(
        settings.slots,
        cache=settings.cache,
        cached_prefixes=settings.cached_prefixes,
        prefill=settings.prefill,
    )


def _prefix(body: RequestBody) -> int | None:
    """The first of several messages stands for the prompt's shared beginning."""
    messages = cast("list[object]", body.messages) if isinstance(body.messages, list) else []
    return hash(_encode(messages[0])) if len(messages) > 1 else None


def _metrics(counts: GpuCounts, model: str) -> bytes:
    """The load as vLLM says it and as llama.cpp says it."""
    vllm = f'{{model_name="{model}"}}'
    values = (
        ("vllm:num_requests_running", vllm, counts.serving),
        ("vllm:num_requests_waiting", vllm, counts.waiting),
        ("llamacpp:requests_processing", "", counts.serving),
        ("llamacpp:requests_deferred", "", counts.waiting),
    )
    return "".join(
        f"# TYPE {name} gauge\n{name}{labels} {value}\n" for name, labels, value in values
    ).encode()


def _page(body: bytes, kind: str = "application/json") -> Answer:
    return Answer(status=_OK, wire=answers.http(_OK, body, kind=kind))
