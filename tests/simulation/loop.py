"""An event loop whose time is virtual: when nothing can run it jumps to the next timer.

No descriptors, no threads, no wall clock: what runs on it depends on nothing but its input. It ends
in a ``Deadlock`` where a real loop would wait for ever, and counts its passes, so that a process
can be ended after any of them.
"""

import asyncio
import contextlib
import heapq
import itertools
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple, cast

from tests.simulation.disk import Crash

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Passes in which tasks that were cancelled may still do something about it.
_LAST_PASSES = 1000
# Machines have been up for a while; a loop's time is no zero to anybody.
_UPTIME = 1000.0


class Deadlock(Exception):
    """Nothing is ready and no timer runs: nothing will ever happen."""


class Endless(Exception):
    """It goes on and on."""


class _Call:
    """A callback to come, with or without a time: what asyncio calls a handle."""

    __slots__ = ("args", "callback", "context", "is_cancelled")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context or copy_context()
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled


class _Task(asyncio.Task[T]):
    """Sets of such tasks are gone over in the same order in every process."""

    __slots__ = ("_number",)

    def __init__(
        self, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], number: int, **how: Any
    ) -> None:
        self._number = number
        super().__init__(coro, **how)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.AbstractEventLoop):
    """Gives up after ``most_passes``: code that is broken on purpose may never end."""

    def __init__(self, most_passes: int = 100_000) -> None:
        self._now = _UPTIME
        self._most_passes = most_passes
        self._ready: deque[_Call] = deque()
        self._timers: list[tuple[float, int, _Call]] = []
        self._order = itertools.count()
        self._tasks: list[asyncio.Task[Any]] = []
        self._from_threads: deque[_Call] = deque()
        self.passes = 0
        self.crash_at: int | None = None
        self.delay: Callable[[], float] = lambda: 0.0  # until a call from a thread arrives
        self.arrived: Callable[[], None] = _nothing  # after each such call

    # -- running

    def run_until_complete(self, future: Coroutine[Any, Any, T]) -> T:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] - coroutines only
        """Run a coroutine to its end. What a callback raises is raised here."""
        task = self.create_task(future, name="main")
        with _running(self):
            while not task.done():
                self._pass()
        return task.result()

    def _pass(self) -> None:
        self.passes += 1
        if self.passes == self.crash_at:
            raise Crash
        if self.passes > self._most_passes:
            raise Endless(f"still at it after {self.passes} passes")
        if not self._ready:
            self._jump()
        timers, ready, now = self._timers, self._ready, self._now
        while timers and timers[0][0] <= now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            call = ready.popleft()
            if not call.is_cancelled:
                call.context.run(call.callback, *call.args)

    def _jump(self) -> None:
        """To the next timer that was not cancelled."""
        timers = self._timers
        while timers and timers[0][2].is_cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Deadlock(f"nothing will ever happen to {_names(self._open_tasks())}")
        self._now = max(self._now, timers[0][0])

    def bury(self) -> None:
        """End all tasks of a process that has ended; nothing they do may reach a disk any more."""
        self.crash_at = None
        with _running(self):
            passes = 0
            while left := self._open_tasks():
                passes += 1
                if passes > _LAST_PASSES:
                    raise RuntimeError(f"these tasks outlive their process: {_names(left)}")
                for task in left:
                    task.cancel()
                self._last_pass()
        for task in self._tasks:
            if not task.cancelled():
                task.exception()  # fetched, or asyncio would tell of it
        self._tasks.clear()
        self._from_threads = deque()
        self.arrived = _nothing

    def _last_pass(self) -> None:
        for _ in range(len(self._ready)):
            call = self._ready.popleft()
            if not call.is_cancelled:
                with contextlib.suppress(BaseException):  # a dead process tells nobody
                    call.context.run(call.callback, *call.args)

    def _open_tasks(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._tasks if not task.done()]

    # -- time

    def time(self) -> float:
        return self._now

    @property
    def elapsed(self) -> float:
        """Since the loop was made."""
        return self._now - _UPTIME

    def advance(self, seconds: float) -> None:
        """Let time pass in which nothing runs."""
        self._now += seconds

    # -- what asyncio asks of a loop

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        call = _Call(callback, args, context)
        self._ready.append(call)
        return cast("asyncio.Handle", call)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        call = _Call(callback, args, context)
        heapq.heappush(self._timers, (when, next(self._order), call))
        return cast("asyncio.TimerHandle", call)

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """As from a thread: after a while, in the order of the calls."""
        self._from_threads.append(_Call(callback, args, context))
        return self.call_later(self.delay(), self._arrive, self._from_threads)

    def _arrive(self, calls: deque[_Call]) -> None:
        if calls is self._from_threads:  # else its process has ended
            call = calls.popleft()
            call.callback(*call.args)
            self.arrived()

    def run_in_executor(
        self,
        executor: Executor | None,  # noqa: ARG002 - there is one
        func: Callable[[*Ts], T],
        *args: *Ts,
    ) -> asyncio.Future[T]:
        """As a thread: all of it at once, after a while."""
        future = self.create_future()
        self.call_later(self.delay(), _work, future, func, args)
        return future

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        task = _Task(coro, next(self._order), loop=self, name=str(name or "task"), context=context)
        asyncio.tasks._unregister_task(task)  # with all that ever were, which nobody here asks for
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """asyncio tells of errors nobody fetched; in a simulation they are none."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False


def _names(tasks: list[asyncio.Task[Any]]) -> str:
    return ", ".join(sorted(task.get_name() for task in tasks))


def _nothing() -> None:
    pass


def _work(future: asyncio.Future[T], func: Callable[[*Ts], T], args: tuple[*Ts]) -> None:
    if future.done():  # its process has ended
        return
    try:
        result = func(*args)
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        future.set_exception(error)
    else:
        future.set_result(result)


@contextlib.contextmanager
def _running(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


@types.coroutine
def _pass_on() -> Generator[None]:
    yield


def hop(seconds: float = 0.0) -> Awaitable[None]:
    """To be awaited: let others run, and ``seconds`` pass."""
    if seconds <= 0:
        return _pass_on()
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(seconds, _wake, future)
    return future


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
