"""Sends the lines of running batches and sees each to its end: slot, attempt, outcome, decision.

Pull-based: a line is read when a slot is free for it, so memory holds the lines in flight and no
others. Three bounds apply: the backend's slots (free again as soon as the answer is read), twice
as many lines sent but not yet durable, and a byte budget for bodies and answers.

Cancelled half-way an attempt records nothing, so its line is sent again after a restart: at least
once to the backend, exactly once in the result files.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from batchd.bell import Bell
from batchd.disk import Disk
from batchd.engine.inputs import Inputs, Pick, Read
from batchd.engine.runs import CLOSING, Run, Runs
from batchd.engine.scheduler import Scheduler
from batchd.model import NO_USAGE, Failure, FailureKind, LineFile, Outcome, Reply, RequestLine
from batchd.retry import Park, Policy, Requeue, Settle, Standing, decide
from batchd.states import BatchStatus
from batchd.wire.lines import failure_line, file_of, reply_line
from batchd.writer import Writer

log = logging.getLogger(__name__)

_LOOK_AGAIN = 1.0

# Failures of a server that did answer, only not usefully.
_SIGNS_OF_LIFE = frozenset({FailureKind.NOT_HTTP, FailureKind.NOT_JSON, FailureKind.TOO_LARGE})
_BEHIND_OTHERS = 0.1


class Limits(Protocol):
    """When a request may go; all times are of the loop's clock."""

    max_in_flight: int
    in_flight: int

    @property
    def standing(self) -> Standing: ...
    def ready_at(self, now: float) -> float: ...
    def take(self, now: float) -> None: ...
    def give_back(self) -> None: ...
    def put_back(self) -> None: ...


class Transport(Protocol):
    """What the runner asks of a backend."""

    @property
    def limiter(self) -> Limits: ...
    @property
    def note(self) -> str | None: ...
    async def send(self, endpoint: str, line: RequestLine) -> Outcome: ...
    def answered(self, *, ok: bool) -> None: ...
    def park(self, park: Park) -> None: ...
    async def recheck(self) -> bool: ...


class Runner:
    """The dispatch loop and the attempts it starts."""

    def __init__(  # noqa: PLR0913, PLR0917 - its parts, its bounds, and chance from outside
        self,
        runs: Runs,
        backend: Transport,
        writer: Writer,
        disk: Disk,
        inputs: Inputs,
        policy: Policy,
        *,
        memory: int,
        drain: float,
        draw: Callable[[], float],
        drained: Callable[[], None],
    ) -> None:
        self._runs = runs
        self._backend = backend
        self._writer = writer
        self._disk = disk
        self._inputs = inputs
        self._policy = policy
        self._memory = memory
        self._drain = drain
        self._draw = draw
        self._drained = drained
        self._scheduler = Scheduler()
        self._wake = Bell()
        self._held = 0
        self._unsettled = 0

    def admit(self, run: Run) -> None:
        """Let a run take part, if it is to send lines."""
        if run.status is BatchStatus.IN_PROGRESS and not run.input_lost:
            self._scheduler.add(run)
            self._wake.ring()

    def dismiss(self, run: Run) -> None:
        """Start nothing more of a run; what is in flight goes on."""
        self._scheduler.remove(run)

    async def run(self, stop: asyncio.Event) -> None:
        """Dispatch until ``stop``; then let what is in flight finish, for ``drain`` seconds."""
        async with asyncio.TaskGroup() as attempts:
            waker = attempts.create_task(self._ring_at(stop), name="runner-stop")
            while not stop.is_set():
                now = asyncio.get_running_loop().time()
                picks = self._picks(now)
                if not picks:
                    if await self._backend.recheck():
                        self._hurry()
                        continue
                    await self._wake.wait(at_most=self._until_ready(now))
                    continue
                found = await self._disk.run(
                    self._inputs.read_picks, picks, self._memory - self._held, alone=self._held == 0
                )
                for read in found:
                    self._start(attempts, read)
                for pick in picks[len(found) :]:
                    self._put_back(pick)
                if not found:
                    await self._wake.wait(at_most=_LOOK_AGAIN)  # whoever makes room rings
            waker.cancel()
            await self._finish_attempts()

    async def _ring_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.ring()

    async def _finish_attempts(self) -> None:
        open_attempts = [task for run in self._runs for task in run.attempts]
        if open_attempts:
            _, late = await asyncio.wait(open_attempts, timeout=self._drain)
            for task in late:
                task.cancel()

    def _picks(self, now: float) -> list[Pick]:
        """A line for each free slot, as far as the bounds allow."""
        picks: list[Pick] = []
        while self._may_send(now):
            found = self._scheduler.next(now)
            if found is None:
                break
            run, index = found
            self._backend.limiter.take(now)
            self._unsettled += 1
            run.unsettled += 1
            picks.append(Pick(run, index))
        return picks

    def _may_send(self, now: float) -> bool:
        limiter = self._backend.limiter
        return (
            limiter.ready_at(now) <= now
            and self._unsettled < 2 * limiter.max_in_flight
            and self._held < self._memory
            and not self._writer.is_full
        )

    def _until_ready(self, now: float) -> float:
        """How long to wait when nothing could be sent at ``now``."""
        ready = max(self._backend.limiter.ready_at(now), self._scheduler.next_at())
        if ready <= now:
            return _LOOK_AGAIN  # one of our own bounds: whoever frees it rings
        return min(ready - now, _LOOK_AGAIN)

    def _hurry(self) -> None:
        """What lines waited for has gone: all may be sent now."""
        now = asyncio.get_running_loop().time()
        for run in self._runs:
            run.hurry(now)
            self._scheduler.line_waits(run)

    def _put_back(self, pick: Pick) -> None:
        """There was no room for a line after all. Rings no bell: nothing has become free."""
        self._backend.limiter.put_back()
        pick.run.put_back(pick.index)
        self._scheduler.line_is_back(pick.run)
        self._unsettled -= 1
        pick.run.unsettled -= 1
        self._tell_if_quiet(pick.run)

    def _start(self, attempts: asyncio.TaskGroup, read: Read) -> None:
        run, line = read.pick.run, read.line
        self._held += read.size
        if line is None:
            self._lose_input(run)
        if line is None or run.status is not BatchStatus.IN_PROGRESS:
            self._backend.limiter.give_back()
            self._let_go(run, read.size)
            return
        task = attempts.create_task(self._attempt(run, line, read.size), name=f"line-{line.index}")
        run.attempts.add(task)
        task.add_done_callback(lambda ended: self._attempt_ended(run, ended, read.size))

    def _attempt_ended(self, run: Run, attempt: asyncio.Task[None], size: int) -> None:
        """Free the slot. Not the attempt's own work: cancelled early, it never takes a step."""
        run.attempts.discard(attempt)
        self._backend.limiter.give_back()
        self._wake.ring()
        if attempt.cancelled() or attempt.exception() is not None:
            self._let_go(run, size)
        self._tell_if_quiet(run)

    async def _attempt(self, run: Run, line: RequestLine, size: int) -> None:
        """Send one line once, and hand it to whoever is next."""
        outcome = await self._backend.send(run.endpoint, line)
        state = run.state(line.index)
        decision = decide(
            outcome, state, self._backend.limiter.standing, self._policy, jitter=self._draw()
        )
        match decision:
            case Settle():
                self._heard(outcome)
                self._settle(run, line, outcome, size)
            case Requeue():
                self._heard(outcome)
                self._requeue(run, line.index, decision, size)
            case Park():
                self._park(decision)
                # Another line goes first if there is one: this one alone may be why.
                self._requeue(run, line.index, decision, size, behind=_BEHIND_OTHERS)

    def _heard(self, outcome: Outcome) -> None:
        if isinstance(outcome, Reply):
            self._backend.answered(ok=outcome.ok)
        elif outcome.kind in _SIGNS_OF_LIFE:
            self._backend.answered(ok=False)
        if self._runs.backend_note is not None:
            self._runs.backend_note = self._backend.note

    def _park(self, park: Park) -> None:
        self._backend.park(park)
        self._runs.backend_note = self._backend.note

    def _requeue(
        self, run: Run, index: int, decision: Requeue | Park, size: int, *, behind: float = 0
    ) -> None:
        due = asyncio.get_running_loop().time() + decision.delay + behind
        run.wait_until(index, due, decision.state)
        self._scheduler.line_waits(run)
        self._let_go(run, size)

    def _settle(self, run: Run, line: RequestLine, outcome: Outcome, size: int) -> None:
        """Write the outcome down; the line is done when that is durable."""
        run.settled(line.index)
        if isinstance(outcome, Reply):
            which, usage = file_of(outcome), outcome.usage if outcome.ok else NO_USAGE
            text = reply_line(run.tag, line, outcome)
        else:
            which, usage = LineFile.ERROR, NO_USAGE
            text = failure_line(run.tag, line, outcome)
            log_failure(run, line, outcome)
        held = size + len(text)
        self._held += len(text)

        def durable() -> None:
            self._let_go(run, held)
            if run.is_drained:
                self._scheduler.remove(run)
                self._drained()

        run.ledger.append(which, line.index, text, usage, durable)

    def _let_go(self, run: Run, size: int) -> None:
        self._held -= size
        self._unsettled -= 1
        run.unsettled -= 1
        self._wake.ring()
        self._tell_if_quiet(run)

    def _tell_if_quiet(self, run: Run) -> None:
        if run.is_quiet and (run.status in CLOSING or run.input_lost):
            self._drained()

    def _lose_input(self, run: Run) -> None:
        if not run.input_lost:
            log.error("input_lost", extra={"batch": run.id, "reason": "a line cannot be read"})
            run.input_lost = True
            self._scheduler.remove(run)
            self._drained()


def log_failure(run: Run, line: RequestLine, failure: Failure) -> None:
    log.debug(
        "line_failed", extra={"batch": run.id, "line": line.index, "kind": failure.kind.value}
    )
