"""Reading a ledger back in groups comes to what reading it line by line would come to.

The reference here is the simplest reading there is: split, check each line, count it. The files are
larger than a group, so that lines, damage and repetitions stand across its borders.
"""

import random
from pathlib import Path

import pytest

from batchd.ledger import Bitmap, Tally, recover
from batchd.model import NO_USAGE, Failure, FailureKind, LineFile, Reply, RequestLine, Usage
from batchd.wire.lines import (
    CANCELLED,
    check_result_line,
    failure_line,
    is_never_run,
    never_run_line,
    reply_line,
)
from batchd.wire.usage import result_usage
from tests.support.fakes import HastyDisk

TAG = b"0123abcd"
LINES = 3000  # of about 300 bytes: several groups


def output_line(index: int) -> bytes:
    body = b'{"text":"%b","usage":{"prompt_tokens":%d,"completion_tokens":2}}' % (
        b"x" * (index % 331),
        index % 7,
    )
    reply = Reply(status_code=200, request_id="r", body=body)
    return reply_line(TAG, RequestLine(index, f"line-{index}", "m", b""), reply)


def error_line(index: int) -> bytes:
    if index % 3 == 0:
        return never_run_line(TAG, index, f"line-{index}", CANCELLED)
    line = RequestLine(index, f"line-{index}" + "y" * (index % 200), "m", b"")
    return failure_line(TAG, line, Failure(FailureKind.TIMEOUT))


def spoilt(data: bytes, places: int, chance: random.Random) -> bytes:
    """``data`` with a few bytes changed, a stretch of zeros, a line repeated, and a torn tail."""
    damaged = bytearray(data)
    for _ in range(places):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    if places:
        start = chance.randrange(len(damaged) - 600)
        damaged[start : start + 512] = bytes(512)
        lines = bytes(damaged).splitlines(keepends=True)
        lines.insert(chance.randrange(len(lines)), chance.choice(lines))
        damaged = bytearray(b"".join(lines))
    return bytes(damaged) + b'{"id":"batch_req_0123'


def line_by_line(data: bytes, which: LineFile) -> tuple[bytes, set[int], list[int], Usage]:
    """What is good of ``data``, which lines that makes done, and their counts and usage."""
    kept: list[bytes] = []
    done: set[int] = set()
    counts = [0, 0, 0]
    usage = NO_USAGE
    for text in data.split(b"\n")[:-1]:
        line = text + b"\n"
        index = check_result_line(TAG, line)
        if index is None or index >= LINES or index in done:
            continue
        done.add(index)
        kept.append(line)
        if which is LineFile.OUTPUT:
            counts[0] += 1
            usage += result_usage(line)
        else:
            counts[2 if is_never_run(line) else 1] += 1
    return b"".join(kept), done, counts, usage


@pytest.mark.parametrize("which", LineFile)
@pytest.mark.parametrize("places", [0, 1, 5, 200])
def test_groups_come_to_what_single_lines_come_to(
    tmp_path: Path, which: LineFile, places: int
) -> None:
    chance = random.Random(f"{which} {places}")  # noqa: S311 - the same damage each time
    order = list(range(LINES + 5))  # the last five are beyond the batch's end
    chance.shuffle(order)
    make = output_line if which is LineFile.OUTPUT else error_line
    path = tmp_path / "file-1"
    path.write_bytes(spoilt(b"".join(make(index) for index in order), places, chance))
    kept, indexes, counts, usage = line_by_line(path.read_bytes(), which)
    done, tally = Bitmap(LINES), Tally()
    found = recover(
        HastyDisk(),
        path,
        which,
        tag=TAG,
        known_end=0,
        distrust=False,
        done=done,
        tally=tally,
    )
    assert path.read_bytes() == kept
    assert found.end == len(kept)
    assert {index for index in range(LINES) if index in done} == indexes
    assert done.count == len(indexes) == sum(counts)
    assert [tally.completed, tally.failed, tally.never_run] == counts
    assert tally.usage == usage
    assert len(indexes) == LINES or places


def test_a_line_longer_than_many_groups_is_read_back(tmp_path: Path) -> None:
    body = b'{"text":"%b","usage":{"prompt_tokens":5}}' % (b"x" * 3_000_000)
    reply = Reply(status_code=200, request_id="r", body=body)
    long = reply_line(TAG, RequestLine(7, "long", "m", b""), reply)
    path = tmp_path / "file-1"
    path.write_bytes(output_line(1) + long + output_line(2) + long[:-1])
    done, tally = Bitmap(LINES), Tally()
    recover(
        HastyDisk(),
        path,
        LineFile.OUTPUT,
        tag=TAG,
        known_end=0,
        distrust=False,
        done=done,
        tally=tally,
    )
    assert [index for index in range(LINES) if index in done] == [1, 2, 7]
    assert tally.usage.input_tokens == 1 + 2 + 5
    assert path.read_bytes() == output_line(1) + long + output_line(2)
