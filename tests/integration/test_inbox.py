"""The inbox on real directories, files and rows; only the engine is played by the test."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from batchd.errors import ConfigError
from batchd.inbox import watch
from batchd.inbox.folder import Dropped, Folder
from batchd.model import LOCAL_OWNER, LineError
from batchd.settings import Duration
from batchd.store import Transaction
from batchd.store import inbox as table
from tests.integration.inbox_door import GOOD, Door, inbox_of, running, until_left
from tests.support.parts import Parts, opened
from tests.support.waiting import until


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path / "state") as parts:
        yield parts


@pytest.fixture
async def door(parts: Parts, tmp_path: Path) -> AsyncIterator[Door]:
    async with running(parts, tmp_path / "inbox") as door:
        yield door


# -- taking


async def test_a_file_renamed_into_place_becomes_a_batch(door: Door) -> None:
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    [batch] = await door.batches()
    assert (batch.source, batch.endpoint) == ("inbox", "/v1/chat/completions")
    assert batch.completion_window == "24h"
    file, path = await door.parts.files.find_bytes(LOCAL_OWNER, batch.input_file_id)
    assert file.filename == "a.jsonl"
    assert path.read_bytes() == GOOD
    await until_left(door.parts)


async def test_a_file_written_in_place_is_taken_when_it_has_settled(door: Door) -> None:
    (door.path / "a.jsonl").write_bytes(GOOD)
    await door.until_there("done/a.jsonl")
    assert len(await door.batches()) == 1


async def test_a_file_that_is_being_written_waits_until_it_is_closed(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    with (door.path / "a.jsonl").open("wb") as growing:
        for line in GOOD.splitlines(keepends=True):
            growing.write(line)
            growing.flush()
            door.drop("b.jsonl")  # each is taken, with a look at all that is there
            await until(lambda: not (door.path / "b.jsonl").exists())
        assert door.names("done") == ["b.2.jsonl", "b.3.jsonl", "b.jsonl"]
    await door.until_there("done/a.jsonl")
    batch = (await door.batches())[-1]
    file, _ = await door.parts.files.find_bytes(LOCAL_OWNER, batch.input_file_id)
    assert file.bytes == len(GOOD)
    assert "inbox_rejected" not in caplog.text


async def test_a_file_that_changes_while_it_is_read_is_read_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Dropped.read
    reads: list[int] = []

    def read_slowly(dropped: Dropped, offset: int, size: int) -> bytes:
        if not reads:
            with (door.path / "a.jsonl").open("ab") as more:
                more.write(GOOD)
        reads.append(offset)
        return read(dropped, offset, size)

    monkeypatch.setattr("batchd.inbox.intake._RETRY", 0.05)
    monkeypatch.setattr(Dropped, "read", read_slowly)
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    assert len(reads) == 2
    [batch] = await door.batches()
    file, _ = await door.parts.files.find_bytes(LOCAL_OWNER, batch.input_file_id)
    assert file.bytes == 2 * len(GOOD)


async def test_what_is_hidden_or_unfinished_is_left_alone(door: Door) -> None:
    for name in (".a.jsonl", "a.jsonl.tmp"):
        (door.path / name).write_bytes(GOOD)
    door.drop("b.jsonl")
    await door.until_there("done/b.jsonl")
    assert {".a.jsonl", "a.jsonl.tmp"} < set(door.names("."))
    assert len(await door.batches()) == 1


async def test_the_same_name_again_is_another_batch(door: Door) -> None:
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    door.drop("a.jsonl")
    await door.until_there("done/a.2.jsonl")
    first, second = await door.batches()
    await door.finish(second, b"second\n")
    await door.until_ended("a.2")
    await door.finish(first, b"first\n", b"wrong\n")
    await door.until_ended("a")
    assert (door.path / "outbox/a.output.jsonl").read_bytes() == b"first\n"
    assert (door.path / "outbox/a.errors.jsonl").read_bytes() == b"wrong\n"
    assert (door.path / "outbox/a.2.output.jsonl").read_bytes() == b"second\n"
    assert len(door.names("outbox")) == 5


async def test_what_lies_there_at_the_start_is_taken(parts: Parts, tmp_path: Path) -> None:
    path = tmp_path / "inbox"
    path.mkdir()
    (path / "a.jsonl").write_bytes(GOOD)
    async with running(parts, path) as door:
        await door.until_there("done/a.jsonl")


async def test_without_the_kernels_help_files_are_found_all_the_same(
    parts: Parts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_watch(**_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(watch, "Inotify", no_watch)
    async with running(parts, tmp_path / "inbox", rescan_every=Duration(0.05)) as door:
        door.drop("a.jsonl")
        await door.until_there("done/a.jsonl")
    assert "inbox_not_watched" in caplog.text


async def test_a_full_disk_is_no_reason_to_reject(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchd.inbox.intake._RETRY", 0.05)
    door.parts.room.note_full()
    door.drop("a.jsonl")
    await until(lambda: "inbox_waits" in caplog.text)
    found, _ = await door.parts.files.page(
        LOCAL_OWNER, purpose=None, after=None, limit=9, ascending=True
    )
    assert len(found) <= 1, "each try leaves a file"
    await asyncio.to_thread(door.parts.room.look)
    await door.until_there("done/a.jsonl")
    assert caplog.text.count("inbox_waits") == 1
    assert len(await door.batches()) == 1


async def test_a_directory_that_was_replaced_is_opened_anew(
    parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(parts, tmp_path / "inbox", rescan_every=Duration(0.05)) as door:
        door.path.rename(tmp_path / "elsewhere")
        await door.until_there("outbox")
        door.drop("a.jsonl")
        await door.until_there("done/a.jsonl")
        door.path.rename(tmp_path / "elsewhere-2")
        door.path.write_text("in the way")
        await until(lambda: "inbox_lost" in caplog.text)
        door.path.unlink()
        await door.until_there("outbox")


# -- traps


async def test_traps_are_rejected_and_the_daemon_goes_on(door: Door, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(GOOD)
    (door.path / "link.jsonl").symlink_to(secret)
    os.mkfifo(door.path / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(door.path / "socket.jsonl"))
    (door.path / "hard.jsonl").hardlink_to(secret)
    (door.path / "folder.jsonl").mkdir()
    traps = ("link", "pipe", "socket", "hard", "folder")
    await door.until_there(*(f"rejected/{name}.error.json" for name in traps))
    codes = {name: door.report(f"{name}.error.json")["code"] for name in traps}
    assert codes == dict.fromkeys(traps, "not_a_file") | {"hard": "hard_link"}
    await until(lambda: {f"{name}.jsonl" for name in traps[:4]} < set(door.names("rejected")))
    assert (door.path / "folder.jsonl").is_dir()
    assert (door.path / "rejected/link.jsonl").is_symlink()
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    assert len(await door.batches()) == 1


async def test_a_link_to_a_directory_of_ours_is_no_way_out(door: Door, tmp_path: Path) -> None:
    (door.path / "up.jsonl").symlink_to(tmp_path)
    await door.until_there("rejected/up.error.json", "rejected/up.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inbox", "state"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        (b"a b.jsonl", "a_b.jsonl"),
        (b"a\nb.jsonl", "a_b.jsonl"),
        (b"\xff\xfe.jsonl", "_xff_xfe.jsonl"),
        (b"notes.txt", "notes.txt"),
        (b"x" * 200 + b".jsonl", "x" * 128),
    ],
)
async def test_bad_names_are_rejected_under_safe_ones(
    door: Door, name: bytes, safe: str, caplog: pytest.LogCaptureFixture
) -> None:
    door.drop(os.fsdecode(name))
    report = safe.removesuffix(".jsonl") + ".error.json"
    await door.until_there(f"rejected/{report}", f"rejected/{safe}")
    assert door.report(report)["code"] == "invalid_name"
    await until(lambda: "inbox_rejected" in caplog.text)
    assert await door.batches() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read_is_reported(door: Door) -> None:
    (door.path / ".a").write_bytes(GOOD)
    (door.path / ".a").chmod(0o000)
    (door.path / ".a").rename(door.path / "a.jsonl")
    await door.until_there("rejected/a.error.json", "rejected/a.jsonl")
    assert door.report("a.error.json")["code"] == "unreadable"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_file"),
        (b"hello\n", "invalid_file"),
        (b'"\xff"\n', "invalid_file"),
        (b'{"custom_id":"a"}\n', "invalid_url"),
        (b'{"url":"/v1/images"}\n', "invalid_url"),
        (b"x" * ((1 << 20) + 1), "file_too_large"),
    ],
    ids=["empty", "not JSON", "not UTF-8", "no url", "unknown url", "too large"],
)
async def test_contents_that_no_batch_can_come_of_are_rejected(
    door: Door, data: bytes, code: str
) -> None:
    door.drop("a.jsonl", data)
    await door.until_there("rejected/a.error.json", "rejected/a.jsonl")
    assert door.report("a.error.json")["code"] == code
    found, _ = await door.parts.files.page(
        LOCAL_OWNER, purpose=None, after=None, limit=9, ascending=True
    )
    assert found == []
    assert await door.batches() == []


async def test_the_line_is_told_that_names_no_endpoint(door: Door) -> None:
    door.drop("a.jsonl", b'\xef\xbb\xbf\n \n{"url":"/v1/images"}\n' + GOOD)
    await door.until_there("rejected/a.error.json")
    report = door.report("a.error.json")
    assert report["line"] == 3
    assert "/v1/chat/completions" in report["message"]


# -- delivery


async def test_results_come_back_when_the_batch_has_ended(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    [batch] = await door.batches()
    assert door.names("outbox") == ["a.status.json"]
    assert door.status("a")["status"] == "validating"
    await door.finish(batch, b"a private answer\n")
    status = await door.until_ended("a")
    assert door.names("outbox") == ["a.output.jsonl", "a.status.json"]
    assert (status["id"], status["status"]) == (batch.id, "completed")
    assert status["output_file_id"] == batch.output_file_id
    await until(lambda: "inbox_delivered" in caplog.text)
    assert await table.deliverable(door.parts.database) == []
    assert "private" not in caplog.text


async def test_a_batch_that_could_not_start_is_reported_line_by_line(door: Door) -> None:
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    [batch] = await door.batches()
    faults = [LineError("one", "First.", line=1), LineError("two", "Second.", line=3)]
    await door.parts.batches.rejected(batch.id, faults)
    door.bell.ring()
    assert (await door.until_ended("a"))["status"] == "failed"
    report = door.report("a.error.json")
    assert (report["file"], report["line"], report["batch"]) == ("a.jsonl", 1, batch.id)
    assert [error["line"] for error in report["errors"]] == [1, 3]


async def test_results_that_expired_before_they_could_be_delivered_come_back_all_the_same(
    parts: Parts, tmp_path: Path
) -> None:
    async with running(parts, tmp_path / "inbox") as door:
        door.drop("a.toml", b'output_expires_after = "1h"')
        door.drop("a.jsonl")
        await door.until_there("done/a.jsonl")
        [batch] = await door.batches()
    await door.finish(batch, b"answers\n", b"errors\n")
    parts.clock.at += 7200
    await parts.files.remove_expired()
    async with running(parts, tmp_path / "inbox") as door:
        await door.until_ended("a")
    assert (door.path / "outbox/a.output.jsonl").read_bytes() == b"answers\n"
    assert (door.path / "outbox/a.errors.jsonl").read_bytes() == b"errors\n"
    assert await parts.files.remove_expired() == 2


@pytest.mark.parametrize(
    ("has_inbox", "days", "stay"),
    [(True, 30, True), (True, 31, False), (False, 1, False)],
    ids=["kept", "no longer", "without an inbox"],
)
async def test_results_that_nobody_delivers_are_not_kept_for_ever(
    tmp_path: Path, has_inbox: bool, days: int, stay: bool
) -> None:
    async with opened(tmp_path / "state") as parts:
        async with running(parts, tmp_path / "inbox") as door:
            door.drop("a.toml", b'output_expires_after = "1h"')
            door.drop("a.jsonl")
            await door.until_there("done/a.jsonl")
            [batch] = await door.batches()
        await door.finish(batch, b"answers\n", b"errors\n")
        clock = parts.clock
    clock.at += days * 86400
    async with opened(tmp_path / "state", clock=clock) as parts:
        if has_inbox:
            await inbox_of(parts, tmp_path / "inbox").check()
        await parts.files.remove_expired()
        there = [
            parts.spool.file(str(file_id)).exists()
            for file_id in (batch.output_file_id, batch.error_file_id)
        ]
    assert there == [stay, stay]


async def test_a_result_file_that_was_deleted_does_not_hold_up_the_rest(
    parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(parts, tmp_path / "inbox") as door:
        door.drop("a.jsonl")
        await door.until_there("done/a.jsonl")
        [batch] = await door.batches()
    await door.finish(batch, b"answers\n", b"errors\n")
    assert batch.output_file_id is not None
    await parts.files.delete(LOCAL_OWNER, batch.output_file_id)
    async with running(parts, tmp_path / "inbox") as door:
        await door.until_ended("a")
    assert door.names("outbox") == ["a.errors.jsonl", "a.status.json"]
    assert door.status("a")["batchd"]["notes"] == [
        "a.output.jsonl is not in the outbox: the file was deleted before it could be delivered"
    ]
    [said] = [record for record in caplog.records if record.message == "inbox_result_deleted"]
    assert (vars(said)["batch"], vars(said)["result"]) == (batch.id, "a.output.jsonl")


async def test_results_that_are_damaged_wait_until_they_are_restored(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchd.inbox.delivery._RETRY", 0.05)
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    [batch] = await door.batches()
    output = door.parts.spool.file(str(batch.output_file_id))
    size = door.parts.spool.disk.size

    def gone(path: Path) -> int | None:
        return None if path == output else size(path)

    monkeypatch.setattr(door.parts.spool.disk, "size", gone)
    await door.finish(batch, b"answers\n")
    await until(lambda: "inbox_delivery_waits" in caplog.text)
    assert door.names("outbox") == ["a.status.json"]
    monkeypatch.setattr(door.parts.spool.disk, "size", size)
    await door.until_ended("a")
    assert door.names("outbox") == ["a.output.jsonl", "a.status.json"]
    assert caplog.text.count("damage_found") == 1


async def test_an_outbox_without_room_is_tried_again(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchd.inbox.delivery._RETRY", 0.05)
    publish, calls = Folder.publish, 0

    def full(*args: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise OSError(28, "No space left on device")
        return publish(*args)

    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    monkeypatch.setattr(Folder, "publish", full)
    [batch] = await door.batches()
    await door.finish(batch, b"answers\n")
    await door.until_ended("a")
    assert caplog.text.count("inbox_delivery_waits") == 1


RESERVE = 1000


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Door]:
    """A door where some room is to stay free."""
    async with (
        opened(tmp_path / "state", reserve=RESERVE) as parts,
        running(parts, tmp_path / "inbox") as door,
    ):
        yield door


@pytest.mark.parametrize(
    ("output", "errors"),
    [(b"answers\n", b""), (b"", b"errors\n"), (b"answers\n", b"errors\n")],
    ids=["answers", "errors", "both"],
)
async def test_results_are_copied_only_where_they_leave_the_reserve_free(
    small: Door,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    output: bytes,
    errors: bytes,
) -> None:
    monkeypatch.setattr("batchd.inbox.delivery._RETRY", 0.01)
    small.drop("a.jsonl")
    await small.until_there("done/a.jsonl")
    [batch] = await small.batches()
    left = RESERVE + len(output) + len(errors) - 1

    def free(_: Path) -> int:
        return left

    monkeypatch.setattr(small.parts.spool.disk, "free", free)
    await small.finish(batch, output, errors)
    await until(lambda: "inbox_delivery_waits" in caplog.text)
    assert set(small.names("outbox")) == {"a.status.json"}
    left += 1
    await small.until_ended("a")
    there = [name for name, data in (("errors", errors), ("output", output)) if data]
    assert small.names("outbox") == [f"a.{name}.jsonl" for name in there] + ["a.status.json"]
    assert caplog.text.count("inbox_delivery_waits") == 1


async def test_results_that_are_there_already_need_no_room(
    small: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.drop("a.jsonl")
    await small.until_there("done/a.jsonl")
    [batch] = await small.batches()
    (small.path / "outbox/a.output.jsonl").write_bytes(b"answers\n")  # as a crash leaves it

    def free(_: Path) -> int:
        return RESERVE + len(b"errors\n")

    monkeypatch.setattr(small.parts.spool.disk, "free", free)
    await small.finish(batch, b"answers\n", b"errors\n")
    await small.until_ended("a")
    assert small.names("outbox") == ["a.errors.jsonl", "a.output.jsonl", "a.status.json"]


async def test_a_delivery_that_failed_is_not_begun_again_at_each_change_of_a_batch(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchd.inbox.delivery._RETRY", 1000)
    tries = 0

    def broken(*_: Any) -> bool:
        nonlocal tries
        tries += 1
        raise OSError(5, "Input/output error")

    for name in ("a", "b"):
        door.drop(f"{name}.jsonl")
        await door.until_there(f"done/{name}.jsonl")
    first, second = await door.batches()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "publish", broken)
        await door.finish(first, b"answers\n")
        await until(lambda: "inbox_delivery_waits" in caplog.text)
    await door.finish(second, b"answers\n")
    await door.until_ended("b")
    assert tries == 1
    assert door.status("a")["status"] != "completed"


# -- crashes


async def test_a_file_that_is_a_batch_already_is_only_moved(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("batchd.inbox.directories.Directories.move_to_done", cut_short)
        async with running(parts, tmp_path / "inbox") as door:
            door.drop("a.jsonl")
            async with asyncio.timeout(5):
                while not await door.batches():  # noqa: ASYNC110 - rows ring no bell
                    await asyncio.sleep(0.005)
    # Its owner renames it before the next start; it is the same file.
    (door.path / "a.jsonl").rename(door.path / "b.jsonl")
    async with running(parts, tmp_path / "inbox") as door:
        await door.until_there("done/b.jsonl")
        await until_left(parts)
        assert len(await door.batches()) == 1
        door.drop("a.jsonl")
        await door.until_there("done/a.jsonl")
        assert len(await door.batches()) == 2


async def test_a_claim_knows_its_files_though_a_reboot_has_renumbered_their_device(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(*_: object) -> None:
        raise OSError(5, "Input/output error")

    async def renumber(tx: Transaction) -> None:
        for name in ("inbox_claim", "inbox_sidecar"):
            await tx.execute(f"UPDATE {name} SET device = device + 1")  # noqa: S608 - constants

    with monkeypatch.context() as patch:
        patch.setattr("batchd.inbox.directories.Directories.move_to_done", cut_short)
        async with running(parts, tmp_path / "inbox") as door:
            door.drop("a.toml", b"priority = 2")
            door.drop("a.jsonl")
            async with asyncio.timeout(5):
                while not await door.batches():  # noqa: ASYNC110 - rows ring no bell
                    await asyncio.sleep(0.005)
    await parts.database.write(renumber)
    async with running(parts, tmp_path / "inbox") as door:
        await door.until_there("done/a.jsonl", "done/a.toml")
        await until_left(parts)
        assert len(await door.batches()) == 1


async def test_a_claim_whose_original_has_gone_is_closed(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("batchd.inbox.directories.Directories.move_to_done", cut_short)
        async with running(parts, tmp_path / "inbox") as door:
            door.drop("a.jsonl")
            async with asyncio.timeout(5):
                while not await door.batches():  # noqa: ASYNC110 - rows ring no bell
                    await asyncio.sleep(0.005)
    (door.path / "a.jsonl").unlink()
    async with running(parts, tmp_path / "inbox") as door:
        await until_left(parts)
        assert len(await door.batches()) == 1


async def test_a_claim_is_open_until_the_move_of_its_original_is_on_disk(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut brings the original back, and nobody knows that it was taken."""
    looks = 0

    def broken(_: Folder) -> None:
        nonlocal looks
        looks += 1
        raise OSError(5, "Input/output error")

    async with running(parts, tmp_path / "inbox", rescan_every=0.02) as door:
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "sync", broken)
            door.drop("a.jsonl")
            await door.until_there("done/a.jsonl")
            seen = looks
            await until(lambda: looks > seen + 2)
            assert len(await table.open_claims(parts.database)) == 1
        await until_left(parts)
        assert len(await door.batches()) == 1


async def test_an_inbox_that_cannot_be_made_is_told_in_one_sentence(
    parts: Parts, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the inbox directory"):
        async with running(parts, tmp_path / "file" / "inbox"):
            pass
