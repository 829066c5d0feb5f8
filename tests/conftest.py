"""Fixtures and rules for every test.

Rules: no test of batchd's own code may block the event loop; async tests run on the loops that
``--loop`` names.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.support import mutants
from tests.support.batchd_process import BatchdProcess
from tests.support.loop_guard import LoopGuard
from tests.support.model_process import ModelProcess
from tests.support.model_server import ModelServer
from tests.support.onwire import WireWatch

StartBatchd = Callable[..., BatchdProcess]

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop", choices=[*LOOPS, "both"], default="asyncio", help="event loop of async tests"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "allow_blocking(reason): batchd may block the loop in this test, because"
    )
    # Ended from outside, a session takes down what its tests have started and mounted, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    name = mutants.chosen()
    if name is not None:
        bug = contextlib.ExitStack()
        bug.enter_context(mutants.MUTANTS[name]())
        config.add_cleanup(bug.close)


def pytest_asyncio_loop_factories(
    config: pytest.Config,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    asked = str(config.getoption("--loop"))
    return LOOPS if asked == "both" else {asked: LOOPS[asked]}


@pytest.fixture(scope="session")
def loop_guard() -> LoopGuard:
    return LoopGuard("batchd")


@pytest.fixture(autouse=True)
def loop_never_blocked(request: pytest.FixtureRequest, loop_guard: LoopGuard) -> Iterator[None]:
    """Fails a test in which code of batchd blocks the event loop."""
    marker = request.node.get_closest_marker("allow_blocking")
    if marker is not None:
        if not (marker.args or marker.kwargs.get("reason")):
            pytest.fail("allow_blocking needs a reason")
        yield
        return
    with loop_guard.watching() as blocked:
        yield
    if blocked:
        pytest.fail("batchd blocked the event loop:\n" + "\n".join(blocked), pytrace=False)


@pytest.fixture
async def model_server() -> AsyncIterator[ModelServer]:
    """A scripted model server in this process."""
    async with ModelServer() as server:
        yield server


@pytest.fixture
def model_process(tmp_path: Path) -> Iterator[ModelProcess]:
    """A scripted model server as a process of its own, started."""
    with ModelProcess(tmp_path) as process:
        yield process


@pytest.fixture
def start_batchd(tmp_path: Path) -> Iterator[StartBatchd]:
    """Starts the real program any number of times; whatever still runs at the end is killed."""
    with contextlib.ExitStack() as running:

        def start(backend: str | None = None, **settings: object) -> BatchdProcess:
            directory = tmp_path / f"batchd-{len(started)}"
            batchd = BatchdProcess(directory, backend=backend, settings=settings)
            started.append(batchd)
            return running.enter_context(batchd)

        started: list[BatchdProcess] = []
        yield start


@pytest.fixture
def wire_watch() -> Iterator[WireWatch]:
    """A hook for HTTP clients that holds every answer against the contract."""
    watch = WireWatch()
    yield watch
    assert watch.faults == []
