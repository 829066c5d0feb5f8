from pathlib import Path

import pytest

from batchd.cli.errors import CommandFailed
from batchd.cli.multipart import FileForm, Span, Stamp, open_file


def test_the_form_is_as_long_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / 'na"me é.jsonl'
    path.write_bytes(b"x" * 600_000)
    form = FileForm(path, "batch", path.name)
    with open_file(path) as file:
        size = form.size(file)
        pieces = list(form.pieces(file))
    body = b"".join(pieces)
    assert len(body) == size
    assert max(map(len, pieces)) <= 256 * 1024
    assert 'filename="na%22me é.jsonl"'.encode() in body
    boundary = form.content_type.removeprefix("multipart/form-data; boundary=").encode()
    assert body.endswith(b"\r\n--" + boundary + b"--\r\n")


@pytest.mark.parametrize("change", [b"", b"xxx", b"xxxxxxx"])
def test_a_file_that_changes_meanwhile_is_never_sent_to_its_end(
    tmp_path: Path, change: bytes
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"xxxxx")
    with open_file(path) as file:
        pieces = FileForm(path, "batch", path.name).pieces(file)
        next(pieces)
        path.write_bytes(change)
        with pytest.raises(CommandFailed, match="changed while it was uploaded"):
            list(pieces)


def test_a_part_is_what_stands_there_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"one\ntwo\nthree\n")
    with open_file(path) as file:
        form = FileForm(path, "batch", "part.jsonl", Span(4, 8, Stamp.of(file)))
        body = b"".join(form.pieces(file))
        assert len(body) == form.size(file)
    assert b"\r\n\r\ntwo\n\r\n--" in body


def test_a_part_of_a_file_that_changed_since_it_was_divided_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"one\ntwo\n")
    with open_file(path) as file:
        span = Span(4, 8, Stamp.of(file))
    path.write_bytes(b"one\ntwo\nmore\n")
    with open_file(path) as file, pytest.raises(CommandFailed, match="changed while"):
        list(FileForm(path, "batch", "part.jsonl", span).pieces(file))
