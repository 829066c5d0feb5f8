import os
import threading
from pathlib import Path

import pytest

from batchd.disk import Disk
from batchd.oneshot.handover import Target, hand_over
from batchd.oneshot.place import RunRefused


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "results"
    path.write_bytes(b"a result\n")
    return path


def target(path: Path, *, force: bool = False) -> Target:
    return Target(path=path, mode=0o640, force=force)


def test_results_are_a_second_name_for_the_same_bytes(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    hand_over(Disk(), source, target(out), "tag")
    assert out.samefile(source)
    assert out.stat().st_mode & 0o777 == 0o640


def test_a_target_that_has_these_bytes_is_left_as_it_is(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(source.read_bytes())
    hand_over(Disk(), source, target(out), "tag")
    assert not out.samefile(source)


def test_another_file_is_not_overwritten_unless_forced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"mine\n")
    with pytest.raises(RunRefused, match="was left alone"):
        hand_over(Disk(), source, target(out), "tag")
    assert out.read_bytes() == b"mine\n"
    hand_over(Disk(), source, target(out, force=True), "tag")
    assert out.read_bytes() == b"a result\n"
    assert {path.name for path in tmp_path.iterdir()} == {"results", "out.jsonl"}


def test_a_symbolic_link_stays_one_and_what_it_names_is_written(
    source: Path, tmp_path: Path
) -> None:
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(real)
    hand_over(Disk(), source, target(link), "tag")
    assert link.is_symlink()
    assert real.read_bytes() == b"a result\n"


def test_a_pipe_is_written_to_where_it_stands(source: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    hand_over(Disk(), source, target(pipe), "tag")
    reader.join()
    assert read == [b"a result\n"]
    assert pipe.is_fifo()


def test_a_reader_that_goes_away_is_said_and_nothing_is_lost(source: Path, tmp_path: Path) -> None:
    source.write_bytes(b"x" * (4 << 20))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def read_a_little() -> None:
        with pipe.open("rb") as file:
            file.read(10)

    reader = threading.Thread(target=read_a_little)
    reader.start()
    with pytest.raises(RunRefused, match=r"nobody reads .*pipe any more; nothing is lost"):
        hand_over(Disk(), source, target(pipe), "tag")
    reader.join()
    assert source.stat().st_size == 4 << 20


def test_a_full_disk_is_said_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    class Full(Disk):
        def link_or_copy(self, source: Path, target: Path) -> None:
            target.write_bytes(source.read_bytes()[:3])
            raise OSError(28, "No space left on device")

    out = tmp_path / "out.jsonl"
    with pytest.raises(RunRefused, match="No space left on device; nothing is lost"):
        hand_over(Full(), source, target(out), "tag")
    assert {path.name for path in tmp_path.iterdir()} == {"results"}


def test_a_device_needs_no_check(tmp_path: Path) -> None:
    null = target(Path(os.devnull))
    null.check_place()
    null.check_free()
    assert null.is_stream
    assert not target(tmp_path / "none").is_stream
