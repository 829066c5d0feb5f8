"""Lines of a file, however it comes in pieces; and the index that finds them again."""

import io
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.jsonl import IndexedLines, IndexWriter, entries, line_groups, lines

TEXT = st.lists(
    st.sampled_from([b"a", b"\n", b"\r\n", b"\r", "\u2028\x85é".encode(), b"bcdefg"]), max_size=60
).map(b"".join)


class Dribble(io.BytesIO):
    """Gives as much as it likes, up to what was asked for."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self._sizes = sizes

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._sizes.pop() if self._sizes else 1 << 20
        return super().read(min(wanted, size or wanted))


@given(TEXT, st.integers(1, 9), st.lists(st.integers(1, 9), max_size=30))
def test_lines_are_what_split_finds(data: bytes, piece: int, sizes: list[int]) -> None:
    found = list(lines(Dribble(data, sizes), piece))
    texts = [text for _, text in found]
    assert b"".join(texts) == data
    assert [text.removesuffix(b"\n") for text in texts] == data.removesuffix(b"\n").split(b"\n")[
        : len(texts)
    ]
    assert len(texts) == data.count(b"\n") + (data[-1:] not in (b"", b"\n"))
    assert all(data[at : at + len(text)] == text for at, text in found)


@given(TEXT, st.integers(1, 9), st.lists(st.integers(1, 9), max_size=30))
def test_a_group_is_a_piece_of_lines_at_most_and_what_was_begun(
    data: bytes, piece: int, sizes: list[int]
) -> None:
    groups = list(line_groups(Dribble(data, sizes), piece))
    longest = max((len(text) for _, group in groups for text in group), default=0)
    offset = 0
    for at, group in groups:
        assert at == offset
        assert 0 < len(b"".join(group)) <= longest + piece
        offset += len(b"".join(group))
    assert b"".join(b"".join(group) for _, group in groups) == data


def test_a_line_of_many_pieces_is_one_line() -> None:
    data = b"x" * 100_000 + b"\nlast"
    assert list(lines(io.BytesIO(data), 7)) == [(0, data[:100_001]), (100_001, b"last")]


@given(
    st.lists(st.sampled_from([b"\n", b"a", b"\0", b"\0" * 9, b"bc\n"])).map(b"".join),
    st.integers(1, 9),
)
def test_only_long_lines_with_zeros_are_passed_over(data: bytes, piece: int) -> None:
    found: list[tuple[int, bytes]] = []
    for at, group in line_groups(io.BytesIO(data), piece, without_zeros=True):
        start = at
        for line in group:
            found.append((start, line))
            start += len(line)
    passed_over = set(lines(io.BytesIO(data))) - set(found)
    assert all(data[at : at + len(line)] == line for at, line in found)
    assert all(b"\0" in line for _, line in passed_over)
    whole = [(at, line) for at, line in lines(io.BytesIO(data)) if b"\0" not in line]
    assert [entry for entry in found if b"\0" not in entry[1]] == whole


def test_a_region_of_zeros_is_never_in_memory() -> None:
    good = b"good\n"
    holes = Zeros(good, 64 << 20)
    tracemalloc.start()
    found = [line for _, group in line_groups(holes, 1 << 16, without_zeros=True) for line in group]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [good]
    assert most < 1 << 20


class Zeros:
    """A line, then nothing but zeros."""

    def __init__(self, line: bytes, size: int) -> None:
        self._line = line
        self._left = size

    def read(self, size: int, /) -> bytes:
        line, self._line = self._line, b""
        if line:
            return line
        size = min(size, self._left)
        self._left -= size
        return bytes(size)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "input", tmp_path / "index"


def write(paths: tuple[Path, Path], texts: list[bytes]) -> IndexedLines:
    paths[0].write_bytes(b"".join(text + b"\n" for text in texts))
    index, offset = IndexWriter(paths[1]), 0
    for text in texts:
        index.add(offset, len(text))
        offset += len(text) + 1
    index.close()
    assert index.count == len(texts)
    return IndexedLines(*paths)


def test_an_index_finds_every_line(paths: tuple[Path, Path]) -> None:
    texts = [b"%d" % number for number in range(10_000)]
    indexed = write(paths, texts)
    assert len(indexed) == len(texts)
    assert paths[1].stat().st_size == 16 * len(texts)
    for index in (0, 4096, 9999):
        assert indexed.read(index) == texts[index]
        assert indexed.length(index) == len(texts[index])
    for index in (-1, 10_000):
        with pytest.raises(IndexError):
            indexed.read(index)
    indexed.close()


def test_the_entries_of_an_index_can_be_read_in_order(paths: tuple[Path, Path]) -> None:
    texts = [b"%d" % number for number in range(10_000)]
    write(paths, texts).close()
    with paths[1].open("ab") as file:
        file.write(b"half an entry"[:9])
    found = list(entries(paths[1]))
    assert [length for _, length in found] == [len(text) for text in texts]
    data = paths[0].read_bytes()
    assert [data[offset : offset + length] for offset, length in found] == texts


def test_an_entry_ends_with_the_signature(paths: tuple[Path, Path]) -> None:
    index = IndexWriter(paths[1])
    index.add(0, 5, 0x12345678)
    index.add(6, 5)
    index.close()
    found = paths[1].read_bytes()
    assert (found[12:16], found[28:]) == (b"\x78\x56\x34\x12", b"\0\0\0\0")
    assert list(entries(paths[1])) == [(0, 5), (6, 5)]


def test_what_was_added_can_be_flushed_before_the_end(paths: tuple[Path, Path]) -> None:
    index = IndexWriter(paths[1])
    index.add(0, 5)
    index.flush()
    assert paths[1].stat().st_size == 16
    index.close()


def test_a_file_without_lines_has_an_index_without_entries(paths: tuple[Path, Path]) -> None:
    indexed = write(paths, [])
    assert len(indexed) == 0
    with pytest.raises(IndexError):
        indexed.length(0)
    indexed.close()


@pytest.mark.parametrize(("offset", "length"), [(8, 6), (13, 1), (1 << 63, 1), (0, (1 << 32) - 1)])
def test_an_entry_that_is_not_in_the_input_is_noticed_before_it_is_read(
    paths: tuple[Path, Path], offset: int, length: int
) -> None:
    """A damaged length must not cost memory, nor a damaged offset the daemon."""
    write(paths, [b"first", b"second"]).close()
    writer = IndexWriter(paths[1])
    writer.add(offset, length)
    writer.close()
    indexed = IndexedLines(*paths)
    for look in (indexed.length, indexed.read):
        with pytest.raises(EOFError, match="behind the end of the input"):
            look(0)
    indexed.close()


def test_an_input_that_was_cut_is_noticed(paths: tuple[Path, Path]) -> None:
    indexed = write(paths, [b"first", b"second"])
    os.truncate(paths[0], 8)
    assert indexed.read(0) == b"first"
    with pytest.raises(EOFError, match="before request line 1"):
        indexed.read(1)
    indexed.close()


def test_an_index_that_is_cut_while_it_is_open_is_noticed(paths: tuple[Path, Path]) -> None:
    indexed = write(paths, [b"%d" % number for number in range(1000)])
    os.truncate(paths[1], 16)
    assert indexed.read(0) == b"0"
    with pytest.raises(EOFError, match="the index ends before request line 900"):
        indexed.read(900)
    indexed.close()


def test_a_read_in_pieces_is_whole(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed = write(paths, [b"first", b"second"])
    pread = os.pread

    def read_a_piece(descriptor: int, size: int, at: int) -> bytes:
        return pread(descriptor, min(size, 2), at)

    monkeypatch.setattr(os, "pread", read_a_piece)
    assert indexed.read(1) == b"second"
    indexed.close()


def test_a_missing_index_leaves_nothing_open(paths: tuple[Path, Path]) -> None:
    paths[0].write_bytes(b"")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        IndexedLines(*paths)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
