"""The spool: one daemon a directory, names of its own, and strays told by age."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchd.disk import Disk
from batchd.errors import ConfigError
from batchd.spool import Spool
from tests.support.fakes import HastyDisk


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool", HastyDisk())
    spool.prepare()
    return spool


def test_preparing_makes_what_is_missing_and_leaves_the_rest(spool: Spool) -> None:
    spool.file("file-1").write_bytes(b"x")
    spool.database.write_bytes(b"a database")
    spool.prepare()
    assert sorted(path.name for path in spool.directory.iterdir()) == [
        "batchd.db",
        "batches",
        "files",
        "incoming",
    ]
    assert spool.file("file-1").exists()


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="is writable by everybody"):
        Spool(folder, Disk()).prepare()


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=f"the storage directory {place} cannot be used"):
            Spool(place, Disk()).prepare()


def test_somebody_elses_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=f"belongs to user {owner}, not to {owner + 1}"):
        Spool(tmp_path, Disk()).prepare()


def test_files_without_their_database_are_not_taken_for_orphans(spool: Spool) -> None:
    spool.prepare()
    spool.database.write_bytes(b"")
    spool.prepare()  # a first start that was killed
    for lost in (spool.file("file-1"), spool.input("batch_1").parent):
        lost.mkdir()
        for left in (None, b""):
            spool.database.unlink(missing_ok=True)
            if left is not None:
                spool.database.write_bytes(left)
            with pytest.raises(ConfigError, match=r"has files but no batchd\.db, or an empty one"):
                spool.prepare()
        lost.rmdir()
    spool.file("file-1").write_bytes(b"somebody's results")
    spool.database.write_bytes(b"a database")
    spool.prepare()


def test_two_daemons_do_not_share_a_directory(spool: Spool) -> None:
    second = Spool(spool.directory, Disk())
    with (
        spool.locked(),
        pytest.raises(ConfigError, match="another batchd is running"),
        second.locked(),
    ):
        pass
    with second.locked():
        pass


def test_an_upload_is_published_and_held(spool: Spool) -> None:
    spool.incoming("abc").write_bytes(b"bytes")
    spool.publish(spool.incoming("abc"), "file-1")
    assert not spool.incoming("abc").exists()
    for _ in range(2):  # once more after a crash
        spool.hold("file-1", "batch_1")
    spool.file("file-1").unlink()
    assert spool.input("batch_1").read_bytes() == b"bytes"
    spool.index("batch_1").write_bytes(b"")
    spool.order("batch_1").write_bytes(b"")
    spool.scratch("batch_1").mkdir()
    spool.release("batch_1")
    spool.release("batch_1")
    assert not spool.input("batch_1").parent.exists()


def test_while_a_backup_runs_nothing_is_removed(spool: Spool) -> None:
    spool.file("file-1").write_bytes(b"bytes")
    spool.hold("file-1", "batch_1")
    backup, other = Spool(spool.directory, Disk()), Spool(spool.directory, Disk())
    with spool.locked():
        with backup.kept():
            with other.kept():  # a second one, to another place
                assert not spool.discard("file-1")
            assert not spool.discard("file-1")
            assert not spool.release("batch_1")
        assert (spool.file("file-1").exists(), spool.input("batch_1").exists()) == (True, True)
        assert spool.release("batch_1")
        assert spool.discard("file-1")
        assert spool.discard("file-1"), "what is gone already is no backup's"
    assert not spool.file("file-1").exists()
    assert not spool.input("batch_1").parent.exists()


def test_threads_that_remove_at_once_are_not_taken_for_a_backup(spool: Spool) -> None:
    names = [f"file-{number}" for number in range(200)]
    for name in names:
        spool.file(name).write_bytes(b"")
    with spool.locked(), ThreadPoolExecutor(8) as threads:
        assert all(threads.map(spool.discard, names))


def test_a_hold_where_links_do_not_reach_is_a_copy(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.file("file-1").write_bytes(b"bytes")

    def refuse(_target: Path, _source: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    spool.hold("file-1", "batch_1")
    assert spool.input("batch_1").read_bytes() == b"bytes"


def test_a_file_that_has_gone_cannot_be_held(spool: Spool) -> None:
    with pytest.raises(FileNotFoundError):
        spool.hold("file-1", "batch_1")


def test_strays_are_told_by_their_age(spool: Spool) -> None:
    for age in (100, 200, 300):
        for path in (spool.incoming(f"u{age}"), spool.file(f"f{age}")):
            path.write_bytes(b"")
            os.utime(path, (age, age))
        folder = spool.input(f"b{age}").parent
        folder.mkdir()
        os.utime(folder, (age, age))
    incoming, files, batches = spool.strays(before=300)
    assert sorted(incoming) == [spool.incoming("u100"), spool.incoming("u200")]
    assert (sorted(files), sorted(batches)) == (["f100", "f200"], ["b100", "b200"])


def test_a_name_that_vanishes_under_the_look_is_no_stray(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.incoming("abc").write_bytes(b"")

    def gone(_path: Path) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "lstat", gone)
    assert spool.strays(before=1e12) == ([], [], [])
