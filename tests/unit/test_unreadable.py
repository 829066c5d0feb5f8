"""What a disk does not give back, and what is no fault of the bytes."""

import errno
import os
from pathlib import Path

import pytest

from batchd.errors import FileCorrupt
from batchd.jsonl import lines
from batchd.unreadable import Readable, corrupt_if_unreadable
from tests.support.bad_sectors import SECTOR, bad_file

WHAT = "The input file of batch batch_1"


def test_a_file_is_read_up_to_what_the_disk_has_lost() -> None:
    content = b"x" * (SECTOR - 1) + b"\n"
    file = Readable(bad_file(content * 3, {2}), WHAT)
    found = lines(file, SECTOR)
    assert [line for _, line in (next(found), next(found))] == [content] * 2
    message = rf"^{WHAT} cannot be read \(Input/output error\): run `batchd fsck`"
    with pytest.raises(FileCorrupt, match=message):
        next(found)


def test_bytes_that_are_not_there_are_damage() -> None:
    message = f"^{WHAT} is shorter than it was"
    with pytest.raises(FileCorrupt, match=message), corrupt_if_unreadable(WHAT):
        raise EOFError("the input ends before request line 3")


def test_a_name_that_is_no_file_is_damage_but_none_at_all_is_for_the_caller(
    tmp_path: Path,
) -> None:
    with pytest.raises(FileCorrupt, match="cannot be read"), corrupt_if_unreadable(WHAT):
        tmp_path.open("rb")
    with pytest.raises(FileNotFoundError), corrupt_if_unreadable(WHAT):
        (tmp_path / "gone").open("rb")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC])
def test_a_shortage_of_the_system_is_no_damage(number: int) -> None:
    shortage = OSError(number, os.strerror(number))
    with pytest.raises(OSError, match=os.strerror(number)) as raised, corrupt_if_unreadable(WHAT):
        raise shortage
    assert raised.value is shortage
