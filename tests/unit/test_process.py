"""Signals, and how much the descriptors of this process allow."""

import asyncio
import os
import resource
import signal

import pytest

from batchd.process import connection_limit, handle_signals, most_in_flight
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


@pytest.mark.parametrize(
    ("descriptors", "in_flight", "clients"),
    [(256, 16, 16), (900, 33, 49), (1024, 64, 96), (65536, 4096, 30336), (1 << 20, 4096, 521856)],
)
def test_descriptors_are_shared_between_servers_and_clients(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, in_flight: int, clients: int
) -> None:
    def limit(_: int) -> tuple[int, int]:
        return descriptors, descriptors

    monkeypatch.setattr(resource, "getrlimit", limit)
    assert most_in_flight() == in_flight
    assert connection_limit(in_flight) == clients
