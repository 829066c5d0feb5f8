"""Every line has one place, beside those that it shares a model and a beginning with."""

import contextlib
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd import gathering
from batchd.gathering import Gathered, Gathering, Group

Line = tuple[str, int]

LINES = st.lists(
    st.tuples(
        st.sampled_from(["m", "n", "é"]),
        st.sampled_from([level << 16 | below for level in range(4) for below in range(4)]),
    ),
    max_size=60,
)
MANY = st.lists(st.tuples(st.just("m"), st.integers(0, 40).map(lambda level: level << 16)))


def gather(lines: list[Line], *, even_if_plain: bool = True) -> Gathered | None:
    with contextlib.closing(Gathering(Path(tempfile.gettempdir()), no_pause)) as gathered:
        for model, signature in lines:
            gathered.add(model, signature)
        return gathered.gathered(even_if_plain=even_if_plain)


def no_pause() -> None:
    pass


def groups_of(lines: list[Line]) -> list[tuple[Group, list[int]]]:
    found = gather(lines)
    assert found is not None
    return [
        (group, list(found.lines[group.start : group.start + group.count]))
        for group in found.groups
    ]


@given(LINES)
def test_every_line_has_one_position(lines: list[Line]) -> None:
    found = gather(lines)
    assert found is not None
    assert sorted(found.lines) == list(range(len(lines)))
    end = 0
    for group in found.groups:
        assert group.start == end
        assert group.count > 0
        end += group.count
    assert end == len(lines)


@given(LINES)
def test_a_group_is_all_lines_of_a_model_and_a_beginning(lines: list[Line]) -> None:
    together = Counter((model, signature >> 16) for model, signature in lines)
    seen: set[tuple[str, int]] = set()
    for group, members in groups_of(lines):
        assert {lines[at][0] for at in members} == {group.model}
        assert (group.model, group.signature) not in seen
        seen.add((group.model, group.signature))
        assert group.is_rest is (group.signature == 0)
        if not group.is_rest:
            assert {lines[at][1] >> 16 for at in members} == {group.signature >> 16}
            assert group.count == together[group.model, group.signature >> 16] > 1


@given(LINES)
def test_a_group_goes_by_level_2_then_by_the_input_and_a_rest_by_the_input(
    lines: list[Line],
) -> None:
    for group, members in groups_of(lines):
        if group.is_rest:
            assert members == sorted(members)
        else:
            assert members == sorted(members, key=lambda at: (lines[at][1] & 0xFFFF, at))


@given(LINES)
def test_groups_stand_in_the_order_of_their_first_lines(lines: list[Line]) -> None:
    firsts = [min(members) for _, members in groups_of(lines)]
    assert firsts == sorted(firsts)


@given(MANY)
def test_only_the_largest_groups_are_kept(lines: list[Line]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "MAX_GROUPS", 3)
        kept = [group.count for group, _ in groups_of(lines) if not group.is_rest]
    together = Counter(signature for _, signature in lines if signature)
    several = sorted(count for count in together.values() if count > 1)
    assert sorted(kept) == several[-3:]


@given(LINES)
def test_slices_and_a_file_on_disk_change_nothing(lines: list[Line]) -> None:
    whole = gather(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "_SLICE", 2)
        patch.setattr(gathering, "_IN_MEMORY", 16)
        assert gather(lines) == whole


def test_beginnings_seen_too_seldom_to_be_remembered_cost_only_groups() -> None:
    lines = [("m", 1 << 16)] * 4 + [("m", at << 16) for at in range(2, 40)] * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "_SLICE", 4)
        patch.setattr(gathering, "_COUNTED", 8)
        found = groups_of(lines)
    assert sum(group.count for group, _ in found) == len(lines)
    assert found[0][0] == Group("m", 1 << 16, 0, 4, is_rest=False)


@pytest.mark.parametrize(
    ("lines", "is_plain"),
    [
        ([], True),
        ([("m", 0)] * 3, True),
        ([("m", 1 << 16), ("m", 2 << 16)], True),  # each alone with its beginning
        ([("m", 1 << 16 | 5)] * 2, True),
        ([("m", 1 << 16 | 5), ("m", 1 << 16 | 6)], True),
        ([("m", 1 << 16 | 6), ("m", 1 << 16 | 5)], False),
        ([("m", 1 << 16)] * 2 + [("m", 0)], False),
        ([("m", 0), ("n", 0)], False),
    ],
)
def test_one_group_as_in_the_input_says_nothing(lines: list[Line], is_plain: bool) -> None:
    assert (gather(lines, even_if_plain=False) is None) is is_plain


def test_more_model_names_than_are_kept_are_told() -> None:
    with contextlib.closing(Gathering(Path(tempfile.gettempdir()))) as gathered:
        gathered.add("m" * 16_000_000, 0)
        assert not gathered.has_too_many_models
        gathered.add("n" * 1_000_000, 0)
        assert gathered.has_too_many_models


@pytest.mark.parametrize("signature", [0, 1 << 16 | 5])
def test_a_few_lines_are_gathered_without_a_pause(tmp_path: Path, signature: int) -> None:
    with contextlib.closing(Gathering(tmp_path, pytest.fail)) as gathered:
        for _ in range(1000):
            gathered.add("m", signature)
        assert gathered.gathered(even_if_plain=True) is not None


def test_what_a_pause_raises_ends_the_gathering(tmp_path: Path) -> None:
    def pause() -> None:
        raise InterruptedError

    with contextlib.closing(Gathering(tmp_path, pause)) as gathered:
        for _ in range(1025):
            gathered.add("m", 0)
        with pytest.raises(InterruptedError):
            gathered.gathered()
    assert list(tmp_path.iterdir()) == []
