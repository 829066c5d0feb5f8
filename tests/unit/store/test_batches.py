"""Table ``batch``: what is stored comes back, and a status moves only from a known old one."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from batchd.model import BatchRecord, Counts, LineError, Progress, Usage
from batchd.states import UNFINISHED, BatchStatus
from batchd.store import batches as table
from batchd.store.database import Database
from batchd.store.migrations import migrations


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.opened(tmp_path / "batchd.db", pytest.fail) as opened:
        yield opened


def batch(name: str, status: BatchStatus = BatchStatus.VALIDATING, **more: object) -> BatchRecord:
    record = BatchRecord(
        id=name,
        owner="local",
        status=status,
        endpoint="/v1/embeddings",
        input_file_id="file-in",
        completion_window="24h",
        output_expires_after=3600,
        created_at=1000,
        expires_at=2000,
        output_file_id=f"{name}-out",
        error_file_id=f"{name}-err",
    )
    return msgspec.structs.replace(record, **more)


async def add(database: Database, *records: BatchRecord) -> None:
    for record in records:
        await database.write(lambda tx, one=record: table.insert(tx, one))


FULL = {
    "model": "m",
    "metadata": {"é": "\u2028"},
    "in_progress_at": 1,
    "finalizing_at": 2,
    "completed_at": 3,
    "failed_at": 4,
    "expired_at": 5,
    "cancelling_at": 6,
    "cancelled_at": 7,
    "errors": [LineError("code", "text", "param", 3), LineError("code", "text")],
    "counts": Counts(3, 2, 1),
    "usage": Usage(1, 2, 3, 4, 5),
    "output_end": 10,
    "error_end": 20,
    "notes": ["a note"],
}


async def test_a_row_comes_back_as_it_was(database: Database) -> None:
    first, second = batch("a"), batch("b", metadata={"k": "v"}, priority=3, source="inbox")
    await add(database, first, second)
    found = await table.get(database, "local", "b")
    assert found == msgspec.structs.replace(second, seq=2)
    assert await table.get(database, "other", "b") is None
    assert await table.find(database, "a") == msgspec.structs.replace(first, seq=1)
    assert await table.find(database, "c") is None


async def test_every_column_that_changes_is_written(database: Database) -> None:
    await add(database, batch("a", metadata=FULL["metadata"]))
    changed = batch("a", BatchStatus.FAILED, **FULL)
    assert await database.write(lambda tx: table.update(tx, BatchStatus.VALIDATING, changed))
    assert await table.find(database, "a") == msgspec.structs.replace(changed, seq=1)
    assert not await database.write(lambda tx: table.update(tx, BatchStatus.VALIDATING, changed))

    async def seen(tx: table.aiosqlite.Connection) -> list[BatchRecord | None]:
        return [await table.current(tx, "a"), await table.current(tx, "b")]

    assert await database.write(seen) == [msgspec.structs.replace(changed, seq=1), None]


async def test_what_is_listed_as_unfinished_is_what_is_not_terminal(database: Database) -> None:
    await add(database, *(batch(status.value, status) for status in BatchStatus))
    expected = {status.value: status for status in UNFINISHED}
    assert {record.id for record in await table.unfinished(database)} == set(expected)
    controls = await table.controls(database)
    assert {name: control.status for name, control in controls.items()} == expected
    for status in BatchStatus:
        for kind in ("out", "err"):
            found = await database.row(table.OWNS_FILE, {"file_id": f"{status}-{kind}"})
            assert (found is not None) == (status in UNFINISHED)


def test_every_list_of_statuses_in_sql_is_a_known_one() -> None:
    unfinished = {status.value for status in UNFINISHED}
    statements = [value for name, value in vars(table).items() if name.isupper()]
    texts = [text for text in statements if isinstance(text, str)]
    texts += [script for _, script in migrations()]
    lists = [found for text in texts for found in re.findall(r"status IN \(([^)]*)\)", text)]
    assert len(lists) >= 5
    for found in lists:
        named = set(re.findall(r"'(\w+)'", found))
        assert named in (
            unfinished,
            unfinished - {"validating"},  # has a ledger
            {"validating", "in_progress"},  # has a window that may close
        )


async def test_windows_that_have_ended_are_found(database: Database) -> None:
    await add(database, *(batch(status.value, status) for status in BatchStatus))
    await add(database, batch("sooner", expires_at=1500), batch("done", BatchStatus.COMPLETED))
    assert await table.next_window_end(database) == 1500
    assert [record.id for record in await table.overdue(database, 1499)] == []
    assert [record.id for record in await table.overdue(database, 1500)] == ["sooner"]
    assert {record.id for record in await table.overdue(database, 2000)} == {
        "sooner",
        "validating",
        "in_progress",
    }


async def test_without_batches_no_window_ends(database: Database) -> None:
    assert await table.next_window_end(database) is None


async def test_a_checkpoint_is_for_batches_with_a_ledger_only(database: Database) -> None:
    await add(database, *(batch(status.value, status) for status in BatchStatus))
    for status in BatchStatus:
        await database.write(
            lambda tx, name=status.value: table.checkpoint(
                tx, name, Progress(Counts(9, 9), output_end=5, error_end=6)
            )
        )
    written = [status for status in BatchStatus if (await _row(database, status)).output_end == 5]
    assert set(written) == UNFINISHED - {BatchStatus.VALIDATING}


async def _row(database: Database, name: str) -> BatchRecord:
    found = await table.find(database, name)
    assert found is not None
    return found


async def test_notes_are_added_one_by_one(database: Database) -> None:
    await add(database, batch("a"))
    for note in ("one", 'two "quoted"'):
        await database.write(lambda tx, text=note: table.add_note(tx, "a", text))
    assert (await _row(database, "a")).notes == ["one", 'two "quoted"']


async def test_a_note_on_a_row_whose_notes_are_damaged_ends_nothing(database: Database) -> None:
    await add(database, batch("a"))
    await database.write(lambda tx: tx.execute("UPDATE batch SET notes = '[}'"))
    await database.write(lambda tx: table.add_note(tx, "a", "one"))
    row = await database.row("SELECT notes FROM batch", {})
    assert row == {"notes": "[}"}


async def test_pages_are_newest_first(database: Database) -> None:
    await add(database, *(batch(name) for name in "abcd"), batch("x", owner="other"))
    after = await table.seq_of(database, "local", "c")
    assert [one.id for one in await table.page(database, "local", after=None, limit=2)] == [
        "d",
        "c",
    ]
    assert [one.id for one in await table.page(database, "local", after=after, limit=9)] == [
        "b",
        "a",
    ]
    assert await table.seq_of(database, "other", "c") is None
