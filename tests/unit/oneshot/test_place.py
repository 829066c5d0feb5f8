import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchd.disk import Disk
from batchd.oneshot.place import Begun, RunRefused, locked

BEGUN = Begun(
    batch_id="batch_1",
    input_file_id="file-1",
    input="in.jsonl",
    sha256="a" * 64,
    endpoint="/v1/embeddings",
)
OTHER = "b" * 64


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl.batchd"


def begin(directory: Path) -> None:
    with locked(directory, Disk()) as place:
        place.begin(BEGUN)
        (directory / "batchd.db").touch()


def test_a_place_where_nothing_was_begun_leaves_with_its_lock(directory: Path) -> None:
    with locked(directory, Disk()) as place:
        assert place.begun() is None
        (directory / "files").mkdir()
        (directory / "files" / "file-1").touch()
    assert not directory.exists()


def test_what_somebody_else_has_put_there_stays(directory: Path) -> None:
    with locked(directory, Disk()) as place:
        place.begin(BEGUN)
        (directory / "theirs").mkdir()
        (directory / "answers.jsonl").write_bytes(b"{}\n")
        place.end()
    assert sorted(path.name for path in directory.iterdir()) == ["answers.jsonl", "theirs"]


def test_what_was_begun_stays_until_it_is_over(directory: Path) -> None:
    begin(directory)
    with locked(directory, Disk()) as place:
        assert place.begun() == BEGUN
        place.end()
    assert not directory.exists()


def test_the_same_input_goes_on_with_and_without_force(directory: Path) -> None:
    begin(directory)
    for force in (False, True):
        with locked(directory, Disk()) as place:
            found = place.settle("in.jsonl", BEGUN.sha256, BEGUN.endpoint, force=force)
            assert found == BEGUN


@pytest.mark.parametrize(
    ("sha256", "endpoint"), [(OTHER, BEGUN.endpoint), (BEGUN.sha256, "/v1/completions")]
)
def test_another_input_is_refused_with_what_to_do(
    directory: Path, sha256: str, endpoint: str
) -> None:
    begin(directory)
    with locked(directory, Disk()) as place:
        with pytest.raises(RunRefused, match=r"unfinished run of 'in.jsonl' for /v1/emb.*--force"):
            place.settle("other.jsonl", sha256, endpoint, force=False)
        assert place.begun() == BEGUN


def test_another_input_with_force_finds_an_empty_place(directory: Path) -> None:
    begin(directory)
    with locked(directory, Disk()) as place:
        assert place.settle("other.jsonl", OTHER, BEGUN.endpoint, force=True) is None
        assert [path.name for path in directory.iterdir()] == ["ABOUT"]


def test_what_a_kill_left_without_its_word_is_cleared_away(directory: Path) -> None:
    begin(directory)
    (directory / "run.json").rename(directory / "run.json.new")
    with locked(directory, Disk()) as place:
        assert place.settle("in.jsonl", BEGUN.sha256, BEGUN.endpoint, force=False) is None
        assert [path.name for path in directory.iterdir()] == ["ABOUT"]


def test_the_storage_of_a_daemon_is_refused_and_left_as_it_is(directory: Path) -> None:
    directory.mkdir()
    (directory / "batchd.db").touch()
    (directory / "files").mkdir()
    with pytest.raises(RunRefused, match=r"batchd\.db in it is not a run's"):
        begin(directory)
    assert {path.name for path in directory.iterdir()} == {"batchd.db", "files"}


def test_what_somebody_put_into_a_runs_place_is_said_and_stays(directory: Path) -> None:
    begin(directory)
    (directory / "letters").touch()
    with pytest.raises(RunRefused, match="letters in it"), locked(directory, Disk()):
        pass
    assert (directory / "letters").exists()


def test_a_file_in_its_place_is_refused(directory: Path) -> None:
    directory.touch()
    with pytest.raises(RunRefused, match="it is a file"), locked(directory, Disk()):
        pass


def test_a_link_in_its_place_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunRefused, match="a link"), locked(directory, Disk()):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_place_that_others_may_write_to_is_refused(directory: Path) -> None:
    begin(directory)
    directory.chmod(0o777)
    with pytest.raises(RunRefused, match="writable by everybody"), locked(directory, Disk()):
        pass
    assert (directory / "batchd.db").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_place_of_another_user_is_not_believed(directory: Path) -> None:
    begin(directory)
    os.chown(directory, 12345, -1)
    with pytest.raises(RunRefused, match="another user's"), locked(directory, Disk()):
        pass


def test_a_place_is_one_runs_at_a_time(directory: Path) -> None:
    with locked(directory, Disk()):
        with pytest.raises(RunRefused, match="at work on the same output"):
            begin(directory)
        assert directory.exists()


def test_whoever_gets_a_place_has_the_one_that_is_there(directory: Path) -> None:
    """Each that leaves takes the directory with it, while others are just getting at it."""
    inside: list[int] = []
    faults: list[str] = []
    entered: list[int] = []

    def come_and_go(who: int) -> None:
        for _ in range(50):
            with contextlib.suppress(RunRefused), locked(directory, Disk()):
                inside.append(who)
                (directory / "run.log").write_text(str(who))
                if inside != [who] or (directory / "run.log").read_text() != str(who):
                    faults.append(f"{who} was not alone: {inside}")
                entered.append(who)
                inside.remove(who)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(come_and_go, range(3)))
    assert faults == []
    assert entered
    assert not directory.exists()


def test_a_word_that_nobody_can_read_is_said(directory: Path) -> None:
    begin(directory)
    (directory / "run.json").write_text("{")
    with (
        pytest.raises(RunRefused, match=r"remove .*batchd to begin anew"),
        locked(directory, Disk()) as place,
    ):
        place.begun()


def test_a_full_disk_names_the_directory_and_what_is_lost(directory: Path) -> None:
    class Full(Disk):
        def append(self, descriptor: int, data: bytes) -> None:  # noqa: ARG002 - the disk's
            raise OSError(28, "No space left on device")

    why = rf"{directory} cannot be written: No space left on device; nothing was sent"
    with pytest.raises(RunRefused, match=why), locked(directory, Full()):
        pass
