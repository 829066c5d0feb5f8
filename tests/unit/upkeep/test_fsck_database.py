"""What a look over a storage directory makes of its database, and of a place that is none."""

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from batchd.errors import ConfigError
from batchd.spool import Spool
from batchd.store import readonly
from batchd.upkeep.backup import back_up
from tests.support.fakes import START, HastyDisk
from tests.support.parts import opened
from tests.unit.upkeep.conftest import Looked, Storage


@pytest.fixture
def stopped(tmp_path: Path) -> Spool:
    """The directory of a daemon that has ended, with a file and a batch in it."""

    async def fill() -> None:
        async with opened(tmp_path / "state") as parts:
            await Storage(parts).fill()

    asyncio.run(fill())
    return Spool(tmp_path / "state", HastyDisk())


def look(spool: Spool, *, quick: bool = False) -> Looked:
    return Looked(spool, quick=quick, now=START)


def refusal(spool: Spool) -> str:
    with pytest.raises(ConfigError) as caught:
        look(spool)
    return str(caught.value)


def test_a_stopped_directory_is_looked_over_and_nothing_is_made_in_it(stopped: Spool) -> None:
    before = sorted(path.name for path in stopped.directory.rglob("*"))
    assert look(stopped).findings == []
    assert sorted(path.name for path in stopped.directory.rglob("*")) == before


def test_a_backup_can_be_looked_over(stopped: Spool, tmp_path: Path) -> None:
    back_up(stopped.directory, tmp_path / "copy", lambda _done, _of: None)
    looked = look(Spool(tmp_path / "copy", HastyDisk()))
    assert (looked.findings, looked.files) == ([], 8)


@pytest.mark.parametrize("left", [None, b""])
def test_a_database_that_is_gone_is_damage_where_there_are_files(
    stopped: Spool, left: bytes | None
) -> None:
    stopped.database.unlink()
    if left is not None:
        stopped.database.write_bytes(left)
    looked = look(stopped)
    assert looked.kinds == [("database_missing", "batchd.db")]
    assert "batchd does not start without it; restore" in looked.findings[0].sentence
    assert stopped.database.exists() == (left is not None)


def test_where_batchd_has_never_run_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    assert "there is no storage directory" in refusal(Spool(tmp_path / "none", HastyDisk()))
    assert "batchd has never run on it" in refusal(Spool(tmp_path, HastyDisk()))
    assert list(tmp_path.iterdir()) == []


def test_the_database_of_another_program_is_said(stopped: Spool) -> None:
    stopped.database.unlink()
    connection = sqlite3.connect(stopped.database)
    connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    assert look(stopped).kinds == [("database_foreign", "batchd.db")]


def test_a_database_that_makes_no_sense_is_said_and_ends_the_look(stopped: Spool) -> None:
    data = stopped.database.read_bytes()
    stopped.database.write_bytes(b"no database " * 1000)
    looked = look(stopped)
    assert looked.kinds == [("database_damaged", "batchd.db")]
    assert "is damaged (file is not a database): stop batchd and restore" in (
        looked.findings[0].sentence
    )
    stopped.database.write_bytes(data[: len(data) // 2])
    assert {kind for kind, _ in look(stopped).kinds} == {"database_damaged"}


def test_a_fault_that_leaves_rows_readable_does_not_end_the_look(stopped: Spool) -> None:
    connection = sqlite3.connect(stopped.database, isolation_level=None)
    connection.execute("PRAGMA writable_schema = 1")
    connection.execute(
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = "
        "'batch_by_owner') WHERE name = 'file_by_owner'"
    )
    connection.close()
    looked = look(stopped)
    assert {kind for kind, _ in looked.kinds} == {"database_damaged"}
    assert looked.files == 8


def test_rows_that_make_no_sense_are_said_and_the_others_are_looked_at(stopped: Spool) -> None:
    connection = sqlite3.connect(stopped.database, isolation_level=None)
    connection.execute("UPDATE file SET purpose = 'mischief' WHERE seq = 1")
    connection.execute("UPDATE batch SET counts = 'no JSON' WHERE status = 'cancelled'")
    connection.close()
    looked = look(stopped)
    assert looked.kinds == [("row_damaged", "batchd.db"), ("row_damaged", "batchd.db")]
    assert "Invalid enum value 'mischief'" in looked.findings[0].sentence
    assert looked.findings[0].batch is None
    assert str(looked.findings[1].batch).startswith("batch_")
    assert looked.files == 7


def test_a_place_that_may_not_be_read_is_said(
    stopped: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> object:
        raise PermissionError(13, "Permission denied", str(stopped.directory))

    monkeypatch.setattr("batchd.upkeep.leftovers.os.scandir", refuse)
    assert "cannot be looked at: Permission denied" in refusal(stopped)


def test_a_directory_without_its_folders_misses_what_was_in_them(stopped: Spool) -> None:
    for folder in stopped.folders:
        shutil.rmtree(folder)
    kinds = [kind for kind, _ in look(stopped, quick=True).kinds]
    assert kinds == [
        *["file_missing"] * 4,
        "input_missing",
        "index_missing",
        *["ledger_missing"] * 2,
    ]


def test_many_rows_are_read_page_by_page(stopped: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readonly, "PAGE", 1)
    assert (look(stopped).findings, look(stopped).files) == ([], 8)
