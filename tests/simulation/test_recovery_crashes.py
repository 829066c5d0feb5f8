"""A start that crashes while it reads ledgers back, at each operation of the disk, and once more.

Whatever the first start was doing, the next one finds every line that was durable, and after a kill
every line that was there at all; what it has found is durable, and no power cut takes it away.
"""

import contextlib
import errno
import itertools
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from batchd.model import LineFile
from tests.simulation.disk import Crash, SimDisk
from tests.simulation.ledgers import (
    DAMAGED_PATHS,
    ENDS,
    ERROR,
    LINES,
    NO_ENDS,
    OUTPUT,
    PATHS,
    SECOND_LINES,
    WHOLE,
    Ends,
    Expected,
    Files,
    Start,
    disk_with,
)

SEEDS = 6
DOUBLE_CRASHES = 1500
# More than reading two damaged files back takes.
MANY_OPERATIONS = 60
SHOWN = 5

End = Callable[[SimDisk], None]


def killed_and_cut(disk: SimDisk) -> None:
    disk.kill()
    disk.power_cut()


ENDINGS: list[End] = [SimDisk.kill, SimDisk.power_cut, killed_and_cut]


class Scene(msgspec.Struct, frozen=True):
    """What is durable, what the life before appended without a sync, and what the row says."""

    name: str
    durable: Files
    appended: dict[LineFile, bytes] = {}
    known: Ends = msgspec.field(default_factory=lambda: NO_ENDS)
    sync_failed: bool = False

    def disk(self, chance: random.Random) -> SimDisk:
        """After a kill: the page cache still has what was appended."""
        disk = disk_with(self.durable, chance)
        for which, data in self.appended.items():
            descriptor = disk.open_append(PATHS[which])
            disk.append(descriptor, data)
            if self.sync_failed:
                disk.fail_next["sync"] = OSError(errno.EIO, os.strerror(errno.EIO))
                with contextlib.suppress(OSError):
                    disk.sync(descriptor)
        disk.kill()
        return disk


def _bad(which: LineFile, line: int) -> bytes:
    """The whole file with one bad byte in one of its lines."""
    data = bytearray(WHOLE[which])
    data[ENDS[which][line] + 70] ^= 0x01
    return bytes(data)


def _some(which: LineFile, start: int, end: int) -> bytes:
    return b"".join(LINES[which][start:end])


_ALL_KNOWN: Ends = {which: len(data) for which, data in WHOLE.items()}
_SOME_KNOWN: Ends = {which: ends[2] for which, ends in ENDS.items()}

SCENES = [
    Scene("no file", {OUTPUT: None, ERROR: None}),
    Scene("all is well", WHOLE, known=_ALL_KNOWN),
    Scene(
        "lines that were not synced",
        {which: _some(which, 0, 2) for which in LineFile},
        {which: _some(which, 2, 5) for which in LineFile},
        _SOME_KNOWN,
    ),
    Scene(
        "a torn tail",
        {which: _some(which, 0, 3) for which in LineFile},
        {which: LINES[which][3] + LINES[which][4][:-20] for which in LineFile},
        _SOME_KNOWN,
    ),
    Scene("a torn tail that is durable", {which: data[:-9] for which, data in WHOLE.items()}),
    Scene("a hole above the known end", {OUTPUT: _bad(OUTPUT, 3), ERROR: WHOLE[ERROR]}),
    Scene("one damaged file", {OUTPUT: _bad(OUTPUT, 3), ERROR: WHOLE[ERROR]}, {}, _ALL_KNOWN),
    Scene("two damaged files", {which: _bad(which, 1) for which in LineFile}, {}, _ALL_KNOWN),
    Scene(
        "damage, and lines that were not synced",
        {OUTPUT: _bad(OUTPUT, 0), ERROR: _bad(ERROR, 6)},
        {OUTPUT: LINES[ERROR][6], ERROR: SECOND_LINES[0] + b"torn"},
        _SOME_KNOWN,
    ),
    Scene("lines twice", dict.fromkeys(LineFile, WHOLE[OUTPUT] + WHOLE[ERROR])),
    Scene(
        "shorter than was known", {which: _some(which, 0, 3) for which in LineFile}, {}, _ALL_KNOWN
    ),
    Scene(
        "a sync that failed",
        {which: _some(which, 0, 3) for which in LineFile},
        {which: _some(which, 3, 6) for which in LineFile},
        _SOME_KNOWN,
        sync_failed=True,
    ),
    Scene(
        "a sync that failed on a damaged file",
        {which: _bad(which, 1) for which in LineFile},
        {OUTPUT: LINES[ERROR][0], ERROR: LINES[OUTPUT][0]},
        _SOME_KNOWN,
        sync_failed=True,
    ),
]


class Story:
    """Starts on one disk, one after the other, each of which crashes but the last."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene = scene
        self.disk = scene.disk(random.Random(seed))  # noqa: S311 - what a crash leaves
        self.seen = as_read(self.disk.files, scene.known)
        self.durable = self.seen.indexes & as_read(self.disk.durable, scene.known).indexes
        # After a failed sync a kill may drop what the page cache has.
        self.keeps_all = not scene.sync_failed

    def start(self) -> Start:
        return Start().read(self.disk, self.scene.known, distrust=self.scene.sync_failed)

    def crash(self, operation: int, end: End) -> bool:
        """Start, crash in the nth operation, end that life; whether it came to that operation."""
        self.disk.crash_at = self.disk.operations + operation
        crashed = False
        try:
            self.start()
        except Crash:
            crashed = True
        end(self.disk)
        self.keeps_all &= end is SimDisk.kill
        return crashed

    def fault_of_last_start(self) -> str | None:
        last = self.start()
        lost = (self.seen.indexes if self.keeps_all else self.durable) - last.indexes
        if lost:
            return f"lines {lost} are lost"
        for bytes_of in (self.disk.files, self.disk.durable):
            left = as_read(bytes_of, last.ends)
            if left.indexes != last.indexes or any(one.damaged for one in left.found.values()):
                return f"{left.indexes} stand in the files, and not {last.indexes}"
        if self.keeps_all:
            for which, data in self.seen.kept_beside.items():
                if data is not None and self.disk.files.get(DAMAGED_PATHS[which]) != data:
                    return f"the damaged {which} file was not kept"
        self.disk.power_cut()
        again = Start().read(self.disk, last.ends)
        if again.ends != last.ends or any(found.damaged for found in again.found.values()):
            return f"a power cut later, {last.found} has become {again.found}"
        return None


def as_read(bytes_of: Mapping[Path, bytes], known: Ends) -> Expected:
    return Expected({which: bytes_of.get(path) for which, path in PATHS.items()}, known)


def every_single_crash(seed: int) -> Iterator[tuple[str, str | None]]:
    for scene, end in itertools.product(SCENES, ENDINGS):
        for operation in range(1, MANY_OPERATIONS):
            story = Story(scene, seed)
            crashed = story.crash(operation, end)
            where = f"{scene.name}, seed {seed}, operation {operation}, {end.__name__}"
            yield where, story.fault_of_last_start()
            if not crashed:
                break
        else:
            pytest.fail("there is no end to the operations")


def crashes_of_the_next_start_too(chance: random.Random) -> Iterator[tuple[str, str | None]]:
    for _ in range(DOUBLE_CRASHES):
        scene, seed = chance.choice(SCENES), chance.getrandbits(32)
        crashes = [(chance.randint(1, 14), chance.choice(ENDINGS)) for _ in range(2)]
        story = Story(scene, seed)
        for operation, end in crashes:
            story.crash(operation, end)
        where = [f"operation {operation}, {end.__name__}" for operation, end in crashes]
        yield f"{scene.name}, seed {seed}, {', '.join(where)}", story.fault_of_last_start()


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_start_that_crashes_at_any_operation_loses_nothing_that_was_durable() -> None:
    seed = int(os.environ.get("FORMAT_SEED") or secrets.randbelow(1 << 32))
    print(f"FORMAT_SEED={seed}")  # noqa: T201 - to see the same crashes again
    chance = random.Random(seed)  # noqa: S311 - what each crash leaves
    began = time.perf_counter()
    stories = [every_single_crash(chance.getrandbits(32)) for _ in range(SEEDS)]
    count = 0
    faults: list[str] = []
    for where, fault in itertools.chain(*stories, crashes_of_the_next_start_too(chance)):
        count += 1
        if fault is not None:
            faults.append(f"{where}: {fault}")
    print(  # noqa: T201 - to read
        f"recovery: {count:,} crashed starts in {time.perf_counter() - began:.1f} s, "
        f"{len(faults)} violations"
    )
    assert not faults, f"FORMAT_SEED={seed}\n" + "\n".join(faults[:SHOWN])
