"""Where a model server's requests are answered: one Exchange each, from arrival to end.

Owns who is being answered and who waits for a slot, counts them, and writes every arrival and
every end to the log. Knows no sockets.
"""

import asyncio
import functools
import time
import zlib
from collections import Counter, deque
from typing import Literal

import msgspec

from tests.support import script
from tests.support.answers import Answer, Ask
from tests.support.eventlog import Event, EventLog
from tests.support.model_gate import Gate, refusal
from tests.support.model_protocol import Connection, Request
from tests.support.model_settings import Counts
from tests.support.nonce import RequestBody, nonce_of, read_body

ENDPOINTS = ("/chat/completions", "/completions", "/embeddings")


class Exchange(msgspec.Struct, kw_only=True, eq=False):
    """One request until it is answered or its client is gone."""

    connection: Connection
    path: str
    body: RequestBody
    nonce: str
    nth: int
    crc: int
    number: int
    step: str = "ok"
    holds_slot: bool = False
    timer: asyncio.TimerHandle | None = None


class ModelDesk:
    def __init__(self, gate: Gate, counts: Counts, log: EventLog) -> None:
        self.connections: set[Connection] = set()
        self._gate = gate
        self._counts = counts
        self._log = log
        self._seen: Counter[str] = Counter()
        self._open: dict[Connection, Exchange] = {}
        self._waiting: deque[Exchange] = deque()
        self._busy = 0

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        if self._gate.settings.on_connect == "reset":
            connection.reset()
        elif self._gate.settings.on_connect == "close":
            connection.close()

    def left(self, connection: Connection) -> None:
        self.connections.discard(connection)
        exchange = self._open.get(connection)
        if exchange is None:
            return
        if exchange.timer is not None:
            exchange.timer.cancel()
        if not exchange.holds_slot and exchange in self._waiting:
            self._waiting.remove(exchange)
        self._end(exchange, "abort", None)

    def arrived(self, connection: Connection, request: Request) -> None:
        path = request.path.partition("?")[0]
        if request.method == "POST" and path.endswith(ENDPOINTS):
            self._start(connection, path, request)
        else:
            connection.send(self._gate.side_page(path, request), lambda: None)

    # -- one exchange

    def _start(self, connection: Connection, path: str, request: Request) -> None:
        try:
            body = read_body(request.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            connection.send(refusal(400, "", "not_json"), lambda: None)
            return
        nonce = nonce_of(body)
        self._seen[nonce] += 1
        self._counts.arrived += 1
        self._counts.in_flight += 1
        self._counts.most_in_flight = max(self._counts.most_in_flight, self._counts.in_flight)
        exchange = self._open[connection] = Exchange(
            connection=connection,
            path=path,
            body=body,
            nonce=nonce,
            nth=self._seen[nonce],
            crc=zlib.crc32(request.body),
            number=self._counts.arrived,
        )
        self._note(exchange, "start", None)
        no = self._gate.refuse(request, nonce)
        if no is not None:
            exchange.step = "refused"
            self._reply(exchange, no)
        elif self._gate.settings.slots and self._busy >= self._gate.settings.slots:
            self._waiting.append(exchange)
        else:
            self._busy += 1
            exchange.holds_slot = True
            self._work(exchange)

    def _work(self, exchange: Exchange) -> None:
        if self._open.get(exchange.connection) is not exchange:
            return  # its client left just as it was given a slot
        answer = self._answer(exchange)
        delay = answer.delay + self._gate.delay()
        if delay > 0:
            loop = asyncio.get_running_loop()
            exchange.timer = loop.call_later(delay, self._reply, exchange, answer)
        else:
            self._reply(exchange, answer)

    def _answer(self, exchange: Exchange) -> Answer:
        behave = exchange.body.behave
        asked = behave if isinstance(behave, str) else self._gate.settings.behave
        ask = Ask(
            path=exchange.path,
            body=exchange.body,
            number=exchange.number,
            served=exchange.connection.served,
            size=self._gate.settings.answer_size,
        )
        try:
            exchange.step = script.step_at(asked, exchange.nth)
            return script.play(exchange.step, ask)
        except ValueError:
            # A status that no test asks for, so that a misspelt script is seen at once.
            return refusal(418, exchange.nonce, "no_such_step")

    def _reply(self, exchange: Exchange, answer: Answer) -> None:
        exchange.connection.send(answer, functools.partial(self._sent, exchange, answer))

    def _sent(self, exchange: Exchange, answer: Answer) -> None:
        connection, settings = exchange.connection, self._gate.settings
        self._end(exchange, "end", answer)
        if settings.requests_per_connection and (
            connection.served >= settings.requests_per_connection
        ):
            connection.close()
        elif settings.keep_alive:
            connection.close_when_idle_for(settings.keep_alive)

    def _end(
        self, exchange: Exchange, event: Literal["end", "abort"], answer: Answer | None
    ) -> None:
        del self._open[exchange.connection]
        self._counts.in_flight -= 1
        if answer is None:
            self._counts.aborted += 1
        else:
            self._counts.ended += 1
            statuses = self._counts.statuses
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
        self._note(exchange, event, answer)
        if exchange.holds_slot:
            self._pass_slot_on()

    def _pass_slot_on(self) -> None:
        if not self._waiting:
            self._busy -= 1
            return
        following = self._waiting.popleft()
        following.holds_slot = True
        # Later, so that a long queue of instant answers does not nest.
        asyncio.get_running_loop().call_soon(self._work, following)

    def _note(
        self, exchange: Exchange, event: Literal["start", "end", "abort"], answer: Answer | None
    ) -> None:
        self._log.add(
            Event(
                t=time.time(),
                event=event,
                nonce=exchange.nonce,
                nth=exchange.nth,
                in_flight=self._counts.in_flight,
                connection=exchange.connection.number,
                path=exchange.path,
                step=exchange.step,
                status=0 if answer is None else answer.status,
                usable=answer is not None and answer.usable,
                crc=exchange.crc,
            )
        )
