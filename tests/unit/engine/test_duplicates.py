"""Equal ids are found in bounded memory; a hash alone convicts nobody."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.engine import duplicates
from batchd.engine.duplicates import Duplicates, Suspect, confirmed


def lines_found(ids: Sequence[str], scratch: Path, at_most: int = 100) -> list[int]:
    """The lines, counted from 1, whose id stood in an earlier one."""
    search = Duplicates(scratch)
    for index, custom_id in enumerate(ids):
        search.add(custom_id, index, index + 1)
    return [found.line_no for found, _ in confirmed(search.suspects(at_most), lambda at: ids[at])]


def really(ids: Sequence[str]) -> list[int]:
    return [at + 1 for at, custom_id in enumerate(ids) if custom_id in ids[:at]]


@given(ids=st.lists(st.text(max_size=2), max_size=30))
def test_exactly_the_later_ones_are_found(ids: list[str]) -> None:
    assert lines_found(ids, Path("never-used")) == really(ids)


@given(ids=st.lists(st.text(max_size=2), max_size=30))
def test_few_ids_stay_in_memory(ids: list[str]) -> None:
    lines_found(ids, Path("never-used"))
    assert not Path("never-used").exists()


@pytest.mark.parametrize("number", [2_000, 80_000])
def test_many_ids_go_to_disk_and_are_found_there(tmp_path: Path, number: int) -> None:
    ids = [f"r{at}" for at in range(number)]
    ids += ["r0", f"r{number - 1}", "new", "r0"]
    found = lines_found(ids, tmp_path / "scratch")
    assert found == [number + 1, number + 2, number + 4]
    assert (tmp_path / "scratch").exists() is (number > 64 * 1024)


def test_one_id_on_every_line_fills_one_bucket(tmp_path: Path) -> None:
    assert lines_found(["same"] * 5_000, tmp_path / "scratch", 3) == [2, 3, 4]


def test_the_first_lines_are_told_when_there_are_too_many() -> None:
    ids = [f"r{at % 50}" for at in range(500)]
    assert lines_found(ids, Path("never-used"), 10) == list(range(51, 61))


def test_equal_hashes_of_different_ids_are_no_duplicates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def same(_: str) -> int:
        return 7

    monkeypatch.setattr(duplicates, "hash", same, raising=False)
    assert lines_found(["a", "b", "c"], Path("never-used")) == []


def test_only_equal_ids_are_confirmed() -> None:
    suspects = [Suspect(2, 1, 0), Suspect(3, 2, 0)]
    assert confirmed(suspects, lambda at: "aab"[at]) == [(suspects[0], "a")]


def test_a_line_whose_id_cannot_be_told_is_no_duplicate() -> None:
    assert confirmed([Suspect(2, 1, 0)], lambda _: None) == []
