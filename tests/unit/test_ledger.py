"""The ledger reads back exactly what was durably written, whatever a crash or a disk left."""

import contextlib
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchd.ledger import Bitmap, Ledger, Recovered, Tally, recover
from batchd.metrics import Metrics
from batchd.model import (
    NO_USAGE,
    Counts,
    Failure,
    FailureKind,
    LineFile,
    Reply,
    RequestLine,
    Usage,
)
from batchd.room import Room
from batchd.wire.lines import CANCELLED, EXPIRED, INPUT_LOST, failure_line, never_run_line
from batchd.wire.lines import reply_line as reply_to
from batchd.writer import LedgerFile, Writer
from tests.support.bad_sectors import SECTOR, WornDisk
from tests.support.fakes import OK, REFUSED, HastyDisk, TroubledDisk

TAG = b"0123abcd"
TOTAL = 6


def asked(index: int) -> RequestLine:
    return RequestLine(index, f"line-{index}", "m", b"{}")


def output_line(index: int) -> bytes:
    return reply_to(TAG, asked(index), OK)


def error_lines() -> list[bytes]:
    return [
        reply_to(TAG, asked(3), REFUSED),
        failure_line(TAG, asked(4), Failure(FailureKind.TIMEOUT)),
        never_run_line(TAG, 5, "line-5", EXPIRED),
    ]


LINES = [output_line(index) for index in (0, 2, 1)]
OUTPUT = b"".join(LINES)
ENDS = [0, len(LINES[0]), len(LINES[0] + LINES[1]), len(OUTPUT)]


class Reader:
    """One start: what two result files come to."""

    def __init__(self, path: Path, total: int = TOTAL) -> None:
        self.path = path
        self.disk = HastyDisk()
        self.done = Bitmap(total)
        self.tally = Tally()

    def read(
        self,
        which: LineFile = LineFile.OUTPUT,
        *,
        known_end: int = 0,
        distrust: bool = False,
    ) -> Recovered:
        return recover(
            self.disk,
            self.path,
            which,
            tag=TAG,
            known_end=known_end,
            distrust=distrust,
            done=self.done,
            tally=self.tally,
        )

    @property
    def indexes(self) -> list[int]:
        return [index for index in range(self.done.size) if index in self.done]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file-1"


def damaged_copy(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")


def test_a_file_that_was_never_made_is_empty_and_not_damaged(path: Path) -> None:
    assert Reader(path).read() == Recovered(0, damaged=False)
    assert not path.exists()


def test_a_file_that_has_vanished_is_damage(path: Path) -> None:
    assert Reader(path).read(known_end=1) == Recovered(0, damaged=True, bad_at=0)


def test_a_torn_tail_is_cut_at_every_byte(path: Path) -> None:
    for cut in range(len(OUTPUT) + 1):
        path.write_bytes(OUTPUT[:cut])
        reader = Reader(path)
        whole = max(number for number, end in enumerate(ENDS) if end <= cut)
        assert reader.read() == Recovered(ENDS[whole], damaged=False)
        assert path.read_bytes() == OUTPUT[: ENDS[whole]]
        assert reader.indexes == sorted([0, 2, 1][:whole])
    assert not damaged_copy(path).exists()


def test_no_damaged_byte_is_ever_accepted(path: Path) -> None:
    for at in range(len(OUTPUT)):
        hit = max(number for number in range(3) if ENDS[number] <= at)
        lost = {hit, hit + 1} if at == ENDS[hit + 1] - 1 else {hit}
        for change in (0x20, OUTPUT[at] ^ 0x0A or 0x80):
            damaged = bytearray(OUTPUT)
            damaged[at] ^= change
            path.write_bytes(damaged)
            reader = Reader(path)
            found = reader.read(known_end=len(OUTPUT))
            kept = [line for number, line in enumerate(LINES) if number not in lost]
            assert path.read_bytes() == b"".join(kept)
            assert found == Recovered(len(b"".join(kept)), damaged=True, bad_at=ENDS[hit])
            assert reader.tally.completed == len(kept) == reader.done.count
            assert damaged_copy(path).read_bytes() == damaged


def test_a_bad_last_line_above_the_known_end_is_a_torn_tail(path: Path) -> None:
    path.write_bytes(OUTPUT[:-2] + b"X\n")
    assert Reader(path).read(known_end=ENDS[2]) == Recovered(ENDS[2], damaged=False)
    assert path.read_bytes() == OUTPUT[: ENDS[2]]
    assert not damaged_copy(path).exists()


def test_a_file_shorter_than_was_known_is_damage(path: Path) -> None:
    for cut in (ENDS[2], ENDS[2] + 7):
        path.write_bytes(OUTPUT[:cut])
        found = Reader(path).read(known_end=ENDS[3])
        assert found == Recovered(ENDS[2], damaged=True, bad_at=ENDS[2])
        assert path.read_bytes() == OUTPUT[: ENDS[2]]
        # Where every byte that is left is good there is nothing to keep aside.
        assert damaged_copy(path).exists() == (cut > ENDS[2])


def test_good_lines_behind_a_hole_above_the_known_end_are_kept_and_nothing_is_reported(
    path: Path,
) -> None:
    for known in (0, ENDS[1]):
        hole = bytearray(OUTPUT)
        hole[ENDS[1] : ENDS[1] + 40] = bytes(40)
        path.write_bytes(hole)
        reader = Reader(path)
        kept = LINES[0] + LINES[2]
        assert reader.read(known_end=known) == Recovered(len(kept), damaged=False)
        assert path.read_bytes() == kept
        assert reader.indexes == [0, 1]
        assert sorted(item.name for item in path.parent.iterdir()) == [path.name]


def test_a_hole_at_the_start_of_a_file_that_nobody_knew_is_no_damage(path: Path) -> None:
    path.write_bytes(bytes(100) + b"\n" + LINES[1])
    assert Reader(path).read() == Recovered(len(LINES[1]), damaged=False)
    assert path.read_bytes() == LINES[1]


def test_a_salvaged_file_that_is_read_again_before_its_row_knows_keeps_the_damaged_copy(
    path: Path,
) -> None:
    damaged = LINES[0] + b"bad\n" + LINES[1]
    path.write_bytes(damaged)
    for _ in range(2):
        found = Reader(path).read(known_end=len(damaged))
        assert (found.end, found.damaged) == (ENDS[2], True)
    assert damaged_copy(path).read_bytes() == damaged


def test_a_sector_that_cannot_be_read_costs_the_lines_in_it_and_no_other(path: Path) -> None:
    written = [output_line(index) for index in range(60)]
    data = b"".join(written)
    ends = list(accumulate(map(len, written)))
    assert len(data) > 2 * SECTOR
    for known_end, damaged in ((len(data), True), (max(e for e in ends if e <= SECTOR), False)):
        path.write_bytes(data)
        damaged_copy(path).unlink(missing_ok=True)
        reader = Reader(path, total=60)
        reader.disk = WornDisk(path, {1})
        found = reader.read(known_end=known_end)
        lost = {
            index
            for index, end in enumerate(ends)
            if end > SECTOR and end - len(written[index]) < 2 * SECTOR
        }
        assert reader.indexes == [index for index in range(60) if index not in lost]
        assert (found.damaged, damaged_copy(path).exists()) == (damaged, damaged)
        kept = b"".join(line for index, line in enumerate(written) if index not in lost)
        assert path.read_bytes() == kept


def test_zeros_of_a_power_cut_are_cut_off(path: Path) -> None:
    path.write_bytes(OUTPUT + bytes(4096))
    assert Reader(path).read(known_end=ENDS[2]) == Recovered(ENDS[3], damaged=False)
    assert path.read_bytes() == OUTPUT


def test_distrust_copies_what_verifies_to_a_new_file(path: Path) -> None:
    path.write_bytes(OUTPUT + b"torn")
    inode = path.stat().st_ino
    assert Reader(path).read(distrust=True) == Recovered(len(OUTPUT), damaged=False)
    assert path.read_bytes() == OUTPUT
    assert path.stat().st_ino != inode
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name]


def test_a_salvage_that_finds_no_room_takes_none(path: Path) -> None:
    path.write_bytes(OUTPUT)
    full = TroubledDisk()
    full.room = 10
    reader = Reader(path)
    reader.disk = full
    with pytest.raises(OSError, match="No space left"):
        reader.read(distrust=True)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == OUTPUT


def test_what_a_broken_off_salvage_left_is_no_hindrance(path: Path) -> None:
    path.write_bytes(b"bad\n" + OUTPUT)
    path.with_name(path.name + ".salvage").write_bytes(b"half a copy")
    found = Reader(path).read(known_end=len(OUTPUT))
    assert found == Recovered(len(OUTPUT), damaged=True, bad_at=0)
    assert path.read_bytes() == OUTPUT


class DyingDisk(HastyDisk):
    """The process dies at the nth step that changes the disk."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise InterruptedError("killed")

    def open_append(self, path: Path) -> int:
        self._step()
        return super().open_append(path)

    def append(self, descriptor: int, data: bytes) -> None:
        self._step()
        super().append(descriptor, data)

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        super().rename(old, new)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)

    def link_or_copy(self, source: Path, target: Path) -> None:
        self._step()
        super().link_or_copy(source, target)


@pytest.mark.parametrize("distrust", [False, True])
@pytest.mark.parametrize("steps", range(8))
def test_a_salvage_that_is_killed_at_any_step_loses_nothing(
    path: Path, steps: int, distrust: bool
) -> None:
    damaged = LINES[0] + b"bad\n" + LINES[1] + LINES[2]
    path.write_bytes(damaged)
    first = Reader(path)
    first.disk = DyingDisk(steps)
    with contextlib.suppress(InterruptedError):
        first.read(known_end=len(damaged), distrust=distrust)
    second = Reader(path)
    assert second.read(known_end=len(damaged)).end == len(OUTPUT)
    assert path.read_bytes() == OUTPUT
    assert second.indexes == [0, 1, 2]
    assert damaged_copy(path).read_bytes() == damaged


def test_a_line_counts_once_over_both_files(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "output")
    reader.path.write_bytes(OUTPUT)
    reader.read()
    reader.path = tmp_path / "error"
    reader.path.write_bytes(error_lines()[0] + reply_to(TAG, asked(1), REFUSED))
    found = reader.read(LineFile.ERROR)
    assert found == Recovered(len(error_lines()[0]), damaged=False)
    assert (reader.tally.completed, reader.tally.failed) == (3, 1)


def test_a_line_that_stands_twice_in_a_file_is_kept_once(path: Path) -> None:
    for known, damaged in ((0, False), (ENDS[1], False), (ENDS[1] + 1, True)):
        path.write_bytes(LINES[0] + LINES[0] + LINES[1])
        found = Reader(path).read(known_end=known)
        assert (found.end, found.damaged) == (len(LINES[0] + LINES[1]), damaged)
        assert path.read_bytes() == LINES[0] + LINES[1]


def test_lines_beyond_the_total_or_of_another_batch_are_not_ours(path: Path) -> None:
    other = reply_to(b"ffffffff", asked(4), OK)
    path.write_bytes(LINES[0] + output_line(TOTAL) + other)
    reader = Reader(path)
    assert reader.read() == Recovered(len(LINES[0]), damaged=False)
    assert reader.indexes == [0]


def test_lines_never_run_count_in_neither_and_usage_is_summed(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "output", total=9)
    reader.path.write_bytes(OUTPUT)
    reader.read()
    reader.path = tmp_path / "error"
    more = [
        never_run_line(TAG, 6 + n, "", error) for n, error in enumerate([CANCELLED, INPUT_LOST])
    ]
    reader.path.write_bytes(b"".join([*error_lines(), *more]))
    reader.read(LineFile.ERROR)
    tally = reader.tally
    assert (tally.completed, tally.failed, tally.never_run, tally.lines) == (3, 3, 2, 8)
    assert tally.usage == Usage(6, 0, 9, 0, 15)


def test_an_answer_too_deep_to_read_again_does_not_keep_batchd_from_starting(path: Path) -> None:
    deep = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"
    reply = reply_to(TAG, asked(0), Reply(status_code=200, request_id="r", body=deep))
    path.write_bytes(reply)
    reader = Reader(path)
    assert reader.read() == Recovered(len(reply), damaged=False)
    assert (reader.tally.completed, reader.tally.usage) == (1, NO_USAGE)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.integers(0, TOTAL - 1).map(output_line),
            st.binary(max_size=40),
            st.integers(0, TOTAL - 1).map(lambda index: output_line(index)[:-5]),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_recovery_leaves_a_file_that_it_finds_good(
    tmp_path: Path, pieces: list[bytes], distrust: bool
) -> None:
    path = tmp_path / "file-2"
    path.write_bytes(b"".join(pieces))
    first = Reader(path)
    found = first.read(distrust=distrust)
    again = Reader(path)
    assert again.read(known_end=found.end) == Recovered(found.end, damaged=False)
    assert again.indexes == first.indexes
    assert path.stat().st_size == found.end
    kept = path.read_bytes().splitlines(keepends=True)
    assert len(kept) == len(set(kept)) == first.done.count


def test_the_next_missing_line_is_found_behind_many_that_are_done() -> None:
    bitmap = Bitmap(4003)
    for index in range(4003):
        if index not in (3001, 4002):
            bitmap.add(index)
    assert [bitmap.next_missing(start) for start in (0, 7, 3001, 3002)] == [3001, 3001, 3001, 4002]
    bitmap.add(4002)
    assert bitmap.next_missing(3002) is None


@given(st.integers(0, 40), st.sets(st.integers(0, 39)), st.integers(0, 45))
def test_the_next_missing_line_is_found(size: int, done: set[int], start: int) -> None:
    bitmap = Bitmap(size)
    for index in done:
        if index < size:
            assert bitmap.add(index)
            assert not bitmap.add(index)
    expected = [index for index in range(start, size) if index not in done]
    assert bitmap.next_missing(start) == (expected[0] if expected else None)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def make(tmp_path: Path, metrics: Metrics) -> Callable[[Writer], Ledger]:
    def ledger(writer: Writer) -> Ledger:
        files = {which: LedgerFile(tmp_path / which, 0) for which in LineFile}
        return Ledger(writer, files, Bitmap(TOTAL), Tally(), metrics)

    return ledger


def opened_writer(directory: Path) -> Writer:
    disk = HastyDisk()
    return Writer(disk, Room(disk, directory, reserve=0), Metrics(), pytest.fail)


async def test_a_line_is_done_only_when_it_is_durable(
    tmp_path: Path, make: Callable[[Writer], Ledger], metrics: Metrics
) -> None:
    seen: list[tuple[Counts, int | None]] = []
    async with opened_writer(tmp_path).running() as writer:
        ledger = make(writer)
        for which, index, line in (
            (LineFile.OUTPUT, 1, output_line(1)),
            (LineFile.ERROR, 3, error_lines()[0]),
        ):
            ledger.append(
                which,
                index,
                line,
                OK.usage,
                lambda: seen.append((ledger.counts, ledger.next_missing(1))),
            )
        assert ledger.next_missing(1) == 1
        await ledger.append_never_run([(5, error_lines()[2])])
    assert seen == [(Counts(TOTAL, 1, 0), 2), (Counts(TOTAL, 1, 1), 2)]
    assert (ledger.missing, ledger.never_run, ledger.usage) == (3, 1, OK.usage)
    assert b'batchd_lines_total{file="output"} 1.0' in metrics.text()
    assert b'batchd_lines_total{file="error"} 2.0' in metrics.text()
    assert ledger.end(LineFile.OUTPUT) == len(output_line(1))
    assert ledger.end(LineFile.ERROR) == len(error_lines()[0] + error_lines()[2])


async def test_a_line_written_twice_is_counted_once(
    tmp_path: Path, make: Callable[[Writer], Ledger], metrics: Metrics
) -> None:
    async with opened_writer(tmp_path).running() as writer:
        ledger = make(writer)
        for _ in range(2):
            ledger.append(LineFile.OUTPUT, 0, output_line(0), NO_USAGE, lambda: None)
        await ledger.append_never_run([(0, b"")])
        ledger.close()
    assert b'batchd_lines_total{file="output"} 1.0' in metrics.text()
    assert b'batchd_lines_total{file="error"} 0.0' in metrics.text()
    assert (ledger.counts, ledger.never_run, ledger.missing) == (Counts(TOTAL, 1, 0), 0, TOTAL - 1)
