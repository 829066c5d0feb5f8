"""Whether lines that failed have it held against them in the next life.

The record of it (``batches/<id>/attempts``) is written behind the results and never synced. So:

    in a life      a line is not sent again once its faults, those on record when the life began
                   and those of this life, have come to the limit
    after a stop   all of them are on record
    after a kill   all but those of the last moment: the page cache stays
    after a power  any may be lost, and their lines begin anew: over all lives a line is sent
    cut            with at most the limit of faults for each power cut and once more, beside what
                   the last moments before kills took with them
    at any time    no more is on record than there was

Where the disk was full or failed, records are dropped: only the last two rules hold for that life.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Never

from tests.simulation.disk import SimDisk
from tests.simulation.lines import Line
from tests.simulation.plan import FAULT_LIMIT, EndKind
from tests.simulation.seen import HOLDS, Batch

Wrong = Callable[[str], Never]

_RECORD = struct.Struct("<IIHH16sI")
# Until a record has been written, on a disk that has room for it.
_MOMENT = 1.0


class Budgets:
    """Reads the records of batches that go on, after each life."""

    def __init__(self, disk: SimDisk, wrong: Wrong) -> None:
        self._disk = disk
        self._wrong = wrong
        self.kept = 0  # faults that were on record at a start
        self.lost = 0  # faults that were not, any more

    def sending(self, line: Line) -> None:
        """A line is sent: it has faults left."""
        if line.faults >= FAULT_LIMIT:
            self._wrong(f"line {line.custom_id} was sent again after {line.faults} faults")
        if line.all_faults >= FAULT_LIMIT * (1 + line.power_cuts) + line.faults_lost:
            self._wrong(f"line {line.custom_id} was sent again after {line.all_faults} faults")

    def life_ended(self, batch: Batch, kind: EndKind, ended_at: float, *, is_strict: bool) -> None:
        """``kind``: of what the disk went through. ``is_strict``: nothing was dropped."""
        recorded = _recorded(self._disk.files.get(HOLDS / batch.id / "attempts", b""), batch.tag)
        for line in batch.lines:
            found = recorded.get(line.request.index, 0)
            if found > line.faults:
                self._wrong(f"line {line.custom_id} has {found} faults on record of {line.faults}")
            if is_strict and found < _expected(line, kind, ended_at):
                self._wrong(f"{line.faults - found} faults of line {line.custom_id} are forgotten")
            if kind is EndKind.POWER:
                line.power_cuts += 1
            else:
                line.faults_lost += line.faults - found
            self.kept += found
            self.lost += line.faults - found
            line.begin_life(found)


def _expected(line: Line, kind: EndKind, ended_at: float) -> int:
    """How many faults must be on record. The one that settles a line never is."""
    if kind is EndKind.POWER:
        return 0
    moment = 0.0 if kind is EndKind.STOP else _MOMENT
    old = sum(at <= ended_at - moment for at in line.faults_at)
    return min(line.faults_before + old, FAULT_LIMIT - 1)


def _recorded(data: bytes, tag: bytes) -> dict[int, int]:
    """The faults of each line, by the last good record of it."""
    found: dict[int, int] = {}
    for at in range(0, len(data) - _RECORD.size + 1, _RECORD.size):
        index, _, faults, _, _, checksum = _RECORD.unpack_from(data, at)
        if zlib.crc32(data[at : at + _RECORD.size - 4], zlib.crc32(tag)) == checksum:
            found[index] = faults
    return found
