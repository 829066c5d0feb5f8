"""A file and its row: what an upload leaves behind, and what a name may be."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.damage import Damage
from batchd.disk import Disk
from batchd.errors import BatchdError, FileCorrupt, InvalidRequest, NoRoom, NotFound, TooLarge
from batchd.files import Files, clean_filename
from batchd.metrics import Metrics
from batchd.model import FileRecord
from batchd.room import Room
from batchd.spool import Spool
from batchd.store.database import Database

UNKNOWN = "file-" + "0" * 22


class Clock:
    def __init__(self) -> None:
        self.instant = 1000.0

    def __call__(self) -> float:
        return self.instant


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "state", Disk())
    spool.prepare()
    return spool


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(spool: Spool) -> AsyncIterator[Database]:
    async with Database.opened(spool.database, pytest.fail) as database:
        yield database


def make(database: Database, spool: Spool, clock: Clock, *, reserve: int = 0) -> Files:
    return Files(
        database,
        spool,
        max_size=1000,
        room=Room(spool.disk, spool.directory, reserve=reserve),
        damage=Damage(Metrics()),
        lifetime=500,
        now=clock,
        draw=secrets.token_bytes,
    )


@pytest.fixture
def files(database: Database, spool: Spool, clock: Clock) -> Files:
    return make(database, spool, clock)


async def create(
    files: Files,
    *pieces: bytes,
    owner: str = "local",
    purpose: str = "batch",
    expires_after: int | None = None,
) -> FileRecord:
    async with files.receive() as upload:
        for piece in pieces:
            await upload.write(piece)
        return await files.create(
            owner, upload, filename="in.jsonl", purpose=purpose, expires_after=expires_after
        )


def names(spool: Spool) -> list[str]:
    places = (spool.incoming("-").parent, spool.file("-").parent)
    return sorted(path.name for place in places for path in place.iterdir())


async def test_a_file_is_its_bytes_and_its_row(files: Files, spool: Spool) -> None:
    record = await create(files, b'{"a"', b": 1}\n")
    found, path = await files.find_bytes("local", record.id)
    assert path.read_bytes() == b'{"a": 1}\n'
    assert (found.bytes, found.created_at, found.expires_at) == (9, 1000, 1500)
    assert found.sha256 == record.sha256
    assert names(spool) == [record.id]


@pytest.mark.parametrize(
    ("pieces", "purpose", "error"),
    [
        ([b"x"], "batch", InvalidRequest),
        ([b'{"\xff"'], "batch", InvalidRequest),
        ([b'"\xe2\x80'], "batch", InvalidRequest),
        ([b"{}"], "none", InvalidRequest),
        ([b"{}", b" " * 999], "batch", TooLarge),
    ],
)
async def test_a_refused_upload_leaves_nothing(
    files: Files, spool: Spool, pieces: list[bytes], purpose: str, error: type[BatchdError]
) -> None:
    with pytest.raises(error):
        await create(files, *pieces, purpose=purpose)
    assert names(spool) == []
    assert await listed(files) == []


async def listed(files: Files, owner: str = "local") -> list[str]:
    records, _ = await files.page(owner, purpose=None, after=None, limit=100, ascending=True)
    return [record.id for record in records]


async def test_a_character_may_come_in_two_pieces(files: Files) -> None:
    content = '{"🦆": 1}'.encode()
    for cut in range(len(content)):
        assert (await create(files, content[:cut], content[cut:])).bytes == len(content)


async def test_an_upload_that_is_given_up_leaves_nothing(files: Files, spool: Spool) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with files.receive() as upload:
            await upload.write(b"half")
            assert len(names(spool)) == 1
            raise ZeroDivisionError
    assert names(spool) == []


async def test_no_room_is_told_before_a_byte_is_written(
    database: Database, spool: Spool, clock: Clock
) -> None:
    files = make(database, spool, clock, reserve=1 << 62)
    with pytest.raises(NoRoom):
        await create(files, b"{}")
    with pytest.raises(NoRoom):
        async with make(database, spool, clock).receive(1 << 62):
            pass
    assert names(spool) == []


async def test_an_upload_of_unknown_size_leaves_the_reserve_alone(
    files: Files, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> int:
        return -1

    async with files.receive() as upload:
        await upload.write(b"x" * (1 << 20))
        monkeypatch.setattr(spool.disk, "free", full)
        with pytest.raises(NoRoom):
            await upload.write(b"x" * (4 << 20))
    assert names(spool) == []


async def test_a_deleted_file_is_gone_with_its_bytes(files: Files, spool: Spool) -> None:
    record = await create(files, b"{}")
    await files.delete("local", record.id)
    assert names(spool) == []
    for again in (files.get, files.delete, files.find_bytes):
        with pytest.raises(NotFound, match=f"No such File object: {record.id}"):
            await again("local", record.id)


async def test_a_file_is_its_owners(files: Files) -> None:
    record = await create(files, b"{}", owner="anna")
    for who in (files.get, files.delete, files.find_bytes):
        with pytest.raises(NotFound):
            await who("bert", record.id)
    assert await listed(files, "anna") == [record.id]
    assert await listed(files, "bert") == []
    with pytest.raises(InvalidRequest):
        await files.page("bert", purpose=None, after=record.id, limit=1, ascending=True)


async def test_a_file_expires_at_its_second(files: Files, clock: Clock, spool: Spool) -> None:
    record = await create(files, b"{}", expires_after=60)
    clock.instant += 59
    assert await files.get("local", record.id) == await files.get("local", record.id)
    assert await files.remove_expired() == 0
    clock.instant += 1
    with pytest.raises(NotFound):
        await files.get("local", record.id)
    assert names(spool) == [record.id]
    assert await files.remove_expired() == 1
    assert names(spool) == []
    assert await files.remove_expired() == 0


@pytest.mark.parametrize(
    ("left", "words"), [(None, "is missing; it had 2 bytes"), (b"{", "has 1 bytes instead of 2")]
)
async def test_a_row_without_its_bytes_is_damage_and_is_said_once(
    files: Files, spool: Spool, caplog: pytest.LogCaptureFixture, left: bytes | None, words: str
) -> None:
    record = await create(files, b"{}")
    spool.file(record.id).unlink()
    if left is not None:
        spool.file(record.id).write_bytes(left)
    for _ in range(2):
        with pytest.raises(FileCorrupt) as caught:
            await files.find_bytes("local", record.id)
        assert f"The bytes of file {record.id} are damaged: it {words}. Run" in str(caught.value)
    assert [entry.message for entry in caplog.records] == ["damage_found"]


async def test_a_file_that_goes_while_its_bytes_are_looked_for_is_no_damage(
    files: Files, spool: Spool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await create(files, b"{}", expires_after=100)

    def swept(_: Path) -> None:
        clock.instant += 100

    monkeypatch.setattr(spool.disk, "size", swept)
    with pytest.raises(NotFound):
        await files.find_bytes("local", record.id)


async def test_bytes_are_an_orphan_until_a_live_row_names_them(files: Files) -> None:
    record = await create(files, b"{}")
    assert [name async for name in files.orphans([record.id, UNKNOWN])] == [UNKNOWN]
    await files.delete("local", record.id)
    assert [name async for name in files.orphans([record.id])] == [record.id]


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("in.jsonl", "in.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\dir\\in.jsonl", "in.jsonl"),
        ("a/", "upload"),
        ("", "upload"),
        ("\x00\r\n\x1b", "upload"),
        ("a\u202eb\u200bc", "abc"),
        ("\udcff.jsonl", ".jsonl"),
        ("..", ".."),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_name_is_made_fit_to_show(given_: str, shown: str) -> None:
    assert clean_filename(given_) == shown


@given(name=st.text())
def test_no_name_is_a_path_or_holds_what_cannot_be_seen(name: str) -> None:
    shown = clean_filename(name)
    assert 1 <= len(shown) <= 255
    assert "/" not in shown
    assert "\\" not in shown
    assert shown.isprintable()
    assert clean_filename(shown) == shown
