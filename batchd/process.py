"""What the process is to the system: signals, limits, and how it ends when it must end at once."""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from typing import NoReturn, cast

log = logging.getLogger(__name__)

FATAL = 1
_DESCRIPTORS = 65536
# The daemon's own at most: 64 ledgers, 256 inputs with an index each, some tens of anything else,
# and the 128 connections that may come between two looks at how many there are.
_OWN_DESCRIPTORS = 768
# A client's at most: its connection, and for results with their requests the result file, the input
# and its index.
_PER_CLIENT = 4
_FEW_CONNECTIONS = 16
_MOST_IN_FLIGHT = 4096
# Threads that work through a file must not hold the loop up for Python's default of 5 ms a turn.
_SWITCH_INTERVAL = 0.0005


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The single errors that a task group's error is made of."""
    if isinstance(error, BaseExceptionGroup):
        for member in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(member)
    else:
        yield error


def die(reason: str) -> NoReturn:
    """End at once: what is in memory can no longer be written down."""
    log.critical("batchd_died", extra={"reason": reason})
    with contextlib.suppress(OSError):  # nobody may be there to hear it
        sys.stderr.flush()
    os._exit(FATAL)


@contextlib.contextmanager
def handle_signals(
    stop: asyncio.Event, reload: Callable[[], None] | None = None
) -> Generator[None]:
    """SIGTERM and SIGINT set ``stop``, and a second one gives up the drain.

    SIGHUP reloads; without a ``reload`` it sets ``stop``, too. What the process was started to
    ignore (by ``nohup``, or as a script's background job) stops nothing.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: on_signal,
        signal.SIGINT: on_signal,
        signal.SIGHUP: stop.set,  # a terminal that closes may say so twice
    }
    handlers = {
        number: handler
        for number, handler in handlers.items()
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    if reload is not None:
        handlers[signal.SIGHUP] = reload
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def favour_the_loop() -> None:
    """Keep short what holds the loop up: other threads' turns, and full collections."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.freeze()  # what is there now stays to the end; walking it takes tens of milliseconds


def raise_descriptor_limit() -> None:
    """Many batches at once need more descriptors than a shell's usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _DESCRIPTORS), hard))


def most_in_flight() -> int:
    """How many requests to model servers there may be at once: each has a connection."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_FEW_CONNECTIONS, min(_MOST_IN_FLIGHT, (soft - _OWN_DESCRIPTORS) // 4))


def connection_limit(in_flight: int) -> int:
    """How many clients may be connected: each may have files open, too.

    ``in_flight``: requests to model servers at once. Below some 850 descriptors there are not
    enough for all, but a few clients are let in all the same.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_FEW_CONNECTIONS, (soft - _OWN_DESCRIPTORS - in_flight) // _PER_CLIENT)
