"""What a disk can read is read, and zeros stand for the rest."""

from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.sectors import PastBadSectors
from tests.support.bad_sectors import SECTOR, bad_file


def opened(data: bytes, bad: set[int]) -> PastBadSectors:
    return PastBadSectors(bad_file(data, bad), len(data))


@given(
    st.integers(0, 5 * SECTOR + 10),
    st.sets(st.integers(0, 5)),
    st.sampled_from([100, SECTOR, 3 * SECTOR + 7, 1 << 20]),
)
def test_all_but_the_bad_sectors_is_read(size: int, bad: set[int], piece: int) -> None:
    data = bytes(1 + number % 255 for number in range(size))
    file = opened(data, bad)
    found = b""
    while read := file.read(piece):
        found += read
    expected = bytearray(data)
    for number in bad:
        end = min(size, (number + 1) * SECTOR)
        if number * SECTOR < end:
            expected[number * SECTOR : end] = bytes(end - number * SECTOR)
    assert found == expected


def test_other_errors_are_raised(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="read"):
        PastBadSectors(cast("BinaryIO", file), 10).read(1)
