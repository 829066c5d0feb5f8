"""The order file says what was gathered, or is not believed; and it can be made anew."""

import contextlib
import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.gathering import Gathering, Group
from batchd.grouping import LineOrder, Order, open_order, rebuild_order, write_order
from batchd.jsonl import IndexWriter

CHAT = "/v1/chat/completions"
LINES = [("m", 1 << 16 | 2), ("n", 0), ("m", 1 << 16 | 1), ("m", 5 << 16), ("é\n", 0), ("n", 0)]
GROUPS = [
    Group("m", 1 << 16, 0, 2, is_rest=False),
    Group("n", 0, 2, 2, is_rest=True),
    Group("m", 0, 4, 1, is_rest=True),
    Group("é\n", 0, 5, 1, is_rest=True),
]
POSITIONS = [2, 0, 1, 5, 3, 4]


def write(path: Path, lines: list[tuple[str, int]], *, even_if_plain: bool = False) -> Path:
    with contextlib.closing(Gathering(path.parent)) as gathering:
        for model, signature in lines:
            gathering.add(model, signature)
        write_order(gathering, path, even_if_plain=even_if_plain)
    return path


def opened(path: Path, total: int, model: str | None = None) -> LineOrder:
    order = open_order(path, total=total, model=model)
    assert order is not None
    return order


def positions(order: LineOrder) -> list[int]:
    return list(order.read(0, 1 << 20))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "order", LINES)


def test_what_was_written_is_read(path: Path) -> None:
    order = opened(path, 6)
    assert order.groups == GROUPS
    assert positions(order) == POSITIONS


@given(start=st.integers(0, 8), count=st.integers(0, 8))
def test_any_positions_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, start: int, count: int
) -> None:
    path = write(tmp_path_factory.mktemp("read") / "order", LINES)
    order = opened(path, 6)
    assert list(order.read(start, count)) == POSITIONS[start : start + count]


def test_without_a_file_a_batch_of_one_model_goes_as_in_the_input(tmp_path: Path) -> None:
    order = opened(tmp_path / "order", 5, "m")
    assert order.groups == [Group("m", 0, 0, 5, is_rest=True)]
    assert list(order.read(3, 9)) == [3, 4]
    assert list(order.read(5, 1)) == list(order.read(9, 1)) == []


def test_without_a_file_a_batch_of_several_models_has_no_order(tmp_path: Path) -> None:
    assert open_order(tmp_path / "order", total=5, model=None) is None


def test_an_order_that_says_nothing_is_not_written_and_an_old_one_is_removed(path: Path) -> None:
    write(path, [("m", 0)] * 3)
    assert not path.exists()
    write(path, [("m", 0)] * 3, even_if_plain=True)
    order = opened(path, 3)
    assert order.groups == [Group("m", 0, 0, 3, is_rest=True)]
    assert positions(order) == [0, 1, 2]


def test_an_order_with_any_byte_changed_is_not_used(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(len(whole)):
        for flipped in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flipped]) + whole[at + 1 :])
            assert open_order(path, total=6, model=None) is None


def test_an_order_that_is_cut_or_longer_is_not_used(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert open_order(path, total=6, model=None) is None
    path.write_bytes(whole + b"\0")
    assert open_order(path, total=6, model=None) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_no_order(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "order"
    path.write_bytes(data)
    assert open_order(path, total=6, model="m") is None
    path.write_bytes(b"batchd-1" + data)
    assert open_order(path, total=6, model="m") is None


def test_an_order_of_another_number_of_lines_is_not_used(path: Path) -> None:
    assert open_order(path, total=5, model=None) is None


def test_an_order_that_is_cut_while_it_is_open_says_so(path: Path) -> None:
    order = opened(path, 6)
    os.truncate(path, path.stat().st_size - 1)
    assert list(order.read(0, 5)) == POSITIONS[:5]
    with pytest.raises(EOFError):
        order.read(0, 6)


def test_no_descriptor_is_left_open(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    order = opened(path, 6)
    assert list(order.read(0, 2)) == POSITIONS[:2]
    assert open_order(path, total=5, model=None) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("code", "is_damage"), [(errno.EIO, True), (errno.ENOMEM, False)])
def test_a_bad_sector_is_damage_and_other_errors_pass(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_damage: bool
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pread", fail)
    if is_damage:
        assert open_order(path, total=6, model=None) is None
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            open_order(path, total=6, model=None)


# -- made anew


def request(model: str, system: str) -> bytes:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "?"}]
    body: dict[str, object] = {"model": model, "messages": messages}
    return json.dumps({"custom_id": "a", "url": CHAT, "body": body}).encode()


class Held:
    """A batch's own files."""

    def __init__(self, folder: Path) -> None:
        self.input, self.index, self.order = (folder / n for n in ("input", "index", "order"))

    def hold(self, lines: list[bytes]) -> None:
        self.input.write_bytes(b"".join(line + b"\n" for line in lines))
        index, offset = IndexWriter(self.index), 0
        for line in lines:
            index.add(offset, len(line))
            offset += len(line) + 1
        index.close()

    def rebuild(self, order: Order = "prefix") -> None:
        rebuild_order(self.input, self.index, self.order, order=order)


@pytest.fixture
def held(tmp_path: Path) -> Held:
    held = Held(tmp_path)
    held.hold([request("m", "x"), request("n", "x"), request("m", "y"), request("m", "x")])
    return held


def test_an_order_is_made_anew_from_the_input(held: Held) -> None:
    held.order.write_bytes(b"damaged")
    held.rebuild()
    order = opened(held.order, 4)
    assert [(g.model, g.count, g.is_rest) for g in order.groups] == [
        ("m", 2, False),
        ("n", 1, True),
        ("m", 1, True),
    ]
    assert positions(order) == [0, 3, 1, 2]


def test_an_order_as_in_the_input_has_a_group_for_each_model(held: Held) -> None:
    held.rebuild("input")
    order = opened(held.order, 4)
    assert [(g.model, g.signature, g.count) for g in order.groups] == [("m", 0, 3), ("n", 0, 1)]
    assert positions(order) == [0, 2, 3, 1]


def test_what_is_made_anew_is_written_even_if_it_says_nothing(held: Held) -> None:
    held.hold([request("m", "x")])
    held.rebuild()
    order = opened(held.order, 1)
    assert positions(order) == [0]


def test_a_lost_line_goes_with_the_one_before_it(held: Held) -> None:
    held.hold([b"\0" * 9, request("m", "x"), b"{}", request("n", "x"), request("m", "x")])
    os.truncate(held.input, held.input.stat().st_size - 2)
    held.rebuild()
    order = opened(held.order, 5)
    assert [(g.model, g.count) for g in order.groups] == [("m", 3), ("n", 2)]
    assert positions(order) == [0, 1, 2, 3, 4]


def test_an_input_that_has_lost_every_line_has_no_order(held: Held) -> None:
    held.input.write_bytes(b"")
    with pytest.raises(EOFError):
        held.rebuild()


def test_making_it_anew_can_be_ended(held: Held) -> None:
    def pause() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        rebuild_order(held.input, held.index, held.order, order="prefix", pause=pause)
    assert not held.order.exists()
