"""Results at the command line with the real daemon: as they come, in parts, and over retries."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.model_process import ModelProcess
from tests.support.model_settings import Settings
from tests.support.shell import LIMIT, batchd, shell
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[BatchdProcess]:
    with (
        ModelProcess(tmp_path, settings=Settings(delay=0.02, slots=8)) as model,
        BatchdProcess(
            tmp_path / "batchd", backend=model.base_url, settings={"batches": {"max_requests": 300}}
        ) as daemon,
    ):
        yield daemon


def write_input(path: Path, count: int, behaviours: tuple[str, ...] = ("ok",)) -> Path:
    with path.open("w") as out:
        for number in range(count):
            body = {
                "model": "test-model",
                "messages": [{"role": "user", "content": f"What is {number}?"}],
                "behave": behaviours[number % len(behaviours)],
            }
            line = {"custom_id": f"line-{number}", "method": "POST", "body": body}
            out.write(json.dumps(line | {"url": "/v1/chat/completions"}) + "\n")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: a torn one would not be JSON."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def named(path: Path) -> list[str]:
    return sorted(line["custom_id"] for line in lines(path))


def names(count: int) -> list[str]:
    return sorted(f"line-{number}" for number in range(count))


def submitted(daemon: BatchdProcess, path: Path, *options: str) -> list[str]:
    done = batchd(daemon.url, "submit", path, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def grown(path: Path, count: int) -> None:
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, within=LIMIT)


def test_following_outlives_the_daemons_deaths_and_writes_each_line_once(
    daemon: BatchdProcess, tmp_path: Path
) -> None:
    (batch,) = submitted(daemon, write_input(tmp_path / "in.jsonl", 300, ("slow:0.1", "ok", "400")))
    out, err = tmp_path / "out.jsonl", tmp_path / "err.jsonl"
    options = ("--follow", "-o", out, "--errors", err)
    with shell(daemon.url, "results", batch, *options, terminal=False) as following:
        for count in (10, 60):
            grown(out, count)
            daemon.kill()
            following.until("waiting for batchd")
            following.seen = ""
            daemon.start()
        following.until("200 of 300 lines answered, 100 failed", within=60)
        assert following.code() == 0
    assert sorted([*named(out), *named(err)]) == names(300)
    assert (len(lines(out)), len(lines(err))) == (200, 100)


def test_ctrl_c_leaves_a_command_that_goes_on_without_a_line_twice(
    daemon: BatchdProcess, tmp_path: Path
) -> None:
    (batch,) = submitted(daemon, write_input(tmp_path / "in.jsonl", 200, ("slow:0.1", "ok")))
    out = tmp_path / "out.jsonl"
    with shell(daemon.url, "results", batch, "--follow", "-o", out) as following:
        grown(out, 10)
        following.interrupt()
        following.until(str(out))
        assert following.code() == 1
    assert "Detached; the batch goes on." in following.seen
    assert "Traceback" not in following.seen
    found = re.search(r"batchd (results \S+ --follow --after \S+ -o \S+)", following.seen)
    assert found, following.seen
    done = batchd(daemon.url, *found[1].split())
    assert done.returncode == 0, done.stderr
    assert named(out) == names(200)


def test_what_is_there_so_far_and_what_came_since_are_the_whole(
    daemon: BatchdProcess, tmp_path: Path
) -> None:
    (batch,) = submitted(daemon, write_input(tmp_path / "in.jsonl", 100, ("slow:0.1", "ok")))
    out, cursor, more = tmp_path / "out.jsonl", "", True
    deadline = time.monotonic() + LIMIT
    while more and time.monotonic() < deadline:
        after = ("--after", cursor) if cursor else ("--force",)
        told = batchd(daemon.url, "results", batch, "-o", out, "--with-input", "--json", *after)
        answer = json.loads(told.stdout)
        more = answer["has_more"]
        cursor = answer["next_cursor"] if out.exists() else ""
    last = batchd(daemon.url, "results", batch, "-o", out, "--with-input", "--after", cursor)
    assert "100 of 100 lines answered" in last.stderr
    assert named(out) == names(100)
    assert all(line["input"]["custom_id"] == line["custom_id"] for line in lines(out))


def test_a_paused_batch_waits_through_a_restart_until_it_is_resumed(
    daemon: BatchdProcess, tmp_path: Path
) -> None:
    (batch,) = submitted(daemon, write_input(tmp_path / "in.jsonl", 200, ("slow:0.2",)))
    paused = batchd(daemon.url, "pause", batch)
    assert paused.returncode == 0, paused.stderr
    assert f"batchd resume {batch}" in paused.stderr
    daemon.restart()
    assert batchd(daemon.url, "list").stdout.splitlines()[1].split()[1] == "paused"
    shown = batchd(daemon.url, "show", batch).stdout
    assert "paused    since" in shown
    assert batchd(daemon.url, "priority", batch, "-5").returncode == 0
    assert batchd(daemon.url, "resume", batch).returncode == 0
    assert batchd(daemon.url, "wait", batch).returncode == 0
    assert "priority  -5" in batchd(daemon.url, "show", batch).stdout
    ended = batchd(daemon.url, "pause", batch)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Cannot pause a batch with status 'completed'" in ended.stderr


def test_failed_lines_are_run_again_and_joined_with_the_others(
    daemon: BatchdProcess, tmp_path: Path
) -> None:
    behaviours = ("ok", "400:1", "400:2", "422", "ok")
    first, *_ = submitted(daemon, write_input(tmp_path / "in.jsonl", 50, behaviours), "--wait")
    again = batchd(daemon.url, "retry", first, "--code", "400", "--wait", "--priority", "3")
    assert again.returncode == 0, again.stderr
    second = again.stdout.splitlines()[0]
    assert "10 of 20 lines answered, 10 failed" in again.stdout
    assert f"parent    {first}" in batchd(daemon.url, "show", second).stdout
    third = batchd(daemon.url, "retry", second, "--wait").stdout.splitlines()[0]
    for number, batch in enumerate((first, second, third)):
        out, err = tmp_path / f"out-{number}", tmp_path / f"err-{number}"
        merged = batchd(daemon.url, "results", batch, "--merged", "-o", out, "--errors", err)
        assert merged.returncode == 0, merged.stderr
        assert "3 batches merged: 40 lines answered, 10 not" in merged.stderr
        assert sorted([*named(out), *named(err)]) == names(50)
        assert {line["response"]["status_code"] for line in lines(err)} == {422}
    nothing = batchd(daemon.url, "retry", third)
    assert nothing.returncode == 1
    assert "every line of it was answered" in nothing.stderr


def test_a_file_over_the_daemons_limit_is_several_batches_and_one_pair_of_results(
    daemon: BatchdProcess, tmp_path: Path
) -> None:
    path = write_input(tmp_path / "in.jsonl", 700, ("ok", "ok", "400"))
    done = batchd(daemon.url, "submit", path, "--wait")
    assert done.returncode == 0, done.stderr
    assert "700 lines" in done.stderr
    assert "is sent as 3 batches: one takes at most 300 lines" in done.stderr
    output, errors = tmp_path / "in.output.jsonl", tmp_path / "in.errors.jsonl"
    assert sorted([*named(output), *named(errors)]) == names(700)
    listed = json.loads(batchd(daemon.url, "list", "--json").stdout)["data"]
    assert [batch["metadata"]["batchd_part"] for batch in listed] == ["3/3", "2/3", "1/3"]
    again = tmp_path / "again.jsonl"
    ids = [batch["id"] for batch in reversed(listed)]
    assert batchd(daemon.url, "results", *ids, "-o", again).returncode == 0
    assert again.read_bytes() == output.read_bytes()
