"""Lives of an appender on a disk that crashes, fails and runs full: a receipt means on disk.

A history is a list of steps: groups of lines, with a fault or a crash in the middle of one, and
what ends each life. After each step what was receipted is durable; after each start it is found,
and nothing is reported as damaged, for nothing was: crashes alone damage nothing that was promised.
"""

import errno
import os
import random
import secrets
import time

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from batchd.disk import is_full
from batchd.model import Failure, FailureKind, LineFile, Reply, RequestLine
from batchd.wire.lines import failure_line, reply_line
from batchd.writer import Appender, DiskFull, LedgerFile
from tests.simulation.disk import Crash, SimDisk
from tests.simulation.ledgers import DAMAGED_PATHS, FOLDER, NO_ENDS, OUTPUT, PATHS, TAG, Start

HISTORIES = 800
STEPS = 20
LINES = 50
FAULTS = ["append", "sync", "open", "sync_directory"]
# What may go wrong in a step that appends; the other steps are named for what they do.
TROUBLES = ["none", "none", "full", "crash", *FAULTS]
STEP_KINDS = [*TROUBLES, "checkpoint", "end", "crash in the next start"]
ENDINGS = {
    "kill": [SimDisk.kill],
    "power cut": [SimDisk.power_cut],
    "kill, power cut": [SimDisk.kill, SimDisk.power_cut],
}


def line_of(which: LineFile, index: int) -> bytes:
    request = RequestLine(index, f"line-{index}", "m", b"{}")
    if which is OUTPUT:
        body = b'{"content":"%b"}' % (b"x" * (index % 7) ** 4)
        return reply_line(TAG, request, Reply(status_code=200, request_id="r", body=body))
    return failure_line(TAG, request, Failure(FailureKind.RESET))


TEXTS = {(which, index): line_of(which, index) for which in LineFile for index in range(LINES)}
INDEXES = {text: index for (_, index), text in TEXTS.items()}


class Step(msgspec.Struct, frozen=True):
    """``number`` is the room that is left, or counts the operations until the crash."""

    kind: str
    lines: list[tuple[LineFile, int]]
    number: int
    ending: str


class History:
    """``receipted`` is what the program believes; ``known`` is what the batch's row says."""

    def __init__(self, seed: int) -> None:
        self.disk = SimDisk(random.Random(seed))  # noqa: S311 - what a crash leaves
        self.disk.plant(FOLDER / "other", b"")
        self.known = dict(NO_ENDS)
        self.receipted: set[int] = set()
        self.waiting: list[tuple[LineFile, int]] = []
        self.sync_failed = False
        self.start()

    def start(self) -> None:
        self.disk.room = None
        self.disk.fail_next.clear()
        start = Start(LINES).read(self.disk, self.known, distrust=self.sync_failed)
        assert self.receipted <= start.indexes, "what was receipted is lost"
        assert not any(found.damaged for found in start.found.values()), "nothing was damaged"
        self.sync_failed = False
        self.receipted = start.indexes
        self.waiting.clear()
        self.files = {which: LedgerFile(PATHS[which], end) for which, end in start.ends.items()}
        self.appender = Appender(self.disk, sync_threads=1)

    def next_life(self, ending: str) -> None:
        for end in ENDINGS[ending]:
            end(self.disk)
        self.start()

    def take(self, step: Step) -> None:
        if step.kind == "checkpoint":
            self.known = {which: file.end for which, file in self.files.items()}
        elif step.kind == "end":
            self.next_life(step.ending)
        elif step.kind == "crash in the next start":
            self._crash_in_the_next_start(step)
        else:
            self._append(step)

    def _crash_in_the_next_start(self, step: Step) -> None:
        self.disk.kill()
        self.disk.crash_at = self.disk.operations + 1 + step.number % 12
        try:
            self.start()
        except Crash:
            self.next_life(step.ending)

    def _append(self, step: Step) -> None:
        # A group that found no room comes first, as it was.
        if not self.waiting:
            self.waiting = [line for line in step.lines if line[1] not in self.receipted]
        self.disk.room = step.number if step.kind == "full" else None
        if step.kind in FAULTS:
            self.disk.fail_next[step.kind] = OSError(errno.EIO, os.strerror(errno.EIO))
        if step.kind == "crash":
            self.disk.crash_at = self.disk.operations + 1 + step.number % 6
        try:
            self._commit()
        except DiskFull:
            sizes = {which: self.disk.size(file.path) or 0 for which, file in self.files.items()}
            ends = {which: file.end for which, file in self.files.items()}
            assert sizes == ends, "a file was not cut back"
        except Crash:
            self.next_life(step.ending)
        except OSError as error:
            if is_full(error):
                raise
            self.sync_failed = True
            self.next_life(step.ending)

    def _commit(self) -> None:
        group = [(self.files[line[0]], TEXTS[line], lambda: None) for line in self.waiting]
        self.appender.commit(group)
        self.receipted |= {index for _, index in self.waiting}
        self.waiting.clear()

    def check(self) -> None:
        durable: list[int] = []
        for which, file in self.files.items():
            data = self.disk.durable.get(PATHS[which], b"")
            assert len(data) >= file.end, "what was receipted is not durable"
            lines = data[: file.end].splitlines(keepends=True)
            durable += [INDEXES.get(line, -1) for line in lines]
        assert sorted(durable) == sorted(self.receipted), "other lines are durable than receipted"
        for path in DAMAGED_PATHS.values():
            assert self.disk.size(path) is None, "nothing was damaged"


def play(seed: int, steps: list[Step]) -> None:
    history = History(seed)
    for step in steps:
        history.take(step)
        history.check()


def any_step(chance: random.Random) -> Step:
    indexes = chance.sample(range(LINES), chance.randint(1, 5))
    lines = [(chance.choice(list(LineFile)), index) for index in indexes]
    number = chance.randrange(3000)
    return Step(chance.choice(STEP_KINDS), lines, number, chance.choice(list(ENDINGS)))


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_what_was_receipted_is_durable_and_found_in_every_later_life() -> None:
    seed = int(os.environ.get("APPENDER_SEED") or secrets.randbelow(1 << 32))
    print(f"APPENDER_SEED={seed}")  # noqa: T201 - to see the same histories again
    chance = random.Random(seed)  # noqa: S311 - which histories
    began = time.perf_counter()
    for _ in range(HISTORIES):
        disk_seed = chance.getrandbits(32)
        steps = [any_step(chance) for _ in range(STEPS)]
        try:
            play(disk_seed, steps)
        except AssertionError as fault:
            pytest.fail(f"APPENDER_SEED={seed}: {fault}\nplay({disk_seed}, {steps})")
    print(  # noqa: T201 - to read
        f"appender: {HISTORIES:,} histories of {STEPS} steps in {time.perf_counter() - began:.1f} s"
    )


STEP = st.builds(
    Step,
    st.sampled_from(STEP_KINDS),
    st.lists(
        st.tuples(st.sampled_from(list(LineFile)), st.integers(0, LINES - 1)),
        max_size=4,
        unique_by=lambda line: line[1],
    ),
    st.integers(0, 3000),
    st.sampled_from(list(ENDINGS)),
)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32), st.lists(STEP, max_size=12))
def test_the_same_of_histories_that_hypothesis_makes_up_and_shortens(
    seed: int, steps: list[Step]
) -> None:
    play(seed, steps)
