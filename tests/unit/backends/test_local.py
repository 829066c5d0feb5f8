"""The local server's child: started, watched, started again, and never left behind.

The child is a real process on a real port; only what it serves is made up.
"""

import asyncio
import contextlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from textwrap import dedent

import pytest

from batchd.backends.local import LOG_LIMIT, LocalServer, Pace, installed_program, local_server
from batchd.errors import BatchdError, ConfigError

SERVER = """
    import http.server, json, os, signal, sys, time
    manner, directory, host, port, *_ = sys.argv[1:]
    with open(f"{directory}/starts", "a") as starts:
        starts.write(f"{os.getpid()}\\n")
    if manner == "ill":
        os.kill(os.getpid(), signal.SIGILL)
    again = len(open(f"{directory}/starts").readlines()) > 1
    if manner == "once" and again:
        sys.exit(3)
    if manner == "mute" or (manner == "mute later" and again):
        time.sleep(600)
    if manner == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if manner == "chatty":
        for _ in range(48):
            try:
                os.write(2, b"x" * 65536)
            except OSError:
                pass
    with open(f"{directory}/environment", "w") as environment:
        json.dump(dict(os.environ), environment)

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    http.server.HTTPServer((host, int(port)), Health).serve_forever()
"""

QUICK = Pace(ready=10, stop=0.3, first_delay=0.01, max_delay=0.04)


class FakeServer:
    """A program in place of the model server, which behaves in the manner asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._script = directory / "server.py"
        self._script.write_text(dedent(SERVER))

    def program(self, manner: str = "serve") -> tuple[str, ...]:
        return (sys.executable, "-I", str(self._script), manner, str(self.directory))

    def pids(self) -> list[int]:
        starts = self.directory / "starts"
        return [int(pid) for pid in starts.read_text().split()] if starts.exists() else []


@pytest.fixture
def fake(tmp_path: Path) -> FakeServer:
    return FakeServer(tmp_path)


def gone(pid: int) -> bool:
    """No such process, or one that only waits for its parent to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def reaped(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def until(condition: Callable[[], bool], *, limit: float = 10) -> None:
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110  another process does not ring
            await asyncio.sleep(0.01)


async def answers(server: LocalServer) -> bool:
    port = int(server.base_url.split(":")[2].removesuffix("/v1"))
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def until_it_answers(server: LocalServer) -> None:
    async with asyncio.timeout(10):
        while not await answers(server):  # noqa: ASYNC110  another process does not ring
            await asyncio.sleep(0.01)


async def supervised(server: LocalServer, during: Callable[[], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(server.supervise(stop), name="supervise")
        try:
            await during()
        finally:
            stop.set()


async def test_the_server_answers_when_entered_and_is_reaped_when_left(fake: FakeServer) -> None:
    async with local_server(None, program=fake.program()) as server:
        assert await answers(server)
        assert server.base_url.startswith("http://127.0.0.1:")
        assert server.model == "smollm2"
    assert not await answers(server)
    assert reaped(fake.pids()[0])


async def test_a_server_that_dies_is_started_again_on_the_same_port(fake: FakeServer) -> None:
    async with local_server(None, program=fake.program(), pace=QUICK) as server:
        before = server.base_url

        async def kill_it_twice() -> None:
            for deaths in (1, 2):
                os.kill(fake.pids()[-1], signal.SIGKILL)
                await until(lambda deaths=deaths: len(fake.pids()) == deaths + 1)
                await until_it_answers(server)

        await supervised(server, kill_it_twice)
        assert server.base_url == before
    assert all(reaped(pid) for pid in fake.pids())


async def test_while_the_server_is_down_connections_are_refused(fake: FakeServer) -> None:
    async with local_server(None, program=fake.program()) as server:
        os.kill(fake.pids()[0], signal.SIGKILL)
        await until(lambda: gone(fake.pids()[0]))
        assert not await answers(server)


async def test_the_wait_doubles_up_to_its_limit_while_the_server_keeps_dying(
    fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with local_server(None, program=fake.program("once"), pace=QUICK) as server:

        async def let_it_die() -> None:
            os.kill(fake.pids()[0], signal.SIGKILL)
            await until(lambda: len(fake.pids()) >= 5)

        with caplog.at_level(logging.INFO):
            await supervised(server, let_it_die)
    deaths = [record.__dict__ for record in caplog.records if record.msg == "local_server_died"]
    assert [death["restart_in"] for death in deaths[:4]] == [0.01, 0.02, 0.04, 0.04]
    assert [death["exit_code"] for death in deaths[:3]] == [-signal.SIGKILL, 3, 3]


async def test_one_that_hangs_when_started_again_is_ended_before_the_next(
    fake: FakeServer,
) -> None:
    pace = Pace(ready=1.5, first_delay=0.01, max_delay=0.01)
    async with local_server(None, program=fake.program("mute later"), pace=pace) as server:

        async def let_it_hang() -> None:
            os.kill(fake.pids()[0], signal.SIGKILL)
            await until(lambda: len(fake.pids()) >= 3)
            assert gone(fake.pids()[1])

        await supervised(server, let_it_hang)
    assert all(reaped(pid) for pid in fake.pids())


async def test_nothing_is_started_again_once_told_to_stop(fake: FakeServer) -> None:
    async with local_server(None, program=fake.program(), pace=QUICK) as server:
        stop = asyncio.Event()
        stop.set()
        async with asyncio.timeout(5):
            await server.supervise(stop)
        assert await answers(server)
    assert len(fake.pids()) == 1


async def test_a_server_that_ignores_the_polite_signal_is_killed(fake: FakeServer) -> None:
    async with local_server(None, program=fake.program("stubborn"), pace=QUICK):
        pass
    assert reaped(fake.pids()[0])


async def test_a_server_that_is_never_ready_is_an_error_and_leaves_no_child(
    fake: FakeServer,
) -> None:
    with pytest.raises(BatchdError, match=r"not ready within 0\.5 seconds"):
        async with local_server(None, program=fake.program("mute"), pace=Pace(ready=0.5)):
            pass
    assert all(reaped(pid) for pid in fake.pids())


async def test_a_start_that_is_cancelled_leaves_no_child(fake: FakeServer) -> None:
    async def enter() -> None:
        async with local_server(None, program=fake.program("mute")):
            pass

    entering = asyncio.ensure_future(enter())
    await until(lambda: bool(fake.pids()))
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert reaped(fake.pids()[0])


async def test_a_processor_the_server_cannot_run_on_is_said_in_a_sentence(
    fake: FakeServer,
) -> None:
    with pytest.raises(ConfigError, match="cannot run on this processor"):
        async with local_server(None, program=fake.program("ill")):
            pass


async def test_a_server_that_dies_at_once_is_an_error_with_its_code(fake: FakeServer) -> None:
    with pytest.raises(BatchdError, match="ended with code 1 before it was ready"):
        async with local_server(None, program=(str(fake.directory / "nothing here"),)):
            pass


async def test_the_log_cannot_outgrow_its_limit(fake: FakeServer, tmp_path: Path) -> None:
    async with local_server(tmp_path, program=fake.program("chatty")) as server:
        assert await answers(server)
    assert (tmp_path / "local-server.log").stat().st_size == LOG_LIMIT


async def test_the_server_sees_nothing_of_the_environment(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHD_API_KEY", "a key")
    async with local_server(None, program=fake.program()):
        environment = (fake.directory / "environment").read_text()
    assert "OMP_WAIT_POLICY" in environment
    assert "BATCHD_API_KEY" not in environment


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(fake: FakeServer) -> None:
    async with local_server(None, program=fake.program()) as server:
        assert server.pid is not None
        assert os.getsid(server.pid) == server.pid


async def test_the_server_dies_with_a_batchd_that_is_killed(fake: FakeServer) -> None:
    batchd = dedent(f"""
        import asyncio
        from batchd.backends.local import local_server

        async def main():
            async with local_server(None, program={fake.program()!r}) as server:
                print(server.pid, flush=True)
                await asyncio.Event().wait()

        asyncio.run(main())
    """)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", batchd, stdout=subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        child = int(await asyncio.wait_for(parent.stdout.readline(), 15))
        assert not gone(child)
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: gone(child), limit=2)


def test_what_to_install_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_installed(_name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", nothing_installed)
    with pytest.raises(ConfigError, match=r"^The local model is not installed: run `pip install "):
        installed_program()
