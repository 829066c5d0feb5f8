"""Files are read in small steps, whatever is in them."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchd.upkeep import steps
from batchd.upkeep.steps import Group, groups, opened, sha256
from tests.unit.upkeep.conftest import taken

pieces_of_text = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"x" * 9]), max_size=40)


def told(path: Path, longest: int) -> list[Group]:
    with opened(path) as file:
        return list(groups(file, longest))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pieces_of_text, st.integers(1, 12), st.integers(1, 30))
def test_every_line_is_told_once_with_its_offset(
    tmp_path: Path, text: list[bytes], piece: int, longest: int
) -> None:
    path = tmp_path / "file"
    data = b"".join(text)
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "PIECE", piece)
        found = told(path, longest)
    lines: list[tuple[int, bytes]] = []
    for group in found:
        at = group.offset
        if group.long:
            assert group.long > longest
            assert not group.lines
            lines.append((at, data[at : at + group.long]))
        for line in group.lines:
            assert len(line) <= longest + piece
            lines.append((at, line))
            at += len(line)
    assert b"".join(line for _, line in lines) == data
    assert [line for _, line in lines] == [
        line + b"\n" * (number < data.count(b"\n"))
        for number, line in enumerate(data.split(b"\n"))
        if line or number < data.count(b"\n")
    ]
    assert all(data[at : at + len(line)] == line for at, line in lines)
    assert sum(group.read for group in found) == len(data)


def test_a_checksum_is_taken_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "PIECE", 4)
    (tmp_path / "file").write_bytes(b"0123456789")
    done, digest = taken(sha256(tmp_path / "file"))
    assert digest == hashlib.sha256(b"0123456789").hexdigest()
    assert [step.bytes for step in done] == [4, 4, 2]
