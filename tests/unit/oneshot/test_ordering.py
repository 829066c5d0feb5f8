import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from batchd.errors import FileCorrupt
from batchd.model import Reply, RequestLine
from batchd.oneshot.ordering import write_ordered
from batchd.oneshot.place import RunRefused
from batchd.wire.lines import reply_line

TAG = b"0123abcd"


def result(index: int, size: int = 2) -> bytes:
    line = RequestLine(index, f"line {index}", "m", b"{}")
    body = b'{"text":"%b"}' % (b"x" * size)
    return reply_line(TAG, line, Reply(status_code=200, request_id="req_1", body=body))


def ordered(tmp_path: Path, lines: Sequence[bytes], total: int) -> bytes:
    source, target = tmp_path / "results", tmp_path / "ordered"
    source.write_bytes(b"".join(lines))
    write_ordered(source, target, TAG, total)
    return target.read_bytes()


def test_results_come_in_the_order_of_the_input_byte_for_byte(tmp_path: Path) -> None:
    chance = random.Random(1)  # noqa: S311 - the same each time
    lines = [result(index, chance.randrange(3000)) for index in range(2000)]
    mixed = chance.sample(lines, len(lines))
    assert ordered(tmp_path, mixed, len(lines)) == b"".join(lines)


def test_lines_that_stand_in_the_other_file_are_left_out(tmp_path: Path) -> None:
    lines = [result(index) for index in (7, 2, 5)]
    assert ordered(tmp_path, lines, 9) == result(2) + result(5) + result(7)


def test_what_an_earlier_life_wrote_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "ordered").write_bytes(b"half a li" * 1000)
    assert ordered(tmp_path, [result(0)], 1) == result(0)


@pytest.mark.parametrize("damaged", [result(1)[:-3] + b"x}\n", result(9), b"\n"])
def test_a_damaged_line_is_said_and_not_passed_on(tmp_path: Path, damaged: bytes) -> None:
    with pytest.raises(FileCorrupt):
        ordered(tmp_path, [result(0), damaged], 3)


def test_a_full_disk_is_said_with_what_is_not_lost(tmp_path: Path) -> None:
    source = tmp_path / "results"
    source.write_bytes(result(0))
    why = "put in order in /dev: No space left on device; nothing is lost"
    with pytest.raises(RunRefused, match=why):
        write_ordered(source, Path("/dev/full"), TAG, 1)
