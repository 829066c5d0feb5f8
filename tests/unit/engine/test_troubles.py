"""Lines that have failed before are told with their names, the worst first. Real rows and input."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchd.engine.runs import Run
from batchd.engine.troubles import Troubles
from batchd.model import Retrying, TroubledLine
from batchd.retry import LineState
from tests.support.bench import Bench
from tests.support.fakes import BUSY, OK, FakeCaller, HastyDisk
from tests.support.parts import Parts, opened, requests
from tests.support.waiting import until


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path, HastyDisk()) as opened_parts:
        yield opened_parts


def troubles(bench: Bench) -> Troubles:
    return Troubles(bench.runs, bench.inputs, bench.parts.spool.disk)


def note(run: Run, index: int, faults: int, wait: float | None = None) -> None:
    run.note(index, LineState(faults=faults, attempts=faults + 1, kind="http_503", backend="gpu"))
    if wait is not None:
        run.queues[0].wait_until(index, asyncio.get_running_loop().time() + wait)


async def test_a_line_says_what_it_has_been_through(parts: Parts) -> None:
    bench = Bench(parts)
    run = await bench.add(requests("abc"))
    note(run, 1, faults=2, wait=60.0)
    (line,), has_more = await troubles(bench).of(run.id, 20)
    assert not has_more
    assert line.next_attempt_in == pytest.approx(60.0, abs=2.0)
    assert line == TroubledLine(
        line=2,
        custom_id="b",
        attempts=3,
        faults=2,
        last_failure="http_503",
        backend="gpu",
        next_attempt_in=line.next_attempt_in,
    )


async def test_the_worst_come_first_and_no_more_than_were_asked_for(parts: Parts) -> None:
    bench = Bench(parts)
    run = await bench.add(requests("abcd"))
    for index, faults in enumerate((1, 3, 0, 3)):
        note(run, index, faults)
    lines, has_more = await troubles(bench).of(run.id, 3)
    assert [line.custom_id for line in lines] == ["b", "d", "a"]
    assert has_more
    assert [line.next_attempt_in for line in lines] == [None, None, None]


async def test_where_a_line_failed_in_an_earlier_life_is_not_known(parts: Parts) -> None:
    bench = Bench(parts)
    run = await bench.add(requests("a"))
    run.remember({0: LineState(faults=1, attempts=1, kind="timeout")})
    (line,), _ = await troubles(bench).of(run.id, 1)
    assert (line.backend, line.last_failure) == (None, "timeout")


async def test_a_line_that_cannot_be_read_is_told_without_its_name(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(parts)
    run = await bench.add(requests("ab"))
    note(run, 0, 1)
    monkeypatch.setattr("batchd.engine.troubles._LONGEST", 3)
    assert [line.custom_id for line in (await troubles(bench).of(run.id, 1))[0]] == [None]
    monkeypatch.undo()
    bench.inputs.forget(run.id)
    parts.spool.index(run.id).unlink()
    assert [line.custom_id for line in (await troubles(bench).of(run.id, 1))[0]] == [None]


async def test_a_batch_that_does_not_run_has_none(parts: Parts) -> None:
    assert await troubles(Bench(parts)).of("batch_0", 5) == ([], False)


async def test_an_input_is_not_kept_open_for_a_batch_that_ended_meanwhile(parts: Parts) -> None:
    bench = Bench(parts)
    run = await bench.add(requests("a"))
    note(run, 0, 1)
    asked = asyncio.create_task(troubles(bench).of(run.id, 1))
    await asyncio.sleep(0)
    bench.runs.remove(run)
    assert len((await asked)[0]) == 1
    assert str(parts.spool.input(run.id)) not in open_files()


def open_files() -> list[str]:
    found: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return found


async def test_a_running_batch_counts_the_lines_it_tries_again_by_kind(parts: Parts) -> None:
    server = FakeCaller({"a": [BUSY, OK], "b": [BUSY, BUSY, OK]}, open_gate=False)
    bench = Bench(parts, server)
    run = await bench.add(requests("abc"))
    assert live(parts, run) is None
    run.remember({2: LineState(faults=1, attempts=1, kind="timeout")})
    assert live(parts, run) == Retrying(1, {"timeout": 1})
    bench.runner.admit(run)
    async with bench.running():
        await until(lambda: len(server.received) == 3)
        server.gate.set()
        await until(lambda: run.is_drained)
    assert run.retrying is None
    assert live(parts, run) is None


def live(parts: Parts, run: Run) -> Retrying | None:
    progress = parts.batches.live.of(run.id)
    assert progress is not None
    return progress.retrying
