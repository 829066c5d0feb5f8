import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.cli.errors import CommandFailed
from batchd.cli.parts import Most, Part, split

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


def request(number: int, size: int = 60) -> bytes:
    return json.dumps({"custom_id": str(number), "pad": "x" * size}).encode() + b"\n"


def embedding(given: object) -> bytes:
    return json.dumps({"url": EMBEDDINGS, "body": {"input": given}}).encode() + b"\n"


def cut(path: Path, parts: list[Part]) -> list[bytes]:
    content = path.read_bytes()
    return [content[part.span.start : part.span.end] for part in parts]


def test_a_file_that_fits_is_not_divided(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(map(request, range(10))))
    size = path.stat().st_size
    for most in (Most(), Most(lines=10, size=size), Most(lines=1000)):
        assert split(path, CHAT, most) == []


def test_it_is_divided_at_the_ends_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    lines = [request(number) for number in range(10)]
    path.write_bytes(b"".join(lines))
    parts = split(path, CHAT, Most(lines=4))
    assert cut(path, parts) == [b"".join(lines[:4]), b"".join(lines[4:8]), b"".join(lines[8:])]
    assert [(part.before, part.lines) for part in parts] == [(0, 4), (4, 4), (8, 2)]
    by_size = split(path, CHAT, Most(size=3 * len(lines[0])))
    assert [part.lines for part in by_size] == [3, 3, 3, 1]


def test_blank_lines_count_for_no_part_and_keep_the_line_numbers_right(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n" + request(1) + b"\n\n" + request(2) + b" \n" + request(3) + b"\n")
    parts = split(path, CHAT, Most(lines=1))
    assert cut(path, parts) == [request(1), request(2), request(3)]
    assert [part.before for part in parts] == [1, 4, 6]


def test_a_file_that_is_too_large_for_its_blank_lines_alone_becomes_one_part(
    tmp_path: Path,
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n" * 500 + request(1))
    (part,) = split(path, CHAT, Most(size=200))
    assert cut(path, [part]) == [request(1)]


def test_a_line_that_fits_nowhere_is_said(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(request(1) + request(2, size=5000))
    with pytest.raises(CommandFailed, match=r"line 2 of .*in.jsonl is longer than 1.0 KiB"):
        split(path, CHAT, Most(size=1024))


def test_embedding_inputs_are_counted_as_batchd_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    given: list[object] = ["one", ["a", "b", "c"], [1, 2, 3], [[1], [2]], [], "last"]
    path.write_bytes(b"".join(map(embedding, given)) + b"not json\n")
    parts = split(path, EMBEDDINGS, Most(inputs=4))
    assert [part.lines for part in parts] == [2, 4, 1]
    assert split(path, CHAT, Most(inputs=4)) == []


def test_a_line_with_too_many_inputs_is_left_to_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(embedding("a") + embedding(["b"] * 9) + embedding("c"))
    assert [part.lines for part in split(path, EMBEDDINGS, Most(inputs=2))] == [1, 1, 1]


@given(
    st.lists(st.sampled_from([b"", b" ", b"{}", b"x" * 90, b'{"a":1}']), max_size=40),
    st.integers(1, 9),
    st.integers(100, 400),
)
def test_the_parts_hold_every_line_once_and_none_is_too_large(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], most: int, size: int
) -> None:
    path = tmp_path_factory.mktemp("parts") / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    parts = split(path, CHAT, Most(lines=most, size=size))
    found = [line for part in cut(path, parts) for line in part.splitlines() if line.strip()]
    if parts:
        assert found == [line for line in lines if line.strip()]
    assert all(part.lines <= most and part.span.end - part.span.start <= size for part in parts)


def test_the_smaller_of_two_limits_holds() -> None:
    told = {"max_requests": 50_000, "max_embedding_inputs": 9, "max_upload_size": 1024**2}
    most = Most.of(told, lines=10, size=None)  # pyright: ignore[reportArgumentType] - as JSON gives it
    assert most == Most(10, 1024**2, 9)
    assert most.told(CHAT) == "10 lines, 1.0 MiB"
    assert most.told(EMBEDDINGS) == "10 lines, 1.0 MiB, 9 inputs"
    assert Most.of(None, lines=None, size=512).told(CHAT) == "512 B"
