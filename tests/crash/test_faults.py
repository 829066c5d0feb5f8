"""The system fails under the real process: a kill at any sync, disks that cannot write or are full.

strace is between batchd and the kernel, so that nothing of batchd is altered.
"""

import contextlib
import http.client
import json
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from batchd.store.migrations import migrations
from tests.crash.conftest import SWEEPING
from tests.support import strace
from tests.support.batchd_process import BatchdProcess
from tests.support.checker import check
from tests.support.deaths import Deaths
from tests.support.errand import Errand, Kind
from tests.support.jobs import Jobs, JsonObject, Poller, backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.model_settings import Settings
from tests.support.remains import Remains
from tests.support.waiting import wait_until

# Of one thread; the first few are the start's.
SYNCS = (1, 4, 6, 8, 12, 16)
LINES = 60
SLOTS = 4


@pytest.fixture(autouse=True)
def _strace() -> None:
    strace.require()


@pytest.fixture
def batchd(tmp_path: Path, model_process: ModelProcess) -> Iterator[BatchdProcess]:
    """Not started yet."""
    settings = {"backends": backends(model_process.base_url, max_in_flight=SLOTS), **SWEEPING}
    batchd = BatchdProcess(tmp_path / "batchd", settings=settings)
    yield batchd
    batchd.kill()


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_kill_at_any_sync_loses_nothing(
    batchd: BatchdProcess, model_process: ModelProcess
) -> None:
    jobs, deaths, errands = Jobs(batchd.url), Deaths(model_process), list[Errand]()
    for nth in SYNCS:
        batchd.prefix = strace.injecting("fdatasync,fsync", f"signal=SIGKILL:when={nth}")
        batchd.launch()
        wait_until(lambda: _goes_on(batchd, jobs, errands), within=20)
        assert batchd.exit_code == -signal.SIGKILL
        deaths.note(Remains(batchd.state).recorded())
    batchd.prefix = []
    batchd.start()
    for errand in errands:
        wait_until(lambda errand=errand: _runs(errand))
        check(errand.account(), log=deaths.events, resent_allowed=deaths.in_flight)
    again = deaths.check_sent_again()
    print(f"{len(deaths)} kills at a sync: {len(errands)} batches, {again} sent again")  # noqa: T201 - to read


def _goes_on(batchd: BatchdProcess, jobs: Jobs, errands: list[Errand]) -> bool:
    """One batch after the other, until batchd has died."""
    kinds: tuple[Kind, ...] = ("completed", "deleted", "cancelled")
    if batchd.exit_code is None and all(_runs(errand) for errand in errands):
        with contextlib.suppress(ConnectionError):
            number = len(errands)
            errands.append(Errand(f"job-{number}", kinds[number % len(kinds)], jobs))
    return batchd.exit_code is not None


def _runs(errand: Errand) -> bool:
    try:
        errand.run()
    except ConnectionError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_disk_that_fails_under_a_ledger_ends_the_process_and_loses_nothing(
    batchd: BatchdProcess, tmp_path: Path
) -> None:
    """A page that could not be synced may be marked clean: the next start copies what verifies."""
    with _waiting(batchd, tmp_path) as job, Poller(job.jobs, job.batch_id) as poller:
        for call, error in (("fdatasync", "EIO"), ("write", "EIO"), ("fdatasync", "ENOSPC")):
            batchd.prefix = strace.injecting(call, f"error={error}:when=3", path=job.ledger)
            batchd.start()
            job.check_copied()
            job.server.start()
            assert batchd.wait() == 1
            assert (batchd.state / "sync-failed").exists()
            job.note_death()
            job.server.kill()
        assert batchd.log_text().count("a ledger could not be written") == 3
        batchd.prefix = []
        batchd.start()
        job.check_copied()
        job.server.start()
        account = job.jobs.account(job.data, job.batch_id)
    poller.check_counts_never_went_back(pytest.fail)
    summary = check(account, log=job.deaths.events, resent_allowed=job.deaths.in_flight)
    assert (account.batch["status"], summary.output_lines) == ("completed", LINES)
    job.deaths.check_sent_again()


def test_a_ledger_that_finds_no_room_waits_for_it(batchd: BatchdProcess, tmp_path: Path) -> None:
    with _waiting(batchd, tmp_path) as job:
        fault = "error=ENOSPC:when=3..4"
        batchd.prefix = strace.injecting("write", fault, path=job.ledger)
        batchd.start()
        job.server.start()
        account = job.jobs.account(job.data, job.batch_id)
        assert batchd.exit_code is None
        assert "disk_full" in batchd.log_text()
        summary = check(account, log=job.deaths.events)
        assert (summary.output_lines, summary.sendings) == (LINES, LINES)


class _Waiting:
    """A batch that is in progress, on a batchd that is not, and whose model server is not yet."""

    def __init__(self, batchd: BatchdProcess, directory: Path) -> None:
        self.server = ModelProcess(directory, settings=Settings(delay=0.01))
        batchd.configure(
            backend=None, settings={"backends": backends(self.server.base_url, max_in_flight=SLOTS)}
        )
        self.jobs = Jobs(batchd.url)
        self.data = request_lines(LINES)
        batchd.start()
        self.batch_id = self.jobs.start(self.data)
        self.jobs.wait(self.batch_id, {"in_progress"})
        batchd.kill()
        row = Remains(batchd.state).batches[self.batch_id]
        self.ledger = batchd.state / "files" / str(row["output_file_id"])
        self.deaths = Deaths(self.server)
        self._state = batchd.state
        self._distrusted: int | None = None

    def note_death(self) -> None:
        self.deaths.note(Remains(self._state).recorded())
        self._distrusted = self.ledger.stat().st_ino

    def check_copied(self) -> None:
        """A start after a failed sync has left the old file behind, and trusts the new one."""
        assert not (self._state / "sync-failed").exists()
        if self._distrusted is not None:
            assert self.ledger.stat().st_ino != self._distrusted


@contextlib.contextmanager
def _waiting(batchd: BatchdProcess, directory: Path) -> Generator[_Waiting]:
    place = directory / "model"
    place.mkdir()
    job = _Waiting(batchd, place)
    with contextlib.ExitStack() as stack:
        stack.callback(job.server.kill)
        yield job


@pytest.mark.parametrize("nth", range(3))
def test_a_database_that_cannot_be_synced_ends_the_process_and_loses_nothing(
    nth: int, batchd: BatchdProcess, model_process: ModelProcess
) -> None:
    """A commit that failed may be there or not; one that was acknowledged is."""
    wal = batchd.state / "batchd.db-wal"
    at_start = 1 + len(migrations())  # syncs before anything is acknowledged
    fault = f"error=EIO:when={at_start + 1 + nth}"
    batchd.prefix = strace.injecting("fdatasync", fault, path=wal)
    batchd.start()
    deaths, errand = Deaths(model_process), Errand("job", "completed", Jobs(batchd.url))
    wait_until(lambda: _runs(errand) or batchd.exit_code is not None)
    assert batchd.wait() == 1
    assert "the database failed: SQLITE_IOERR_FSYNC" in batchd.log_text()
    deaths.note(Remains(batchd.state).recorded())
    batchd.prefix = []
    batchd.start()
    errand.check_acknowledged()
    wait_until(lambda: _runs(errand))
    check(errand.account(), log=deaths.events, resent_allowed=deaths.in_flight)
    deaths.check_sent_again()


def test_a_database_that_finds_no_room_refuses_and_lives(
    batchd: BatchdProcess, model_process: ModelProcess
) -> None:
    batchd.start()
    jobs, data = Jobs(batchd.url), request_lines(10)
    file_id = jobs.upload(data)
    assert batchd.terminate() == 0
    wal = batchd.state / "batchd.db-wal"
    batchd.prefix = strace.injecting("pwrite64", "error=ENOSPC:when=1..2", path=wal)
    batchd.start()
    status, headers, error = _create(batchd, file_id)
    assert (status, error["error"]["code"]) == (503, "insufficient_storage")
    assert headers["x-should-retry"] == "false"
    assert jobs.batches() == []
    assert jobs.content(file_id) == data
    wait_until(lambda: _create(batchd, file_id)[0] == 200, within=15)
    assert batchd.exit_code is None
    (batch,) = jobs.batches()
    check(jobs.account(data, batch["id"]), log=model_process.events)


def _create(batchd: BatchdProcess, file_id: str) -> tuple[int, dict[str, str], JsonObject]:
    """The answer's status, headers and object."""
    wish = {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", batchd.port)) as connection:
        connection.request(
            "POST", "/v1/batches", json.dumps(wish), {"content-type": "application/json"}
        )
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, json.load(response)
