"""Signals, and how much the descriptors of this process allow."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchd.process import FATAL, connection_limit, handle_signals, most_in_flight
from tests.support.waiting import until


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_and_a_second_one_gives_up(number: signal.Signals) -> None:
    stop, rings = asyncio.Event(), list[str]()

    async def serve() -> None:
        with handle_signals(stop, lambda: rings.append("reload")):
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    send(number)
    await until(stop.is_set)
    assert not task.done()
    send(number)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rings == []


async def test_a_hangup_reloads_and_stops_nothing() -> None:
    stop, rings = asyncio.Event(), list[str]()
    with handle_signals(stop, lambda: rings.append("reload")):
        send(signal.SIGHUP)
        await until(lambda: rings == ["reload"])
        send(signal.SIGHUP)
        await until(lambda: rings == ["reload"] * 2)
    assert not stop.is_set()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    assert [loop.remove_signal_handler(number) for number in numbers] == [False] * 3


@pytest.fixture
def ignored() -> Iterator[Callable[[signal.Signals], None]]:
    """Ignores signals, as ``nohup`` and a script's ``&`` hand them down, until the test is over."""
    before: dict[signal.Signals, Any] = {}

    def ignore(number: signal.Signals) -> None:
        before[number] = signal.signal(number, signal.SIG_IGN)

    yield ignore
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_without_a_reload_a_hangup_stops_and_never_gives_up() -> None:
    stop = asyncio.Event()
    with handle_signals(stop):
        send(signal.SIGHUP)
        await until(stop.is_set)
        stop.clear()
        send(signal.SIGHUP)  # a terminal that closes may say so twice
        await until(stop.is_set)
        await asyncio.sleep(0)  # where a task that was given up would end


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
async def test_what_the_process_was_started_to_ignore_stops_nothing(
    number: signal.Signals, ignored: Callable[[signal.Signals], None]
) -> None:
    ignored(number)
    stop, heard = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    with handle_signals(stop):
        send(number)
        send(signal.SIGUSR1)
        await until(heard.is_set)
        assert not stop.is_set()
    assert signal.getsignal(number) is signal.SIG_IGN
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_a_hangup_reloads_also_where_it_was_ignored(
    ignored: Callable[[signal.Signals], None],
) -> None:
    ignored(signal.SIGHUP)
    stop, rings = asyncio.Event(), list[str]()
    with handle_signals(stop, lambda: rings.append("reload")):
        send(signal.SIGHUP)
        await until(lambda: rings == ["reload"])
    assert not stop.is_set()


@pytest.mark.parametrize(
    ("descriptors", "in_flight", "clients"),
    [(256, 16, 16), (900, 33, 24), (1024, 64, 48), (65536, 4096, 15168), (1 << 20, 4096, 260928)],
)
def test_descriptors_are_shared_between_servers_and_clients(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, in_flight: int, clients: int
) -> None:
    def limit(_: int) -> tuple[int, int]:
        return descriptors, descriptors

    monkeypatch.setattr(resource, "getrlimit", limit)
    assert most_in_flight() == in_flight
    assert connection_limit(in_flight) == clients


def test_a_process_that_must_end_ends_though_its_log_has_no_room() -> None:
    program = (
        "import atexit, contextlib, sys\n"
        "from batchd.process import die\n"
        "atexit.register(print, 'went on')\n"
        "with contextlib.suppress(OSError):\n"
        "    sys.stderr.write('no room')\n"
        "die('test')\n"
    )
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-I", "-c", program],
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            timeout=15,
        )
    assert (ended.returncode, ended.stdout) == (FATAL, b"")
