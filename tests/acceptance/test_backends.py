"""Several model servers: lines of one that goes move to the other; settings change on the way."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import StartBatchd
from tests.support.batchd_process import BatchdProcess
from tests.support.checker import check
from tests.support.eventlog import sent
from tests.support.jobs import Jobs, JsonObject, request_lines
from tests.support.model_process import ModelProcess
from tests.support.model_settings import Settings
from tests.support.waiting import wait_until

SLOTS = 8
LINES = 600
DELAY = Settings(delay=0.05)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[ModelProcess, ModelProcess]]:
    """Two of 8 slots at 50 ms an answer: a batch takes two seconds at least."""
    with ExitStack() as running:
        both: list[ModelProcess] = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            both.append(running.enter_context(ModelProcess(tmp_path / name, settings=DELAY)))
        yield both[0], both[1]


def pool(*servers: ModelProcess) -> list[JsonObject]:
    """``[[backends]]`` that have any model, so that no list is waited for."""
    return [
        {
            "name": f"server-{number}",
            "base_url": server.base_url,
            "models": ["test-*"],
            "max_in_flight": SLOTS,
        }
        for number, server in enumerate(servers)
    ]


def kill(server: ModelProcess) -> None:
    server.kill()


def hang(server: ModelProcess) -> None:
    server.pause()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("go", [kill, hang])
def test_lines_of_a_server_that_goes_move_to_the_other(
    servers: tuple[ModelProcess, ModelProcess],
    start_batchd: StartBatchd,
    go: Callable[[ModelProcess], None],
) -> None:
    first, second = servers
    batchd = start_batchd(backends=pool(first, second))
    jobs, data = Jobs(batchd.url), request_lines(LINES)
    batch_id = jobs.start(data)
    wait_until(lambda: done(jobs, batch_id) > 50)
    go(first)
    account = jobs.account(data, batch_id, within=40)
    if go is hang:
        first.go_on()
    summary = check(account, log=[*first.events, *second.events], resent_allowed=2 * SLOTS)
    assert (summary.output_lines, summary.error_lines) == (LINES, 0)
    assert len(sent(second.events)) > LINES / 2


@pytest.mark.timeout(60)
def test_a_changed_configuration_swaps_servers_without_losing_a_line(
    servers: tuple[ModelProcess, ModelProcess], start_batchd: StartBatchd
) -> None:
    first, second = servers
    batchd = start_batchd(backends=pool(first))
    jobs, data = Jobs(batchd.url), request_lines(LINES)
    batch_id = jobs.start(data)
    wait_until(lambda: done(jobs, batch_id) > 50)
    reload(batchd, backends=[{**pool(second)[0], "name": "another"}])
    wait_until(lambda: "config_reloaded" in batchd.log_text())
    account = jobs.account(data, batch_id, within=40)
    summary = check(account, log=[*first.events, *second.events])
    assert (summary.output_lines, summary.error_lines) == (LINES, 0)
    assert len(sent(first.events)) + len(sent(second.events)) == LINES
    assert len(sent(second.events)) > LINES / 3


def test_a_configuration_with_a_fault_is_refused_and_the_old_one_stays(
    servers: tuple[ModelProcess, ModelProcess], start_batchd: StartBatchd
) -> None:
    first, second = servers
    batchd = start_batchd(backends=pool(first))
    reload(batchd, backends=[{**pool(second)[0], "max_in_flight": 0}])
    wait_until(lambda: "config_refused" in batchd.log_text())
    assert "max_in_flight must be at least 1" in batchd.log_text()
    reload(batchd, backends=pool(second), storage={"directory": str(batchd.directory / "else")})
    wait_until(lambda: "storage.directory cannot be changed" in batchd.log_text())
    jobs, data = Jobs(batchd.url), request_lines(20)
    check(jobs.account(data, jobs.start(data)), log=first.events)
    assert second.events == []


def reload(batchd: BatchdProcess, **settings: object) -> None:
    """Write another configuration, and say that it is there."""
    batchd.configure(backend=None, settings=settings)
    batchd.signal(signal.SIGHUP)


def done(jobs: Jobs, batch_id: str) -> int:
    counts: dict[str, int] = jobs.get(batch_id)["request_counts"]
    return counts["completed"]
