"""The inbox and those who would harm it: odd dates, names that come and go, deleted copies."""

import asyncio
import errno
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from batchd.config import BatchesConfig
from batchd.files import Files
from batchd.inbox import sidecar
from batchd.inbox.directories import Directories, Leaving
from batchd.inbox.folder import Folder
from batchd.inbox.listing import Listing
from batchd.inbox.settling import Seen
from batchd.model import LOCAL_OWNER, BatchRecord, FileRecord
from batchd.store import inbox as table
from tests.integration.inbox_door import GOOD, Door, running, until_left
from tests.support.parts import Parts, opened
from tests.support.waiting import until

AFTER_SQLITE = 10_413_792_000  # the year 2300, in nanoseconds more than 64 bits hold


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path / "state") as parts:
        yield parts


@pytest.fixture
async def door(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Door]:
    monkeypatch.setattr("batchd.inbox.intake._RETRY", 0.05)
    async with running(parts, tmp_path / "inbox", rescan_every=0.05) as door:
        yield door


async def until_taken(door: Door) -> None:
    async with asyncio.timeout(5):
        while not await door.batches():  # noqa: ASYNC110 - rows ring no bell
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("dated", ["a.toml", "a.jsonl"])
async def test_a_file_dated_after_what_sqlite_can_hold_is_a_batch(door: Door, dated: str) -> None:
    for name, data in (("a.toml", b"priority = 2"), ("a.jsonl", GOOD)):
        hidden = door.path / f".{name}"
        hidden.write_bytes(data)
        if name == dated:
            os.utime(hidden, (AFTER_SQLITE, AFTER_SQLITE))
        hidden.rename(door.path / name)
    await door.until_there("done/a.jsonl", "done/a.toml")
    await until_left(door.parts)
    [batch] = await door.batches()
    assert batch.priority == 2


# -- the copy, which is a file of its owner like any other


async def test_a_copy_that_its_owner_deletes_is_made_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Files.find_bytes
    deleted: list[str] = []

    async def find_late(files: Files, owner: str, file_id: str) -> tuple[FileRecord, Path]:
        if not deleted:
            deleted.append(file_id)
            await files.delete(owner, file_id)
        return await find(files, owner, file_id)

    monkeypatch.setattr(Files, "find_bytes", find_late)
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    [batch] = await door.batches()
    assert batch.input_file_id not in deleted


async def test_a_refusal_is_told_though_its_owner_has_deleted_the_copy(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = Files.delete

    async def delete_late(files: Files, owner: str, file_id: str) -> None:
        await delete(files, owner, file_id)
        await delete(files, owner, file_id)

    monkeypatch.setattr(Files, "delete", delete_late)
    door.drop("a.jsonl", b'{"url":"/v1/images"}\n')
    await door.until_there("rejected/a.error.json")
    assert door.report("a.error.json")["code"] == "invalid_url"


async def test_a_damaged_copy_is_made_again(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    find = Files.find_bytes
    damaged: list[str] = []

    async def find_damaged(files: Files, owner: str, file_id: str) -> tuple[FileRecord, Path]:
        if len(damaged) < 2:
            damaged.append(file_id)
            await asyncio.to_thread(door.parts.spool.file(file_id).write_bytes, b"")
        return await find(files, owner, file_id)

    monkeypatch.setattr(Files, "find_bytes", find_damaged)
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    assert len(await door.batches()) == 1
    [said] = [record for record in caplog.records if record.message == "inbox_waits"]
    assert "damaged" in vars(said)["reason"]


# -- names that cannot be looked at, or are others at the next look


async def test_a_directory_that_cannot_be_read_for_a_moment_is_read_again(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Folder) -> Iterator[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "names", broken)
        door.drop("a.jsonl")
        await until(lambda: "inbox_waits" in caplog.text)
    await door.until_there("done/a.jsonl")


async def test_what_cannot_be_looked_at_is_said_once_and_holds_up_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look = Folder.look
    looks = 0

    def look_in_vain(folder: Folder, name: str) -> Seen | None:
        nonlocal looks
        if name == "mount":
            looks += 1
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return look(folder, name)

    monkeypatch.setattr(Folder, "look", look_in_vain)
    (door.path / "mount").mkdir()
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    await until_left(door.parts)
    seen = looks
    await until(lambda: looks > seen + 2)
    assert caplog.text.count("inbox_waits") == 1


async def test_a_claim_outlives_looks_that_miss_its_original(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, listing = Folder.look, Directories.listing
    looks = 0

    def look_in_vain(folder: Folder, name: str) -> Seen | None:
        if name == "b.jsonl":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return look(folder, name)

    def counted(directories: Directories) -> Listing:
        nonlocal looks
        looks += 1
        return listing(directories)

    def cut_short(_directories: Directories, _leaving: Leaving) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "look", look_in_vain)
        patch.setattr(Directories, "listing", counted)
        with monkeypatch.context() as moving:
            moving.setattr(Directories, "move_to_done", cut_short)
            door.drop("a.jsonl")
            await until_taken(door)
            (door.path / "a.jsonl").rename(door.path / "b.jsonl")
        seen = looks
        await until(lambda: looks > seen + 2)
        assert len(await table.open_claims(door.parts.database)) == 1
    await door.until_there("done/b.jsonl")
    await until_left(door.parts)
    assert len(await door.batches()) == 1


async def test_a_file_renamed_just_before_it_is_moved_is_no_second_batch(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = Directories.move_to_done
    moves: list[str] = []

    def move_late(directories: Directories, leaving: Leaving) -> bool:
        moves.append(leaving.stem)
        if len(moves) == 1:
            (door.path / "a.jsonl").rename(door.path / "b.jsonl")
        return move(directories, leaving)

    monkeypatch.setattr(Directories, "move_to_done", move_late)
    door.drop("a.jsonl")
    await door.until_there("done/b.jsonl")
    await until_left(door.parts)
    assert moves == ["a", "b"]
    assert len(await door.batches()) == 1


# -- too much of it


async def test_more_names_than_are_remembered_are_taken_in_turn_and_said_once(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchd.inbox.listing._MOST_OF_USER", 2)
    (tmp_path / "inbox").mkdir()
    for name in "abcdef":
        (tmp_path / "inbox" / f"{name}.jsonl").write_bytes(GOOD)
    async with running(parts, tmp_path / "inbox", rescan_every=0.05) as door:
        await door.until_there(*(f"done/{name}.jsonl" for name in "abcdef"))
        await until_left(parts)
        assert len(await door.batches()) == 6
    assert caplog.text.count("inbox_crowded") == 1


async def test_names_that_come_and_go_all_the_time_leave_half_of_it_alone(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = Directories.listing
    spans: list[tuple[float, float]] = []

    def slow(directories: Directories) -> Listing:
        began = time.monotonic()
        found = listing(directories)
        threading.Event().wait(0.03)  # as with very many names
        spans.append((began, time.monotonic()))
        return found

    def come_and_go() -> bool:
        (door.path / "x.tmp").touch()
        (door.path / "x.tmp").unlink()
        return len(spans) > 5

    monkeypatch.setattr(Directories, "listing", slow)
    await until(come_and_go)
    for (began, ended), (next_began, _) in itertools.pairwise(spans):
        assert next_began - ended >= 0.9 * (ended - began)


async def test_an_inbox_whose_group_can_move_our_directories_is_warned_of(
    parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox").chmod(0o770)
    async with running(parts, tmp_path / "inbox") as door:
        door.drop("a.jsonl")
        await door.until_there("done/a.jsonl")
    assert caplog.text.count("inbox_not_sticky") == 1


async def test_a_look_takes_no_more_bytes_than_may_keep_others_waiting(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever drops many large files has the inbox to themselves until all are copied."""
    listing, looks = Directories.listing, 0

    def counted(directories: Directories) -> Listing:
        nonlocal looks
        looks += 1
        return listing(directories)

    monkeypatch.setattr("batchd.inbox.intake._BYTES_PER_LOOK", 2 * len(GOOD))
    monkeypatch.setattr(Directories, "listing", counted)
    (tmp_path / "inbox").mkdir()
    for number in range(16):
        (tmp_path / "inbox" / f"{number}.jsonl").write_bytes(GOOD)
    async with running(parts, tmp_path / "inbox") as door:
        await door.until_there(*(f"done/{number}.jsonl" for number in range(16)))
    assert looks >= 8


# -- what nobody foresaw


async def test_what_nobody_foresaw_of_one_file_keeps_no_other_from_being_taken(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options, tries = sidecar.options, 0

    def break_down(name: str, text: bytes, rules: BatchesConfig) -> sidecar.Options:
        nonlocal tries
        if b"odd" in text:
            tries += 1
            raise LookupError
        return options(name, text, rules)

    monkeypatch.setattr("batchd.inbox.intake._RETRY", 1000)
    monkeypatch.setattr(sidecar, "options", break_down)
    (door.path / "a.toml").write_bytes(b"# odd")
    door.drop("a.jsonl")
    await until(lambda: tries > 0)
    door.drop("b.jsonl")
    await door.until_there("done/b.jsonl")
    (door.path / "a.toml").write_bytes(b"")
    os.utime(door.path / "a.jsonl", (1, 1))  # a change has it tried again
    await door.until_there("done/a.jsonl")
    assert tries == 1
    [said] = [record for record in caplog.records if record.message == "inbox_failed"]
    assert vars(said)["file"] == "a.jsonl"
    assert said.exc_info is not None


async def test_what_nobody_foresaw_is_tried_again_ever_more_rarely_and_heals_by_itself(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options, tries = sidecar.options, list[float]()

    def break_down(name: str, text: bytes, rules: BatchesConfig) -> sidecar.Options:
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise MemoryError
        return options(name, text, rules)

    monkeypatch.setattr(sidecar, "options", break_down)
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    first, second, third = (later - earlier for earlier, later in itertools.pairwise(tries))
    assert (first >= 0.05, second >= 0.1, third >= 0.2) == (True, True, True)
    assert [record.message for record in caplog.records].count("inbox_failed") == 3


async def test_what_nobody_foresaw_is_tried_again_for_as_long_as_it_takes(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def break_down(*_: object) -> sidecar.Options:
        nonlocal tries
        tries += 1
        raise LookupError

    monkeypatch.setattr("batchd.inbox.intake._LONGEST_RETRY", 0.05)
    monkeypatch.setattr(sidecar, "options", break_down)
    door.drop("a.jsonl")
    await until(lambda: tries >= 10)


async def test_what_nobody_foresaw_leaves_no_copy_behind(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(*_: object, **__: object) -> BatchRecord:
        raise LookupError

    monkeypatch.setattr(door.parts.batches, "create", break_down)
    door.drop("a.jsonl")
    await until(lambda: "inbox_failed" in caplog.text)
    found, _ = await door.parts.files.page(
        LOCAL_OWNER, purpose=None, after=None, limit=9, ascending=True
    )
    assert found == []
