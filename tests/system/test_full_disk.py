"""The disk runs full under the running daemon, stays full for a while, and is made larger.

Long answers fill it, and then another program takes the rest. The model server is a process of its
own with a log of its own, so that it can say what was sent while the disk was full.
"""

import http.client
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Never

import pytest

from tests.support import small_disk
from tests.support.batchd_process import BatchdProcess
from tests.support.checker import CheckFailed, check
from tests.support.jobs import ENDPOINT, Jobs, JsonObject, backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.model_settings import Settings
from tests.support.result_files import read_results
from tests.support.small_disk import SmallDisk
from tests.support.waiting import wait_until

WHY_NOT = small_disk.missing()

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(60),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

MIB = 1 << 20
SMALL, LARGE = 24 * MIB, 160 * MIB
ANSWER = 200_000  # characters; the lines below do not fit by far
LINES = 200
SLOTS = 8
LOOKS = 100  # GETs for as long as nothing may be sent
FORM = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
    b'content-disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n%b\r\n--b--\r\n'
)


class FullDisk:
    """A batch whose answers have filled the disk, and another one that still waits for its turn."""

    def __init__(self, disk: SmallDisk, batchd: BatchdProcess, model: ModelProcess) -> None:
        self.disk = disk
        self.batchd = batchd
        self.model = model
        self.jobs = Jobs(batchd.url)
        self.large = request_lines(LINES, prefix="large")
        self.other = request_lines(LINES, prefix="other")
        self.input_id = self.jobs.upload(self.large)
        self.batch_id = str(self.jobs.create(self.input_id)["id"])
        self.jobs.wait_for(self.batch_id, lambda batch: batch["request_counts"]["completed"] > 0)
        self.other_id = self.jobs.start(self.other)
        wait_until(lambda: self.full, within=20)
        wait_until(lambda: self.in_flight == 0)
        disk.fill()

    @property
    def full(self) -> bool:
        return "disk_full" in self.batchd.log_text()

    @property
    def in_flight(self) -> int:
        """As batchd counts them: what is on its way to the model server, too."""
        connection = http.client.HTTPConnection("127.0.0.1", self.batchd.port, timeout=20)
        try:
            connection.request("GET", "/v1/backends")
            listed = json.load(connection.getresponse())["data"]
        finally:
            connection.close()
        return sum(backend["in_flight"] for backend in listed)

    @property
    def sendings(self) -> list[str]:
        return [event.nonce for event in self.model.events if event.event == "start"]

    @property
    def answered(self) -> int:
        return sum(event.usable for event in self.model.events)

    def recorded(self) -> list[str]:
        """The custom_ids on the disk; each result file must be whole lines and no more."""
        found: list[str] = []
        for path in (self.batchd.state / "files").iterdir():
            data = path.read_bytes()
            if data not in (self.large, self.other):
                found += [line.custom_id for line in read_results(data, path.name, torn)]
        return found

    def counted(self, *batches: str) -> int:
        counts = [self.jobs.get(batch_id)["request_counts"] for batch_id in batches]
        return sum(count["completed"] + count["failed"] for count in counts)

    def post(self, path: str, kind: str, body: bytes) -> tuple[int, str | None, JsonObject]:
        """Status, ``x-should-retry`` and error of a request that fails."""
        connection = http.client.HTTPConnection("127.0.0.1", self.batchd.port, timeout=20)
        try:
            connection.request("POST", path, body, {"content-type": kind})
            response = connection.getresponse()
            error = json.loads(response.read())["error"]
            return response.status, response.headers["x-should-retry"], error
        finally:
            connection.close()


def torn(why: str) -> Never:
    raise CheckFailed(why)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullDisk]:
    batchd = BatchdProcess(tmp_path / "batchd")
    settings = Settings(delay=0.02, answer_size=ANSWER)
    with SmallDisk(batchd.state, SMALL) as disk, ModelProcess(tmp_path, settings=settings) as model:
        batchd.configure(
            backend=None,
            settings={
                "backends": backends(model.base_url, max_in_flight=SLOTS),
                "storage": {
                    "directory": str(batchd.state),
                    "reserve": "1MiB",
                    "ballast": "256KiB",  # as by default, less than half of the reserve
                },
            },
        )
        with batchd:
            yield FullDisk(disk, batchd, model)


def refusals(full: FullDisk) -> list[tuple[int, str | None, JsonObject]]:
    """What a client is told who brings new work."""
    wish = {
        "input_file_id": full.input_id,
        "endpoint": ENDPOINT,
        "completion_window": "24h",
    }
    return [
        full.post("/v1/files", "multipart/form-data; boundary=b", FORM % full.large),
        full.post("/v1/batches", "application/json", json.dumps(wish).encode()),
    ]


def test_a_full_disk_is_a_pause_and_a_larger_one_ends_it(full: FullDisk) -> None:
    sent = full.sendings
    assert full.disk.free == 0
    for status, should_retry, error in refusals(full):
        assert (status, should_retry, error["code"]) == (503, "false", "insufficient_storage")
        assert "full" in error["message"]
        assert "free some space" in error["message"]
    assert full.jobs.cancel(full.other_id)["status"] == "cancelling"
    for _ in range(LOOKS):
        assert full.jobs.get(full.batch_id)["status"] == "in_progress"
    assert full.jobs.content(full.input_id) == full.large
    recorded = full.recorded()
    kept = full.answered - len(recorded)
    assert kept > 0
    assert full.counted(full.batch_id, full.other_id) == len(recorded)
    assert full.sendings == sent

    full.disk.enlarge(LARGE)
    account = full.jobs.account(full.large, full.batch_id, within=40)
    summary = check(account, log=full.model.events)
    assert (account.batch["status"], summary.output_lines) == ("completed", LINES)
    cancelled = full.jobs.account(full.other, full.other_id)
    check(cancelled, log=full.model.events)
    assert cancelled.batch["status"] == "cancelled"
    assert len(full.sendings) == len(set(full.sendings))
    print(  # noqa: T201 - to read
        f"full disk: {len(recorded)} lines on it, {kept} in memory, 0 sent while it was full; "
        f"enlarged: {summary.total} lines, 0 lost, 0 torn, 0 sent again"
    )


def test_a_daemon_killed_on_a_full_disk_starts_on_it_and_goes_on_when_it_is_larger(
    full: FullDisk,
) -> None:
    full.batchd.kill()
    recorded = full.recorded()
    in_memory = full.answered - len(recorded)
    sent = full.sendings
    assert full.disk.free == 0
    full.batchd.start()
    assert full.counted(full.batch_id, full.other_id) == len(recorded)
    assert full.jobs.content(full.input_id) == full.large
    for status, should_retry, error in refusals(full):
        assert (status, should_retry, error["code"]) == (503, "false", "insufficient_storage")
    assert full.jobs.cancel(full.other_id)["status"] == "cancelling"
    for _ in range(LOOKS):
        assert full.jobs.get(full.batch_id)["status"] == "in_progress"
    assert full.sendings == sent
    assert full.recorded() == recorded

    full.disk.enlarge(LARGE)
    account = full.jobs.account(full.large, full.batch_id, within=40)
    summary = check(account, log=full.model.events, resent_allowed=in_memory)
    assert (account.batch["status"], summary.output_lines) == ("completed", LINES)
    cancelled = full.jobs.account(full.other, full.other_id)
    check(cancelled, log=full.model.events)
    assert cancelled.batch["status"] == "cancelled"
    again = [nonce for nonce, times in Counter(full.sendings).items() if times > 1]
    assert not set(again) & {f"nonce of {custom_id}" for custom_id in recorded}
    assert len(again) <= in_memory
    print(  # noqa: T201 - to read
        f"killed on a full disk: {len(recorded)} lines on it, {in_memory} in memory only; "
        f"enlarged: {summary.total} lines, 0 lost, 0 torn, {len(again)} sent again"
    )
