"""Sidecars: options beside a dropped file, and what becomes of both, whatever happens."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchd.config import BatchesConfig
from batchd.inbox import sidecar
from batchd.inbox.directories import Directories, Leaving
from batchd.inbox.folder import Dropped
from batchd.model import LOCAL_OWNER
from batchd.store import inbox as table
from tests.integration.inbox_door import GOOD, Door, running, until_left
from tests.support.parts import Parts, opened
from tests.support.waiting import until

RULES = BatchesConfig(completion_windows=("24h", "1h"))
OPTIONS = b"""
completion_window = "1h"
priority = 3
output_expires_after = "2h"
metadata = { team = "red" }
"""


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path / "state") as parts:
        yield parts


@pytest.fixture
async def door(parts: Parts, tmp_path: Path) -> AsyncIterator[Door]:
    async with running(parts, tmp_path / "inbox", rules=RULES) as door:
        yield door


async def looked(door: Door) -> None:
    """Return once the inbox was looked at with all that is in it now."""
    name = f"z{len(door.names('done'))}.jsonl"
    door.drop(name)
    await door.until_there(f"done/{name}")


async def test_a_batch_is_as_its_sidecar_says(door: Door) -> None:
    door.drop("a.toml", OPTIONS)
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl", "done/a.toml")
    [batch] = await door.batches()
    assert (batch.completion_window, batch.priority) == ("1h", 3)
    assert batch.expires_at - batch.created_at == 3600
    assert (batch.output_expires_after, batch.metadata) == (7200, {"team": "red"})
    assert (door.path / "done/a.toml").read_bytes() == OPTIONS
    await until_left(door.parts)
    assert await table.sidecars(door.parts.database) == {}


async def test_an_empty_sidecar_asks_for_what_no_sidecar_asks_for(door: Door) -> None:
    door.drop("a.toml", b"")
    door.drop("a.jsonl")
    door.drop("b.jsonl")
    await door.until_there("done/a.jsonl", "done/b.jsonl")
    one, two = await door.batches()
    assert one.request_hash != two.request_hash, "the input files differ"
    for name in ("completion_window", "priority", "output_expires_after", "metadata", "endpoint"):
        assert getattr(one, name) == getattr(two, name)


async def test_the_sidecar_may_name_the_endpoint(door: Door) -> None:
    door.drop("a.toml", b'endpoint = "/v1/embeddings"\noutput_expires_after = 3600\n')
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl")
    [batch] = await door.batches()
    assert (batch.endpoint, batch.output_expires_after) == ("/v1/embeddings", 3600)


async def test_a_sidecar_waits_for_its_file(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    door.drop("a.toml", OPTIONS)
    os.mkfifo(door.path / "b.toml")
    await looked(door)
    assert {"a.toml", "b.toml"} < set(door.names("."))
    assert door.names("rejected") == []
    assert "inbox_rejected" not in caplog.text


async def test_a_second_pair_of_the_same_name_is_numbered_alike(door: Door) -> None:
    for _ in range(2):
        door.drop("a.toml", OPTIONS)
        door.drop("a.jsonl")
        await until(lambda: not (door.path / "a.jsonl").exists())
    await until_left(door.parts)
    assert door.names("done") == ["a.2.jsonl", "a.2.toml", "a.jsonl", "a.toml"]


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (b"prio = 3", "prio", "a.toml: unknown key 'prio'; there are: completion_window, endpoint"),
        (b"priority = 11", "priority", "Expected a value <= 10"),
        (b"priority = 1.5", "priority", "expected an integer, but got a decimal number"),
        (b'completion_window = "2h"', "completion_window", "Supported values are: '24h' and '1h'"),
        (b'endpoint = "/v1/images"', "endpoint", "Supported values are: '/v1/chat/completions'"),
        (b"endpoint = 1", "endpoint", "expected a string, but got an integer"),
        (b"[metadata]\nn = 1", "metadata.n", "expected a string, but got an integer"),
        (b"metadata = [1]", "metadata", "expected an object, but got an array"),
        (b"metadata.at = 2020-01-01", "metadata.at", "but got something else"),
        (b'output_expires_after = "soon"', "output_expires_after", "'soon' is not a duration"),
        (b"output_expires_after = inf", "output_expires_after", "inf is not a duration"),
        (
            b'output_expires_after = "' + b"9" * 400 + b'd"',
            "output_expires_after",
            "is not a duration",
        ),
        (
            b"output_expires_after = 0x" + b"f" * 30000,
            "output_expires_after",
            "output_expires_after is a number of more than 64 bits",
        ),
        (b"priority = 0x" + b"f" * 30000, "priority", "priority is a number of more than 64 bits"),
        (b"output_expires_after = 60", "output_expires_after.seconds", "a value >= 3600"),
        (b'output_expires_after = "31d"', "output_expires_after.seconds", "a value <= 2592000"),
        (b"priority 3", None, "a.toml: not valid TOML: Expected '='"),
        (b"a = 1\na = 2", None, "not valid TOML: Cannot overwrite"),
        (b"priority = '\xff'", None, "not valid TOML in UTF-8"),
        (b"priority = " + b"1" * 5000, None, "not valid TOML in UTF-8"),
        (b"a = " + b"[" * 20000, None, "not valid TOML"),
        (b"a" + b".a" * 30000 + b" = 1", None, "more than 2000 dots"),
        (b"metadata" + b".a" * 1900 + b" = 1", "metadata.a", "expected a string"),
        (b"#" * (sidecar.MAX_SIZE + 1), None, "more than 65536 bytes"),
    ],
)
async def test_a_pair_is_rejected_for_what_its_sidecar_says(
    door: Door, text: bytes, key: str | None, said: str
) -> None:
    door.drop("a.toml", text)
    door.drop("a.jsonl")
    await door.until_there("rejected/a.error.json", "rejected/a.jsonl", "rejected/a.toml")
    report = door.report("a.error.json")
    assert (report["file"], report["code"], report.get("key")) == (
        "a.jsonl",
        "invalid_sidecar",
        key,
    )
    assert said in report["message"]
    assert report["what_to_do"] == "Correct a.toml and drop both files again, a.toml first."
    assert (door.path / "rejected/a.toml").read_bytes() == text
    assert await door.batches() == []


@pytest.mark.parametrize("kind", ["link", "pipe", "hard link", "directory"])
async def test_a_trap_beside_a_file_rejects_both(door: Door, tmp_path: Path, kind: str) -> None:
    secret, trap = tmp_path / "secret", door.path / "a.toml"
    secret.write_bytes(OPTIONS)
    match kind:
        case "link":
            trap.symlink_to(secret)
        case "pipe":
            os.mkfifo(trap)
        case "hard link":
            trap.hardlink_to(secret)
        case _:
            trap.mkdir()
    door.drop("a.jsonl")
    await door.until_there("rejected/a.error.json", "rejected/a.jsonl")
    assert door.report("a.error.json")["code"] == "invalid_sidecar"
    where = door.path if kind == "directory" else door.path / "rejected"
    await until(lambda: os.path.lexists(where / "a.toml"))
    assert await door.batches() == []
    assert secret.read_bytes() == OPTIONS


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_sidecar_that_may_not_be_read_is_reported(door: Door) -> None:
    (door.path / "a.toml").touch(mode=0o000)
    door.drop("a.jsonl")
    await door.until_there("rejected/a.error.json", "rejected/a.toml")
    assert "may not read it" in door.report("a.error.json")["message"]


async def test_a_sidecar_goes_along_with_a_file_that_is_rejected_itself(door: Door) -> None:
    door.drop("a.toml", OPTIONS)
    door.drop("a.jsonl", b"hello\n")
    await door.until_there("rejected/a.jsonl", "rejected/a.toml")
    assert door.report("a.error.json")["code"] == "invalid_file"


async def test_a_sidecar_that_changes_while_its_file_is_read_is_read_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, changed = Dropped.read, False

    def read_slowly(dropped: Dropped, offset: int, size: int) -> bytes:
        nonlocal changed
        data = read(dropped, offset, size)
        if not changed and data == GOOD:
            changed = True
            door.drop("a.toml", b"priority = 7")
        return data

    monkeypatch.setattr("batchd.inbox.intake._RETRY", 0.05)
    monkeypatch.setattr(Dropped, "read", read_slowly)
    door.drop("a.toml", b"priority = 1")
    door.drop("a.jsonl")
    await door.until_there("done/a.jsonl", "done/a.toml")
    [batch] = await door.batches()
    assert batch.priority == 7
    found, _ = await door.parts.files.page(
        LOCAL_OWNER, purpose=None, after=None, limit=9, ascending=True
    )
    assert [file.id for file in found] == [batch.input_file_id], "the first try left a file"


async def test_a_sidecar_that_is_being_written_is_waited_for(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.inbox.intake._RETRY", 0.05)
    with (door.path / "a.toml").open("wb") as writer:
        writer.write(b"priority = 1")
        writer.flush()
        door.drop("a.jsonl")
        await looked(door)
        assert (door.path / "a.jsonl").exists()
        writer.write(b"0")
    await door.until_there("done/a.jsonl", "done/a.toml")
    assert (await door.batches())[-1].priority == 10


# -- crashes


async def test_a_pair_of_which_a_crash_left_the_file_is_moved_together(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move = Directories.move_to_done

    def cut_short(directories: Directories, leaving: Leaving) -> None:
        half = Leaving(
            stem=leaving.stem,
            original=None,
            sidecar=leaving.sidecar,
            sidecar_identity=leaving.sidecar_identity,
        )
        move(directories, half)
        raise OSError(5, "Input/output error")

    path = tmp_path / "inbox"
    with monkeypatch.context() as patch:
        patch.setattr(Directories, "move_to_done", cut_short)
        async with running(parts, path, rules=RULES) as door:
            (path / "done/a.jsonl").write_bytes(b"an old one")
            door.drop("a.toml", OPTIONS)
            door.drop("a.jsonl")
            await door.until_there("done/a.2.toml")
    # Meanwhile somebody drops the sidecar of the next file of this name.
    door.drop("a.toml", b"priority = 9")
    async with running(parts, path, rules=RULES) as door:
        await door.until_there("done/a.2.jsonl")
        await until_left(parts)
        assert len(await door.batches()) == 1
        door.drop("a.jsonl")
        await door.until_there("done/a.3.jsonl", "done/a.3.toml")
        assert [batch.priority for batch in await door.batches()] == [3, 9]


async def test_a_sidecar_whose_file_has_gone_does_not_wait_for_the_next(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(*_: object) -> None:
        raise OSError(5, "Input/output error")

    path = tmp_path / "inbox"
    with monkeypatch.context() as patch:
        patch.setattr(Directories, "move_to_done", cut_short)
        async with running(parts, path, rules=RULES) as door:
            door.drop("a.toml", OPTIONS)
            door.drop("a.jsonl")
            await until(lambda: door.status("a") != {})
    (path / "a.jsonl").unlink()
    async with running(parts, path, rules=RULES) as door:
        await door.until_there("done/a.toml")
        await until_left(parts)
        door.drop("a.jsonl")
        await door.until_there("done/a.2.jsonl")
        assert [batch.priority for batch in await door.batches()] == [3, 0]
