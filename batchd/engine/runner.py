"""Sends the lines of running batches and sees each to its end: slot, attempt, outcome, decision.

Pull-based: a line is read when a slot is free for it, so memory holds the lines in flight and no
others. Three bounds apply: the backends' slots (free again as soon as the answer is read), twice
as many lines sent but not yet durable, and a byte budget for bodies and answers (``memory``).

Cancelled half-way an attempt records nothing, so its line is sent again after a restart: at least
once to a backend, exactly once in the result files.
"""

import asyncio
import logging
from collections.abc import Callable

from batchd.attempts import Attempt
from batchd.bell import Bell
from batchd.disk import Disk
from batchd.engine.inputs import Inputs, Pick, Read
from batchd.engine.reading import fill, give_up_orders
from batchd.engine.runs import CLOSING, Run, Runs
from batchd.engine.scheduler import Scheduler
from batchd.memory import Memory
from batchd.model import NO_USAGE, Failure, LineFile, Outcome, Reply, RequestLine
from batchd.retry import RATE_LIMITED, Park, Policy, Requeue, Settle, decide, is_fault
from batchd.states import BatchStatus
from batchd.wire.lines import failure_line, file_of, reply_line
from batchd.writer import Writer

log = logging.getLogger(__name__)

_LOOK_AGAIN, _BEHIND_OTHERS = 1.0, 0.1


class Runner:
    """The dispatch loop and the attempts it starts."""

    def __init__(  # noqa: PLR0913, PLR0917 - its parts, its bounds, and chance from outside
        self,
        runs: Runs,
        scheduler: Scheduler,
        writer: Writer,
        disk: Disk,
        inputs: Inputs,
        policy: Policy,
        *,
        memory: Memory,
        drain: float,
        draw: Callable[[], float],
        drained: Callable[[], None],
    ) -> None:
        self._runs = runs
        self._scheduler = scheduler
        self._writer = writer
        self._disk = disk
        self._inputs = inputs
        self._policy = policy
        self._memory = memory
        self._drain = drain
        self._draw = draw
        self._drained = drained
        self._wake = Bell()

    def ring(self) -> None:
        """Something may go that could not."""
        self._wake.ring()

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
                if not await self._dispatch(attempts):
                    await self._wake.wait(at_most=self._until_ready())
            waker.cancel()
            await self._finish_attempts()

    async def _ring_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.ring()

    async def _dispatch(self, attempts: asyncio.TaskGroup) -> bool:
        """Send what may go now; False if nothing may."""
        await self._read_on()
        picks = self._picks(asyncio.get_running_loop().time())
        if not picks:
            return bool(self._scheduler.hungry)
        found = await self._disk.run(
            self._inputs.read_picks, picks, self._memory.room, alone=self._memory.held == 0
        )
        now = asyncio.get_running_loop().time()
        for read in found:
            if read.pick.slot.may_still_go(now) and not self._writer.is_full:
                self._start(attempts, read)
            else:
                self._put_back(read.pick)
        for pick in picks[len(found) :]:
            self._put_back(pick)
        if not found:
            await self._wake.wait(at_most=_LOOK_AGAIN)  # whoever makes room rings
        return True

    async def _read_on(self) -> None:
        """Read further in the orders of lines that were used up."""
        hungry = list(self._scheduler.hungry)
        if not hungry:
            return
        give_up_orders(self._runs, await self._disk.run(fill, hungry))
        for queue in hungry:
            self._scheduler.wake(queue)
        if any(queue.is_hungry for queue in hungry):
            await self._wake.wait(at_most=_LOOK_AGAIN)

    async def _finish_attempts(self) -> None:
        open_attempts = [task for run in self._runs for task in run.attempts]
        if open_attempts:
            _, late = await asyncio.wait(open_attempts, timeout=self._drain)
            for task in late:
                task.cancel()

    def _picks(self, now: float) -> list[Pick]:
        """A line for each free slot, as far as the bounds allow."""
        picks: list[Pick] = []
        while self._memory.room > 0 and not self._writer.is_full:
            found = self._scheduler.next(now)
            if found is None:
                break
            pick = Pick(*found)
            pick.run.unsettled += 1
            picks.append(pick)
        return picks

    def _until_ready(self) -> float:
        """How long to wait when nothing could be sent."""
        now = asyncio.get_running_loop().time()
        ready = self._scheduler.next_at(now)
        if ready <= now:
            return _LOOK_AGAIN  # one of our own bounds: whoever frees it rings
        return min(ready - now, _LOOK_AGAIN)

    def _put_back(self, pick: Pick) -> None:
        """There was no room for a line after all. Rings no bell: nothing has become free."""
        pick.slot.put_back()
        self._scheduler.landed(pick.run)
        pick.queue.put_back(pick.index)
        self._scheduler.wake(pick.queue)
        pick.run.unsettled -= 1
        self._tell_if_quiet(pick.run)

    def _start(self, attempts: asyncio.TaskGroup, read: Read) -> None:
        pick, line = read.pick, read.line
        run = pick.run
        self._memory.take(read.size)
        if line is None:
            self._lose_input(run)
        if line is None or run.status is not BatchStatus.IN_PROGRESS:
            pick.slot.put_back()
            self._land(pick)
            self._let_go(pick, read.size)
            return
        task = attempts.create_task(self._attempt(pick, line, read.size), name=f"line-{line.index}")
        run.attempts.add(task)
        task.add_done_callback(lambda ended: self._attempt_ended(pick, ended, read.size))

    def _attempt_ended(self, pick: Pick, attempt: asyncio.Task[None], size: int) -> None:
        """Free the slot. Not the attempt's own work: cancelled early, it never takes a step."""
        pick.run.attempts.discard(attempt)
        self._land(pick)
        self._wake.ring()
        if attempt.cancelled() or attempt.exception() is not None:
            self._let_go(pick, size)
        self._tell_if_quiet(pick.run)

    def _land(self, pick: Pick) -> None:
        pick.slot.free()
        pick.queue.landed(pick.index)
        self._scheduler.landed(pick.run)

    async def _attempt(self, pick: Pick, line: RequestLine, size: int) -> None:
        """Send one line once, and hand it to whoever is next."""
        slot = pick.slot
        outcome = await slot.send(pick.run.endpoint, line)
        # With the slot: the next line to go must be of this one's group.
        pick.queue.landed(pick.index)
        state = pick.run.state(line.index)
        decision = decide(outcome, state, slot.standing, self._policy, jitter=self._draw())
        slot.came_to(outcome, decision)
        if not isinstance(decision, Park):
            now = asyncio.get_running_loop().time()
            self._scheduler.came_to(slot.lane, now, is_fault=is_fault(outcome))
        match decision:
            case Settle():
                self._settle(pick, line, outcome, size)
            case Requeue():
                self._requeue(pick, decision, size, decision.delay)
            case Park():
                self._requeue(pick, decision, size, _BEHIND_OTHERS + self._holds(pick, decision))

    def _holds(self, pick: Pick, park: Park) -> float:
        """For how long a park keeps its line back, beside the backend, which keeps the time.

        Where one is asked to wait, and no other does its model, other lines go first when it may
        go on: this one alone may be why.
        """
        lane = pick.slot.lane
        alone = not self._scheduler.has_other(lane.model, lane.name)
        return park.delay if park.reason == RATE_LIMITED and alone else 0.0

    def _requeue(self, pick: Pick, decision: Requeue | Park, size: int, delay: float) -> None:
        run, state = pick.run, decision.state
        before = run.state(pick.index)
        due = asyncio.get_running_loop().time() + delay
        run.note(pick.index, state)
        pick.queue.wait_until(pick.index, due)
        self._scheduler.line_waits(pick.queue)
        if (state.faults, state.throttles) != (before.faults, before.throttles):
            run.attempts_file.append(
                Attempt(pick.index, state.attempts, state.faults, state.throttles, state.kind)
            )
        self._let_go(pick, size)

    def _settle(self, pick: Pick, line: RequestLine, outcome: Outcome, size: int) -> None:
        """Write the outcome down; the line is done when that is durable."""
        run = pick.run
        run.settled(line.index)
        if isinstance(outcome, Reply):
            which, usage = file_of(outcome), outcome.usage if outcome.ok else NO_USAGE
            text = reply_line(run.tag, line, outcome)
        else:
            which, usage = LineFile.ERROR, NO_USAGE
            text = failure_line(run.tag, line, outcome)
            log_failure(run, line, outcome)
        self._memory.take_result(len(text))

        def durable() -> None:
            pick.queue.gone(line.index)
            self._memory.give_result(len(text))
            self._let_go(pick, size)
            if run.is_drained:
                self._scheduler.remove(run)
                self._drained()

        run.ledger.append(which, line.index, text, usage, durable)

    def _let_go(self, pick: Pick, size: int) -> None:
        pick.slot.settle()
        self._memory.give(size)
        pick.run.unsettled -= 1
        self._wake.ring()
        self._tell_if_quiet(pick.run)

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
    facts = {"batch": run.id, "line": line.index, "kind": failure.kind.value}
    log.debug("line_failed", extra=facts)
