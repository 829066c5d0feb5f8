"""Result lines are judged here as recovery judges them."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchd.ids import batch_tag
from batchd.ledger import Bitmap, Tally, recover
from batchd.model import LineFile, Reply, RequestLine
from batchd.upkeep import steps
from batchd.upkeep.results import Account, account
from batchd.wire.lines import CANCELLED, INPUT_LOST, never_run_line, reply_line
from tests.support.fakes import OK, HastyDisk
from tests.unit.upkeep.conftest import taken

TAG = batch_tag("batch_" + "0" * 24 + "0123abcd")
TOTAL = 4


def line(index: int) -> bytes:
    return reply_line(TAG, RequestLine(index, f"line-{index}", "m", b"{}"), OK)


def judge(path: Path, *, known_end: int | None = None, total: int = TOTAL) -> Account:
    return taken(account(path, TAG, Bitmap(total), known_end=known_end))[1]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.one_of(
            st.integers(0, TOTAL).map(line),
            st.binary(max_size=40),
            st.integers(0, TOTAL - 1).map(lambda index: line(index)[:-5]),
        ),
        max_size=6,
    ),
    st.integers(0, 6),
    st.sampled_from([30, 1 << 20]),
)
def test_what_is_damage_to_recovery_is_damage_here_and_nothing_else(
    tmp_path: Path, pieces: list[bytes], known: int, piece: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(pieces))
    known_end = len(b"".join(pieces[:known]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "PIECE", piece)
        seen = judge(path, known_end=known_end)
    done = Bitmap(TOTAL)
    found = recover(
        HastyDisk(),
        path,
        LineFile.OUTPUT,
        tag=TAG,
        known_end=known_end,
        distrust=False,
        done=done,
        tally=Tally(),
    )
    assert bool(seen.bad) == found.damaged
    assert seen.good == done.count
    if found.damaged:
        assert seen.offset == found.bad_at


def test_lines_that_are_too_long_for_memory_are_judged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.upkeep.results.PIECE", 100)
    monkeypatch.setattr(steps, "PIECE", 100)
    monkeypatch.setattr(steps.groups, "__defaults__", (150,))
    body = b'{"text":"' + b"x" * 2000 + b'"}'
    long = [
        reply_line(
            TAG, RequestLine(0, "a", "m", b"{}"), Reply(status_code=200, request_id="r", body=body)
        ),
        never_run_line(TAG, 2, "c" * 500, CANCELLED),
        never_run_line(TAG, 3, "d" * 500, INPUT_LOST),
    ]
    path = tmp_path / "file"
    path.write_bytes(long[0] + line(1) + long[1] + long[2])
    seen = judge(path)
    assert (seen.good, seen.never_run, seen.bad, seen.tail) == (4, 1, 0, 0)
    for at in (3, 30, 1000, len(long[0]) - 1):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        (tmp_path / "bad").write_bytes(data)
        seen = judge(tmp_path / "bad")
        assert (seen.bad, seen.line, seen.offset) == (1, 1, 0)
        assert seen.good == (2 if at == len(long[0]) - 1 else 3)


def test_what_is_one_endless_line_is_one_bad_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps.groups, "__defaults__", (1 << 20,))
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(line(0))
        file.truncate(20 << 20)
    seen = judge(path)
    assert (seen.good, seen.bad, seen.line, seen.offset) == (1, 1, 2, len(line(0)))
