"""Clients may take all the connections there are, and batchd still has descriptors for its work."""

import contextlib
import resource
import shutil
import socket
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.checker import check
from tests.support.jobs import Jobs, backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until

# More than batchd keeps for itself, and fewer than there are connections.
DESCRIPTORS = 640
CONNECTIONS = 900
BATCHES = 4
LINES = 60


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """This process needs some for the connections, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CONNECTIONS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this process may have no more than {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def batchd(tmp_path: Path, model_process: ModelProcess) -> Iterator[BatchdProcess]:
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed")
    batchd = BatchdProcess(
        tmp_path / "batchd",
        settings={"backends": backends(model_process.base_url, max_in_flight=8)},
        prefix=["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"],
    )
    with batchd:
        yield batchd


@contextlib.contextmanager
def _crowd(port: int) -> Generator[None]:
    """Clients that connect and say nothing."""
    with contextlib.ExitStack() as crowd:
        for _ in range(CONNECTIONS):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield


def _is_answered(jobs: Jobs) -> bool:
    """Whether there is room for a connection again."""
    with contextlib.suppress(ConnectionError):
        return bool(jobs.batches())
    return False


@pytest.mark.usefixtures("many_descriptors")
def test_a_crowd_of_connections_takes_no_descriptor_from_the_batches(
    batchd: BatchdProcess, model_process: ModelProcess
) -> None:
    """Ledgers are opened at their first line: when the crowd is there already."""
    jobs = Jobs(batchd.url)
    inputs = [request_lines(LINES, prefix=f"batch-{number}") for number in range(BATCHES)]
    model_process.set(delay=2)
    batches = [jobs.start(data) for data in inputs]
    wait_until(lambda: batchd.log_text().count("batch_validated") == BATCHES)
    model_process.pause()
    with _crowd(batchd.port):
        model_process.go_on()
        model_process.set(delay=0)
        wait_until(lambda: batchd.log_text().count("batch_finished") == BATCHES, within=10)
    wait_until(lambda: _is_answered(jobs))
    for data, batch_id in zip(inputs, batches, strict=True):
        summary = check(jobs.account(data, batch_id), log=model_process.events)
        assert summary.output_lines == LINES
    assert batchd.exit_code is None
    assert "Too many open files" not in batchd.log_text()
