"""The power is cut under the running daemon, again and again, on real filesystems.

Clients go on all the time, and remember what they were told; the model server is a process of its
own and remembers what it was sent. The daemon is frozen before each cut, so that no sync is under
way: what has returned by then must be on the disk.
"""

import itertools
import os
import random
import secrets
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.support import loop_disk, mutants
from tests.support.batchd_process import BatchdProcess
from tests.support.eventlog import Event
from tests.support.jobs import TERMINAL, Jobs, backends
from tests.support.load import WINDOWS, Load
from tests.support.loop_disk import LoopDisk, freeze
from tests.support.model_process import ModelProcess
from tests.support.promises import Promises, recorded
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

SLOTS = 16
FILESYSTEMS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            loop_disk.missing(name) is not None, reason=str(loop_disk.missing(name))
        ),
    )
    for name in ("ext4", "xfs")
]


class Cut(msgspec.Struct, frozen=True):
    """What the model server had been sent, and what the disk still has."""

    events: int
    started: set[str]  # since the last start
    unrecorded: set[str]  # ever sent, and without a result on the disk


class PowerTest:
    """A daemon on a disk of its own, a model server and clients, and the means to cut the power."""

    def __init__(self, disk: LoopDisk, batchd: BatchdProcess, model: ModelProcess, seed: int):
        self.disk = disk
        self.batchd = batchd
        self.model = model
        self.chance = random.Random(seed)  # noqa: S311 - when to cut
        self.jobs = Jobs(batchd.url)
        self.promises = Promises()
        self.load = Load(self.jobs, self.promises, self.chance)
        self.cuts: list[Cut] = []
        self.to_look_at: list[str] = []  # batches that must be whole after the next start

    # -- moments

    def running(self) -> None:
        """While lines are sent and answered."""
        before = self.model.counts().arrived
        more = self.chance.randrange(50, 500)
        wait_until(lambda: self.model.counts().arrived >= before + more)

    def uploaded(self) -> None:
        """Right after an upload was acknowledged."""
        upload = self.load.new_upload(self.chance.choice([1, 100, 1000]))
        self.promises.uploaded(self.jobs.upload(upload.data), upload)

    def created(self, lines: int = 10) -> str:
        """Right after a create was acknowledged."""
        upload = self.load.new_upload(lines)
        file_id = self.jobs.upload(upload.data)
        self.promises.uploaded(file_id, upload)
        batch_id = str(self.jobs.create(file_id)["id"])
        self.promises.created(batch_id, file_id)
        return batch_id

    def cancelled(self) -> None:
        """Right after a cancel was acknowledged."""
        batch_id = self.created()
        self.jobs.cancel(batch_id)
        self.promises.cancelled(batch_id)

    def counted(self) -> None:
        """Right after a line was seen to be counted."""
        self.poll(self.created(), lambda counts: counts["completed"] > 0)

    def completed(self) -> None:
        """Right after a batch was seen to be completed."""
        batch_id = self.created()
        self.poll_until_it_ends(batch_id)
        self.to_look_at.append(batch_id)

    def recovering(self) -> None:
        """While the daemon that was started after the last cut opens what it finds."""
        sign = self.chance.choice(["lock", "batchd.db", "batchd.db-wal", "batchd.db-shm"])
        held = str(self.batchd.state / sign)
        wait_until(lambda: held in open_files(self.batchd.pid))

    def poll(self, batch_id: str, enough: Callable[[dict[str, int]], bool]) -> None:
        look = self.promises.look
        wait_until(lambda: enough(look(self.jobs, batch_id)["request_counts"]), within=20)

    def poll_until_it_ends(self, batch_id: str) -> None:
        look = self.promises.look
        wait_until(lambda: look(self.jobs, batch_id)["status"] in TERMINAL, within=20)

    # -- cuts

    def run(self, moments: Sequence[str]) -> None:
        """Cut the power at each of these moments, and start again after each."""
        self.batchd.start()
        with self.load:
            for moment, following in itertools.pairwise([*moments, "end"]):
                getattr(self, moment)()
                self.cut()
                if following == "recovering":
                    self.batchd.launch()
                    continue
                self.batchd.start()
                self.promises.check_new(self.jobs)
                while self.to_look_at:
                    self.promises.check_account(self.jobs, self.to_look_at.pop())
                self.load.check()
            self.load.submit_no_more()
            self.model.set(delay=0)
            wait_until(lambda: not self.promises.open, within=30)
        self.check_nothing_on_the_disk_was_sent_again()
        self.check_sent_again_was_in_flight()

    def cut(self) -> None:
        freeze(self.batchd.pid)
        self.disk.cut_power()
        self.batchd.signal(signal.SIGKILL)
        self.batchd.wait()
        self.disk.power_on()
        wait_until(lambda: self.model.counts().in_flight == 0)
        events = self.model.events
        last = self.cuts[-1].events if self.cuts else 0
        kept = recorded(self.batchd.state)
        self.cuts.append(
            Cut(
                events=len(events),
                started=started(events[last:]),
                unrecorded=started(events) - set(map(nonce, kept)),
            )
        )
        self.promises.check_disk(self.batchd.state, kept)

    def check_nothing_on_the_disk_was_sent_again(self) -> None:
        events = self.model.events
        ends = [*(cut.events for cut in self.cuts[1:]), len(events)]
        for cut, end in zip(self.cuts, ends, strict=True):
            again = started(events[: cut.events]) & started(events[cut.events : end])
            assert again <= cut.unrecorded

    def check_sent_again_was_in_flight(self) -> None:
        """If nothing but cuts has ended the daemon."""
        in_flight = [len(cut.started & cut.unrecorded) for cut in self.cuts]
        assert max(in_flight) <= 2 * SLOTS
        assert self.sent_again <= sum(in_flight)

    @property
    def sent_again(self) -> int:
        sendings = [event.nonce for event in self.model.events if event.event == "start"]
        return len(sendings) - len(set(sendings))


def nonce(custom_id: str) -> str:
    return f"nonce of {custom_id}"


def started(events: Sequence[Event]) -> set[str]:
    return {event.nonce for event in events if event.event == "start"}


def open_files(pid: int) -> set[str]:
    """What a process has open; nothing of one that has just ended."""
    try:
        return {os.readlink(name) for name in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115 - a deleted file's link is no path
    except OSError:
        return set()


def answered(events: Sequence[Event]) -> int:
    return sum(event.usable for event in events)


@pytest.fixture
def power_test(
    request: pytest.FixtureRequest, tmp_path: Path, model_process: ModelProcess
) -> Iterator[PowerTest]:
    seed = int(os.environ.get("POWER_SEED") or secrets.randbelow(1 << 32))
    print(f"POWER_SEED={seed}")  # noqa: T201 - to see the same moments again
    model_process.set(delay=0.02)
    settings = {
        "backends": backends(model_process.base_url, max_in_flight=SLOTS),
        "batches": {"completion_windows": list(WINDOWS)},
        # Reading everything over drops pages from the cache, and so writes them out: it would hide
        # that nobody has synced them.
        "storage": {"reserve": "1MiB", "scrub_rate": 0},
    }
    batchd = BatchdProcess(tmp_path / "batchd", settings=settings)
    with LoopDisk(batchd.state, request.param) as disk:
        try:
            yield PowerTest(disk, batchd, model_process, seed)
        finally:
            if batchd.exit_code not in {None, -signal.SIGKILL}:
                print(batchd.log_text()[-4000:])  # noqa: T201 - why it has ended by itself
            batchd.kill()


MOMENTS = (
    *["running"] * 2,
    *["counted"] * 3,
    *["completed"] * 2,
    *["uploaded"] * 2,
    *["created"] * 2,
    *["cancelled"] * 2,
    *["recovering"] * 2,
)


@pytest.mark.parametrize("power_test", FILESYSTEMS, indirect=True)
def test_fifteen_power_cuts_lose_nothing_that_was_acknowledged(power_test: PowerTest) -> None:
    moments = ["running", *power_test.chance.sample(MOMENTS[1:], len(MOMENTS) - 1)]
    power_test.run(moments)
    found = power_test.promises.check_all(power_test.jobs, power_test.model.events)
    lines = sum(summary.total for summary in found)
    print(  # noqa: T201 - to read
        f"power cuts: {len(power_test.cuts)} on {power_test.disk.filesystem}: {lines} lines, "
        f"0 lost, 0 duplicated, 0 torn, {power_test.sent_again} sent again; acknowledged: "
        f"{len(power_test.promises.uploads)} uploads, {len(power_test.promises.batches)} creates, "
        f"{power_test.promises.cancels} cancels"
    )


@pytest.mark.parametrize("power_test", FILESYSTEMS, indirect=True)
def test_lines_that_a_killed_daemon_never_synced_are_on_the_disk_before_they_are_counted(
    power_test: PowerTest,
) -> None:
    """A kill leaves them in the page cache, and there the next start finds them."""
    test, shipped = power_test, power_test.batchd.program
    test.batchd.program = list(mutants.program(mutants.NO_FSYNC_OF_RESULTS))
    test.batchd.start()
    batch_id = test.created(300)
    test.poll(batch_id, lambda counts: counts["completed"] >= 100)
    test.model.set(behave="timeout")  # from now on nothing is answered, and nothing is synced
    wait_until(lambda: answered(test.model.events) == len(recorded(test.batchd.state)))
    test.batchd.kill()
    test.batchd.program = shipped
    test.batchd.start()
    told = test.promises.look(test.jobs, batch_id)["request_counts"]["completed"]
    assert told >= 100
    test.cut()
    test.model.set(behave="ok")
    test.batchd.start()
    test.poll_until_it_ends(batch_id)
    test.promises.check_all(test.jobs, test.model.events)
    test.check_nothing_on_the_disk_was_sent_again()
    print(f"{told} lines in the page cache only, then a kill and a power cut: 0 lost")  # noqa: T201 - to read
