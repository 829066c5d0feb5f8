"""Whose a dropped file is, and how much a user may have on the way."""

import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from batchd.api.auth import Keys
from batchd.inbox.outbox import Outbox
from batchd.model import LOCAL_OWNER
from tests.integration.inbox_door import GOOD, Door, running
from tests.support.parts import Parts, opened, requests
from tests.support.waiting import until

UID = os.geteuid()


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path / "state") as parts:
        yield parts


def waiting(door: Door) -> dict[str, Any]:
    path = door.path / f"outbox/waiting.uid-{UID}.json"
    return json.loads(path.read_bytes()) if path.exists() else {}


async def test_batch_and_file_belong_to_the_user(parts: Parts, tmp_path: Path) -> None:
    keys = Keys(None, {UID: "anna"}, unix_owners=True)
    async with running(parts, tmp_path / "inbox", owner_of=keys.owner_of_user) as door:
        door.drop("a.jsonl")
        await door.until_there("done/a.jsonl")
        assert await door.batches() == [], "of the local owner"
        [batch], _ = await parts.batches.page("anna", after=None, limit=9)
        file, _ = await parts.files.find_bytes("anna", batch.input_file_id)
        assert (batch.owner, file.owner) == ("anna", "anna")
        await door.finish(batch, b"answers\n")
        assert (await door.until_ended("a"))["id"] == batch.id
    assert door.names("outbox") == ["a.output.jsonl", "a.status.json"]


async def test_a_rejected_file_leaves_nothing_with_its_owner(parts: Parts, tmp_path: Path) -> None:
    keys = Keys(None, unix_owners=True)
    async with running(parts, tmp_path / "inbox", owner_of=keys.owner_of_user) as door:
        door.drop("a.jsonl", b'{"url":"/v1/images"}\n')
        await door.until_there("rejected/a.jsonl")
    for owner in (LOCAL_OWNER, f"uid-{UID}"):
        found, _ = await parts.files.page(owner, purpose=None, after=None, limit=9, ascending=True)
        assert found == []


async def test_what_is_more_than_a_share_waits_for_a_delivery(
    parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(parts, tmp_path / "inbox", max_files_per_user=2) as door:
        for name in "abcd":
            door.drop(f"{name}.jsonl")
            await until(lambda name=name: door.status(name) != {} or waiting(door) != {})
        await until(lambda: waiting(door).get("files") == 2)
        told = waiting(door)
        assert (told["uid"], told["names"]) == (UID, ["c.jsonl", "d.jsonl"])
        assert "at most 2 files" in told["message"]
        assert len(await door.batches()) == 2
        first, _ = await door.batches()
        await door.finish(first, b"answers\n")
        await door.until_there("done/c.jsonl")
        await until(lambda: waiting(door).get("names") == ["d.jsonl"])
        await door.finish((await door.batches())[1], b"answers\n")
        await door.until_there("done/d.jsonl")
        await until(lambda: waiting(door) == {})
    assert caplog.text.count("inbox_share_used") == 1
    assert "inbox_rejected" not in caplog.text


async def test_what_waits_is_told_as_soon_as_it_can_be(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tell, calls = Outbox.tell_waiting, 0

    def full(outbox: Outbox, reports: Mapping[int, bytes]) -> None:
        nonlocal calls
        calls += bool(reports)
        if calls == 1:
            raise OSError(28, "No space left on device")
        tell(outbox, reports)

    monkeypatch.setattr(Outbox, "tell_waiting", full)
    async with running(parts, tmp_path / "inbox", max_files_per_user=1) as door:
        door.drop("a.jsonl")
        door.drop("b.jsonl")
        await until(lambda: calls > 0)
        door.drop("c.jsonl")
        await until(lambda: waiting(door).get("files") == 2)
        assert len(await door.batches()) == 1
    assert caplog.text.count("inbox_waits") == 1


async def test_sizes_count_too_and_no_smaller_file_passes(parts: Parts, tmp_path: Path) -> None:
    most = 2 * len(GOOD)
    async with running(parts, tmp_path / "inbox", max_bytes_per_user=most) as door:
        for name, data in (("a", GOOD), ("b", GOOD + requests("z")), ("c", requests("z"))):
            door.drop(f"{name}.jsonl", data)
            await until(lambda name=name: f"{name}.jsonl" in str(waiting(door)) or name == "a")
            await door.until_there("done/a.jsonl")
        assert waiting(door)["names"] == ["b.jsonl", "c.jsonl"]
        await door.finish((await door.batches())[0], b"answers\n")
        await door.until_there("done/b.jsonl", "done/c.jsonl")


async def test_a_file_that_no_share_can_hold_is_rejected(parts: Parts, tmp_path: Path) -> None:
    async with running(parts, tmp_path / "inbox", max_bytes_per_user=len(GOOD) - 1) as door:
        door.drop("a.jsonl")
        await door.until_there("rejected/a.jsonl")
        report = door.report("a.error.json")
        assert report["code"] == "file_too_large"
        assert str(len(GOOD)) in report["message"]
        assert "Split it" in report["what_to_do"]


async def test_nobody_waits_without_bounds(parts: Parts, tmp_path: Path) -> None:
    async with running(
        parts, tmp_path / "inbox", max_files_per_user=0, max_bytes_per_user=0
    ) as door:
        for number in range(40):
            door.drop(f"{number}.jsonl")
        await door.until_there(*(f"done/{number}.jsonl" for number in range(40)))
        assert len(await door.batches()) == 40


async def test_what_an_earlier_life_said_of_waiting_files_goes(
    parts: Parts, tmp_path: Path
) -> None:
    path = tmp_path / "inbox"
    async with running(parts, path, max_files_per_user=1) as door:
        for name in "ab":
            door.drop(f"{name}.jsonl")
            await until(lambda name=name: door.status(name) != {} or waiting(door) != {})
    (path / "b.jsonl").unlink()
    (path / "outbox/waiting.uid-7.json").write_text("somebody else's")
    assert waiting(door) != {}
    async with running(parts, path, max_files_per_user=1) as door:
        await until(lambda: waiting(door) == {})
    assert (path / "outbox/waiting.uid-7.json").read_text() == "somebody else's"
