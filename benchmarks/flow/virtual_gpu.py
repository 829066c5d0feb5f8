"""A model server with the behaviour of a GPU: slots, a silent queue, rates, a prefix cache.

A process of its own: ``python -m benchmarks.flow.virtual_gpu --port PORT --record FILE``, which
prints its port as the first line. It shows and changes its settings at ``/_settings`` and shows its
counts at ``/_counts``; it knows no batchd.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from benchmarks.flow.gpu_desk import GpuDesk
from benchmarks.flow.gpu_settings import GpuSettings
from benchmarks.flow.record import Recorder
from tests.support.model_protocol import Connection

_BACKLOG = 4096


async def serve(port: int, record: Path, settings: GpuSettings) -> None:
    """Be the process, until SIGTERM; how that ends it is a setting."""
    desk = GpuDesk(settings, Recorder(record))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(
        lambda: Connection(desk, 0), "127.0.0.1", port, backlog=_BACKLOG
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await stop.wait()
    server.close()
    if desk.settings.on_term == "drain":
        desk.drain()
        await desk.left_alone.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A model server with the behaviour of a GPU.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--settings", default="{}", help="JSON, see GpuSettings")
    given = parser.parse_args()
    settings = msgspec.json.decode(given.settings, type=GpuSettings)
    uvloop.run(serve(given.port, given.record, settings))


if __name__ == "__main__":
    main()
