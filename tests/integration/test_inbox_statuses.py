"""The status in the outbox, while a batch goes on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from batchd.inbox.folder import Folder
from batchd.inbox.outbox import Outbox
from batchd.model import Counts, Progress, Usage
from tests.integration.inbox_door import Door, running, until_left
from tests.support.parts import Parts, opened
from tests.support.waiting import until


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path / "state") as parts:
        yield parts


@pytest.fixture
async def door(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Door]:
    monkeypatch.setattr("batchd.inbox.statuses._EVERY", 0.02)
    async with running(parts, tmp_path / "inbox") as door:
        yield door


class Line:
    """The progress of a batch, as a test says."""

    def __init__(self, door: Door, batch_id: str) -> None:
        self.completed = 0
        door.parts.batches.live.follow(batch_id, self.progress)

    def progress(self) -> Progress:
        return Progress(Counts(3, self.completed), Usage())


async def test_the_status_is_there_as_soon_as_the_file_is_a_batch(door: Door) -> None:
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    [batch] = await door.batches()
    assert (door.status("a")["id"], door.status("a")["status"]) == (batch.id, "validating")


async def test_the_status_follows_the_batch(door: Door) -> None:
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    [batch] = await door.batches()
    await door.begin(batch)
    line = Line(door, batch.id)
    for count in (1, 2):
        line.completed = count
        await until(lambda count=count: door.status("a")["request_counts"]["completed"] == count)
    assert door.status("a")["status"] == "in_progress"
    assert door.status("a")["output_file_id"] is None
    assert door.names("outbox") == ["a.status.json"]


async def test_only_what_has_changed_is_written_again(door: Door) -> None:
    door.drop("a.jsonl")
    door.drop("b.jsonl")
    await door.until_there("done/a.jsonl", "done/b.jsonl")
    for batch in await door.batches():
        await door.begin(batch)
    await until(lambda: all(door.status(stem)["status"] == "in_progress" for stem in "ab"))
    before = (door.path / "outbox/a.status.json").stat().st_ino
    line = Line(door, door.status("b")["id"])
    for count in (1, 2):
        line.completed = count
        await until(lambda count=count: door.status("b")["request_counts"]["completed"] == count)
    assert (door.path / "outbox/a.status.json").stat().st_ino == before


async def test_many_that_change_all_the_time_take_turns(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.inbox.statuses._WRITES", 1)
    for stem in "abc":
        door.drop(f"{stem}.jsonl")
    await door.until_there(*(f"done/{stem}.jsonl" for stem in "abc"))
    batches = await door.batches()
    for batch in batches:
        await door.begin(batch)
    lines = [Line(door, batch.id) for batch in batches]

    def have_all_come_to(count: int) -> bool:
        for line in lines:
            line.completed += 1
        return all(door.status(stem)["request_counts"]["completed"] >= count for stem in "abc")

    await until(lambda: have_all_come_to(1))
    reached = max(line.completed for line in lines)
    await until(lambda: have_all_come_to(reached))


async def test_statuses_are_written_once_a_second_at_most(parts: Parts, tmp_path: Path) -> None:
    seen: set[int] = set()
    async with running(parts, tmp_path / "inbox") as door:
        door.drop("a.jsonl")
        await door.until_there("done/a.jsonl")
        [batch] = await door.batches()
        await door.begin(batch)
        line = Line(door, batch.id)

        def has_come_through(last: int) -> bool:
            line.completed += 1
            door.bell.ring()
            seen.add((door.path / "outbox/a.status.json").stat().st_ino)
            return door.status("a")["request_counts"]["completed"] > last

        await until(lambda: has_come_through(0))
        first = door.status("a")["request_counts"]["completed"]
        await until(lambda: has_come_through(first))
    assert len(seen) <= 4
    assert line.completed > len(seen)


async def test_results_are_there_before_the_status_says_that_it_has_ended(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str]]] = []
    replace = Folder.replace

    def looked_at(
        folder: Folder, name: str, content: bytes, mark: bytes, *, durable: bool = True
    ) -> bool:
        done = replace(folder, name, content, mark, durable=durable)
        if name == "a.status.json":
            seen.append((door.status("a")["status"], door.names("outbox")))
        return done

    monkeypatch.setattr(Folder, "replace", looked_at)
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    [batch] = await door.batches()
    await door.finish(batch, b"answers\n", b"errors\n")
    await until(lambda: seen[-1][0] == "completed")
    assert all(names == ["a.status.json"] for status, names in seen if status != "completed")
    assert seen[-1] == ("completed", ["a.errors.jsonl", "a.output.jsonl", "a.status.json"])


async def test_a_status_that_a_crash_forgot_is_told_by_the_next_life(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> bool:
        return True

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "announce", nothing)
        patch.setattr(Outbox, "tell", nothing)
        async with running(parts, tmp_path / "inbox") as door:
            door.drop("a.jsonl")
            await door.until_there("done/a.jsonl")
            await until_left(parts)
    assert door.names("outbox") == []
    async with running(parts, tmp_path / "inbox") as door:
        await until(lambda: door.status("a") != {})


async def test_a_status_that_cannot_be_written_is_tried_again_and_said_once(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replace, calls = Folder.replace, 0

    def full(*args: Any, **more: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls < 5:
            raise OSError(28, "No space left on device")
        return replace(*args, **more)

    monkeypatch.setattr(Folder, "replace", full)
    door.drop("a.jsonl")
    await until(lambda: calls > 0)
    door.bell.ring()
    await until(lambda: door.status("a") != {})
    assert caplog.text.count("inbox_status_waits") == 1
    await door.until_there("done/a.jsonl")
    assert len(await door.batches()) == 1


async def test_what_others_put_in_the_place_of_a_status_stays(door: Door, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    (door.path / "outbox/a.status.json").unlink()
    (door.path / "outbox/a.status.json").symlink_to(victim)
    [batch] = await door.batches()
    await door.finish(batch, b"answers\n")
    await door.until_ended("a.2")
    assert victim.read_text() == "theirs"
    assert (door.path / "outbox/a.status.json").is_symlink()
    assert door.names("outbox") == ["a.2.output.jsonl", "a.2.status.json", "a.status.json"]
