"""How fast a bare aiohttp client gets answers from the same model server: the limit.

As many connections as the daemon has, the same bodies, nothing read from or written to a disk. The
same loop answers a poller meanwhile, which shows what stalls such a loop has without batchd.
"""

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import aiohttp
import msgspec
import uvloop

from benchmarks.polling import Poller, Sample, bare_server

CONNECTIONS = 32  # the daemon's max_in_flight by default
_BODIES = 1000
_SPAWN = multiprocessing.get_context("spawn")


class Limit(msgspec.Struct, frozen=True):
    """What the bare loop came to: answers a second, CPU for each, what its poller got."""

    rate: float
    cpu: float
    samples: list[Sample]


class _Line(msgspec.Struct):
    body: msgspec.Raw


def measure(base_url: str, input_path: Path, seconds: float) -> Limit:
    """Run the bare loop for some seconds, in a process of its own."""
    pipe, theirs = _SPAWN.Pipe()
    bodies = _bodies(input_path)
    process = _SPAWN.Process(
        target=_work, args=(f"{base_url}/chat/completions", bodies, seconds, theirs), daemon=True
    )
    process.start()
    with Poller(cast("int", pipe.recv()), "/") as poller:
        rate, cpu = cast("tuple[float, float]", pipe.recv())
        samples = poller.stop()
    pipe.send(None)
    process.join()
    return Limit(rate, cpu, samples)


def _bodies(input_path: Path) -> list[bytes]:
    with input_path.open("rb") as lines:
        return [
            bytes(msgspec.json.decode(line, type=_Line).body)
            for line in itertools.islice(lines, _BODIES)
        ]


def _work(url: str, bodies: list[bytes], seconds: float, pipe: Connection) -> None:
    uvloop.run(_run(url, bodies, seconds, pipe))


async def _run(url: str, bodies: list[bytes], seconds: float, pipe: Connection) -> None:
    server, port = await bare_server()
    pipe.send(port)
    started, cpu = time.monotonic(), time.process_time()
    supply = itertools.cycle(bodies)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        counts = await asyncio.gather(
            *(_ask(session, url, supply, started + seconds) for _ in range(CONNECTIONS))
        )
    count = sum(counts)
    pipe.send((count / (time.monotonic() - started), (time.process_time() - cpu) / count))
    await asyncio.to_thread(pipe.recv)  # the poller must not meet a closed server
    server.close()


async def _ask(
    session: aiohttp.ClientSession, url: str, supply: Iterator[bytes], until: float
) -> int:
    headers = {"Content-Type": "application/json"}
    count = 0
    while time.monotonic() < until:
        async with session.post(url, data=next(supply), headers=headers) as response:
            await response.read()
            if response.status != 200:  # noqa: PLR2004 - HTTP's OK
                raise RuntimeError(f"the model server answered with {response.status}")
        count += 1
    return count
