import hashlib
import os
import threading
from pathlib import Path

import pytest

from batchd.oneshot.place import RunRefused
from batchd.oneshot.source import opened

LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {}}\n'


def test_a_file_is_known_by_its_checksum_and_read_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(LINE * 3)
    with opened(path, tmp_path) as source:
        assert source.sha256 == hashlib.sha256(LINE * 3).hexdigest()
        assert (source.name, source.size, source.is_stream) == ("in.jsonl", 3 * len(LINE), False)


def test_a_pipe_is_kept_in_a_file_without_a_name(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    beside = tmp_path / "beside"
    beside.mkdir()
    writer = threading.Thread(target=pipe.write_bytes, args=(LINE,))
    writer.start()
    with opened(pipe, beside) as source:
        assert (source.size, source.is_stream) == (len(LINE), True)
        assert source.endpoint() == "/v1/embeddings"
        source.file.seek(0)
        assert source.file.read() == LINE
        assert list(beside.iterdir()) == []
    writer.join()


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b"\n  \r\n"])
def test_the_endpoint_is_that_of_the_first_line(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(head + LINE)
    with opened(path, tmp_path) as source:
        assert source.endpoint() == "/v1/embeddings"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "in.jsonl is empty"),
        (b"\n\n", "in.jsonl is empty"),
        (b"hello\n", "not a JSON object with a url"),
        (b'{"custom_id": "a"}\n', "not a JSON object with a url"),
        (b'{"url": "\xff"}\n', "not a JSON object with a url"),
        (b"[1]\n", "not a JSON object with a url"),
    ],
)
def test_an_input_that_names_no_endpoint_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(data)
    with opened(path, tmp_path) as source, pytest.raises(RunRefused, match=why):
        source.endpoint()


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match="there is no file"), opened(tmp_path / "no", tmp_path):
        pass


def test_a_directory_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match="cannot be read"), opened(tmp_path, tmp_path):
        pass


def test_an_input_that_fails_while_it_is_read_is_named(tmp_path: Path) -> None:
    broken = Path("/proc/self/mem")  # a file of which the first page is not there
    with pytest.raises(RunRefused, match=r"mem cannot be read: "), opened(broken, tmp_path):
        pass


def test_a_stream_that_cannot_be_kept_names_the_directory(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    keeper = os.open(pipe, os.O_RDWR)
    beside = tmp_path / "gone"
    why = rf"pipe cannot be kept in {beside}: No such file or directory; .*--state"
    with pytest.raises(RunRefused, match=why), opened(pipe, beside):
        pass
    os.close(keeper)


def test_a_name_that_is_not_utf8_is_told_with_a_mark_for_what_it_cannot_say(
    tmp_path: Path,
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    path.write_bytes(LINE)
    with opened(path, tmp_path) as source:
        assert source.name == "caf\ufffd.jsonl"
