"""What failed lines have been through is read back, and damage never costs a line an attempt."""

import asyncio
import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd import attempts as module
from batchd.attempts import RECORD_SIZE, Attempt, Attempts, open_attempts, read_attempts, record
from batchd.metrics import Metrics
from batchd.model import FailureKind
from batchd.room import Room
from batchd.writer import LedgerFile, Writer
from tests.support.bad_sectors import SECTOR, WornDisk
from tests.support.fakes import HastyDisk, TroubledDisk

TAG = b"0123abcd"
TOTAL = 1000
NONE_DONE: frozenset[int] = frozenset()


def attempt(index: int, count: int = 1, kind: str = "timeout") -> Attempt:
    return Attempt(index, attempts=count, faults=count, throttles=0, kind=kind)


THREE = [attempt(7), attempt(0, kind="http_503"), attempt(7, 2)]
BYTES = b"".join(record(TAG, each) for each in THREE)
EXPECTED = {7: THREE[2], 0: THREE[1]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "attempts"


def read(path: Path, total: int = TOTAL) -> tuple[dict[int, Attempt], int]:
    return read_attempts(HastyDisk(), path, TAG, total, NONE_DONE)


def test_no_file_is_no_attempts(path: Path) -> None:
    assert open_attempts(HastyDisk(), path, TAG, TOTAL, NONE_DONE) == ({}, 0)
    assert not path.exists()


def test_the_last_record_of_a_line_stands(path: Path) -> None:
    path.write_bytes(BYTES)
    assert read(path) == (EXPECTED, len(BYTES))


def test_a_sector_holds_whole_records() -> None:
    assert SECTOR % RECORD_SIZE == 0
    assert {len(record(TAG, attempt(index))) for index in (0, 2**32 - 1)} == {RECORD_SIZE}


@pytest.mark.parametrize("kind", [kind.value for kind in FailureKind] + ["http_503"])
def test_every_kind_of_failure_is_read_back(path: Path, kind: str) -> None:
    path.write_bytes(record(TAG, attempt(1, kind=kind)))
    assert read(path)[0][1].kind == kind


def test_what_does_not_fit_is_the_most_that_does(path: Path) -> None:
    path.write_bytes(record(TAG, Attempt(1, 2**40, 2**20, 2**20, "é" + "x" * 40)))
    assert read(path)[0] == {1: Attempt(1, 2**32 - 1, 2**16 - 1, 2**16 - 1, "?" + "x" * 15)}


def test_lines_that_are_done_or_were_never_there_are_dropped(path: Path) -> None:
    path.write_bytes(BYTES)
    assert read_attempts(HastyDisk(), path, TAG, TOTAL, {7}) == ({0: THREE[1]}, len(BYTES))
    assert read(path, total=7) == ({0: THREE[1]}, 2 * RECORD_SIZE)


def test_records_of_another_batch_are_not_believed(path: Path) -> None:
    path.write_bytes(record(b"99999999", attempt(1)) + BYTES)
    assert read(path) == (EXPECTED, RECORD_SIZE + len(BYTES))


def test_a_torn_tail_is_cut_at_every_byte_and_the_next_record_is_found(path: Path) -> None:
    for cut in range(len(BYTES) + 1):
        path.write_bytes(BYTES[:cut])
        whole = cut // RECORD_SIZE
        lines, end = open_attempts(HastyDisk(), path, TAG, TOTAL, NONE_DONE)
        assert lines == {each.index: each for each in THREE[:whole]}
        assert end == path.stat().st_size == whole * RECORD_SIZE
        with path.open("ab") as file:
            file.write(record(TAG, attempt(9)))
        assert read(path)[0][9] == attempt(9)


def test_no_damaged_record_is_ever_believed_and_the_others_are(path: Path) -> None:
    for at in range(len(BYTES)):
        for change in (0x01, 0x80, BYTES[at] or 0xFF):
            damaged = bytearray(BYTES)
            damaged[at] ^= change
            path.write_bytes(damaged)
            hit = at // RECORD_SIZE
            kept = [each for number, each in enumerate(THREE) if number != hit]
            assert read(path)[0] == {each.index: each for each in kept}


@given(st.binary(max_size=5 * RECORD_SIZE))
def test_rubbish_is_no_attempt(tmp_path_factory: pytest.TempPathFactory, rubbish: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "rubbish"
    path.write_bytes(rubbish)
    assert read(path) == ({}, 0)


def test_zeros_and_a_sector_that_cannot_be_read_are_passed_over(path: Path) -> None:
    per_sector = SECTOR // RECORD_SIZE
    path.write_bytes(
        b"".join(record(TAG, attempt(index)) for index in range(2 * per_sector))
        + bytes(SECTOR)
        + record(TAG, attempt(900))
    )
    lines, end = read_attempts(WornDisk(path, {0}), path, TAG, TOTAL, NONE_DONE)
    assert set(lines) == {*range(per_sector, 2 * per_sector), 900}
    assert end == 3 * SECTOR + RECORD_SIZE


def test_a_file_larger_than_one_piece_is_read_to_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE", 2 * RECORD_SIZE)
    path.write_bytes(BYTES + BYTES[:-1])
    assert read(path) == ({7: THREE[0], 0: THREE[1]}, 5 * RECORD_SIZE)


def test_memory_does_not_grow_with_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINES", 2)
    path.write_bytes(b"".join(record(TAG, attempt(index)) for index in (1, 2, 3)) + BYTES)
    more = record(TAG, attempt(2, 2))
    with path.open("ab") as file:
        file.write(more)
    assert read(path)[0] == {1: attempt(1), 2: attempt(2, 2)}


@pytest.fixture
def grown(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file most of whose records are of no interest."""
    monkeypatch.setattr(module, "_SLACK", 0)
    path.write_bytes(record(TAG, attempt(5)) * 10 + BYTES)
    return path


def test_a_file_that_has_grown_is_rewritten_with_what_stands(grown: Path) -> None:
    before = read(grown)[0]
    lines, end = open_attempts(HastyDisk(), grown, TAG, TOTAL, NONE_DONE)
    assert lines == before == {5: attempt(5), **EXPECTED}
    assert end == grown.stat().st_size == 3 * RECORD_SIZE
    assert read(grown)[0] == before
    assert [each.name for each in grown.parent.iterdir()] == ["attempts"]


def test_the_new_file_is_on_disk_before_it_takes_the_name(grown: Path) -> None:
    disk = TroubledDisk()
    found: list[bytes] = []
    disk.before_sync = lambda: found.append(grown.read_bytes())
    open_attempts(disk, grown, TAG, TOTAL, NONE_DONE)
    assert disk.log == ["write", "sync"]
    assert found == [record(TAG, attempt(5)) * 10 + BYTES]


def test_without_room_for_the_new_file_the_old_one_stays(grown: Path) -> None:
    disk, size = TroubledDisk(), grown.stat().st_size
    disk.room = RECORD_SIZE
    lines, end = open_attempts(disk, grown, TAG, TOTAL, NONE_DONE)
    assert lines == {5: attempt(5), **EXPECTED}
    assert end == size == grown.stat().st_size
    assert [each.name for each in grown.parent.iterdir()] == ["attempts"]


class _UnreadableDisk(HastyDisk):
    def open_read(self, path: Path) -> BinaryIO:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)


def test_a_file_that_cannot_be_read_at_all_is_removed(path: Path) -> None:
    path.write_bytes(BYTES)
    assert open_attempts(_UnreadableDisk(), path, TAG, TOTAL, NONE_DONE) == ({}, 0)
    assert not path.exists()


def test_a_directory_of_that_name_stops_nothing(path: Path) -> None:
    path.mkdir()
    assert open_attempts(HastyDisk(), path, TAG, TOTAL, NONE_DONE) == ({}, 0)


async def test_what_is_appended_is_read_back(path: Path) -> None:
    disk = HastyDisk()
    room = Room(disk, path.parent, reserve=0, ballast=0)
    fatal: list[str] = []
    async with Writer(disk, room, Metrics(), fatal.append).running() as writer:
        it = Attempts(writer, LedgerFile(path, 0), TAG)
        for each in THREE:
            it.append(each)
        it.close()
    assert await asyncio.to_thread(read, path) == (EXPECTED, len(BYTES))
    assert it.size == len(BYTES)
    assert fatal == []
