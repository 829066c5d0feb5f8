"""The database is read as it lies there, whoever has it open, and nothing is made or changed."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from batchd.errors import ConfigError
from batchd.findings import DamageKind
from batchd.store import readonly
from batchd.store.migrations import APPLICATION_ID, migrations
from batchd.store.readonly import BadRow, DatabaseDamaged, ReadOnly

NEWEST = migrations()[-1][0]
ADD = "INSERT INTO file (id, filename, purpose, bytes, created_at) VALUES (?, 'a', 'batch', 3, 5)"
KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2], ("file-late",))
os._exit(9)
"""


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def make(path: Path) -> None:
    """A database as the daemon leaves it behind, with two files."""
    connection = connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    for number, script in migrations():
        connection.executescript(f"{script};\nPRAGMA user_version = {number};")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for name in ("file-a", "file-b"):
        connection.execute(ADD, (name,))
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state" / "batchd.db"
    path.parent.mkdir()
    make(path)
    return path


def ids(path: Path) -> list[str]:
    with ReadOnly.opened(path) as database:
        return [record.id for page in database.live_files(0) for record in page]


def listing(path: Path) -> dict[str, int]:
    return {item.name: item.stat().st_size for item in path.parent.iterdir()}


def killed(path: Path) -> None:
    """A process that dies without closing leaves what it wrote in the WAL."""
    command = [sys.executable, "-c", KILLED, str(path), ADD]
    assert subprocess.run(command, check=False).returncode == 9  # noqa: S603 - our own program


def test_a_closed_database_is_read_and_nothing_is_made(path: Path) -> None:
    assert list(listing(path)) == ["batchd.db"]
    before = path.read_bytes()
    assert ids(path) == ["file-a", "file-b"]
    assert list(listing(path)) == ["batchd.db"]
    assert path.read_bytes() == before


def test_what_a_killed_daemon_left_in_the_wal_is_read_and_stays_there(path: Path) -> None:
    killed(path)
    before = listing(path)
    assert before["batchd.db-wal"] > 0
    assert ids(path) == ["file-a", "file-b", "file-late"]
    assert listing(path) == before


def test_a_wal_without_its_index_is_read_and_nothing_is_made(path: Path) -> None:
    killed(path)
    path.with_name("batchd.db-shm").unlink()
    before = listing(path)
    assert ids(path) == ["file-a", "file-b", "file-late"]
    assert listing(path) == before


def test_what_is_written_meanwhile_is_seen(path: Path) -> None:
    writer = connect(path)
    writer.execute("BEGIN")
    writer.execute(ADD, ("file-c",))
    with ReadOnly.opened(path) as database:
        assert database.file("file-c") is None
        writer.execute("COMMIT")
        assert database.file("file-c") is not None
    writer.close()


def test_a_daemon_may_start_and_end_meanwhile(path: Path) -> None:
    with ReadOnly.opened(path) as database:
        assert not database.is_live("file-c", 0)
        writer = connect(path)
        writer.execute(ADD, ("file-c",))
        assert database.is_live("file-c", 0)
        writer.close()
        assert database.is_live("file-c", 0)
    assert path.stat().st_size > 0


def test_an_error_of_a_way_in_that_has_changed_is_no_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon starts right behind the look at what lies there."""
    daemons: list[sqlite3.Connection] = []
    real = readonly.connect

    def and_a_daemon(path: Path, way: readonly.Way) -> sqlite3.Connection:
        if not daemons:
            daemons.append(connect(path))
            daemons[0].execute(ADD, ("file-c",))
            raise sqlite3.OperationalError
        return real(path, way)

    monkeypatch.setattr(readonly, "connect", and_a_daemon)
    assert ids(path) == ["file-a", "file-b", "file-c"]
    daemons[0].close()


def test_rows_come_in_pages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readonly, "PAGE", 2)
    connection = connect(path)
    for number in range(3):
        connection.execute(ADD, (f"file-{number}",))
    connection.close()
    with ReadOnly.opened(path) as database:
        assert [len(page) for page in database.live_files(0)] == [2, 2, 1]


def test_a_row_that_is_no_record_is_told_and_the_others_are_read(path: Path) -> None:
    connection = connect(path)
    connection.execute("UPDATE file SET purpose = 'mischief' WHERE id = 'file-a'")
    connection.execute("UPDATE file SET filename = CAST(X'FF' AS TEXT) WHERE id = 'file-b'")
    connection.close()
    with ReadOnly.opened(path) as database:
        ((bad, good),) = database.live_files(0)
        assert isinstance(bad, BadRow)
        assert bad.id == "file-a"
        assert "Invalid enum value 'mischief'" in bad.reason
        assert not isinstance(good, BadRow)
        assert good.filename == "\ufffd"
        assert database.file("file-a") is None


def damage_of(path: Path) -> tuple[DamageKind, str]:
    with pytest.raises(DatabaseDamaged) as caught, ReadOnly.opened(path) as database:
        list(database.live_files(0))
    assert caught.value.finding.path == "batchd.db"
    return caught.value.kind, str(caught.value)


def refusal_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught, ReadOnly.opened(path):
        pass
    return str(caught.value)


def test_a_database_that_is_not_there_is_not_made(path: Path) -> None:
    path.unlink()
    assert damage_of(path)[0] is DamageKind.DATABASE_MISSING
    assert listing(path) == {}


def test_an_empty_file_is_no_database(path: Path) -> None:
    path.write_bytes(b"")
    assert damage_of(path)[0] is DamageKind.DATABASE_MISSING
    assert listing(path) == {"batchd.db": 0}


def test_a_database_of_another_program_is_told_from_one_that_is_damaged(path: Path) -> None:
    path.unlink()
    connection = connect(path)
    connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    assert damage_of(path)[0] is DamageKind.DATABASE_FOREIGN


@pytest.mark.parametrize("harm", ["text", "zeros", "cut"])
def test_a_damaged_database_is_said(path: Path, harm: str) -> None:
    data = path.read_bytes()
    header = data[:4096]
    left = {"text": b"no database " * 1000, "zeros": header.ljust(len(data), b"\0"), "cut": header}
    path.write_bytes(left[harm])
    kind, reason = damage_of(path)
    assert kind is DamageKind.DATABASE_DAMAGED
    assert ("file is not a database" if harm == "text" else "malformed") in reason


def test_what_sqlite_finds_wrong_is_listed(path: Path) -> None:
    with ReadOnly.opened(path) as database:
        assert database.faults() == []
    connection = connect(path)
    # An index that has lost its entries: rows are there, and cannot be found by their id.
    connection.execute("PRAGMA writable_schema = 1")
    connection.execute(
        "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = "
        "'batch_by_owner') WHERE name = 'file_by_owner'"
    )
    connection.close()
    with ReadOnly.opened(path) as database:
        assert any("file_by_owner" in fault for fault in database.faults())


@pytest.mark.parametrize(
    ("version", "words"),
    [(NEWEST + 1, "newer than this batchd's"), (NEWEST - 1, "older than this batchd's")],
)
def test_a_schema_that_this_program_does_not_know_is_no_damage(
    path: Path, version: int, words: str
) -> None:
    connection = connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = path.read_bytes()
    assert words in refusal_of(path)
    assert path.read_bytes() == before


def test_a_database_that_cannot_be_opened_is_no_damage(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> sqlite3.Connection:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorname = "SQLITE_CANTOPEN"
        raise error

    monkeypatch.setattr(readonly, "connect", refuse)
    assert f"the database {path} cannot be read: unable to open" in refusal_of(path)
