"""A batch ends in one transaction with every line written down; a crash before it is no matter."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from batchd.bell import Bell
from batchd.engine.finalizer import Finalizer
from batchd.engine.runs import Run
from batchd.errors import NoRoom
from batchd.ledger import Tally
from batchd.model import BatchRecord, Counts, LineFile, Usage
from batchd.states import BatchStatus, Event
from batchd.store.database import Work
from batchd.wire.lines import reply_line, request_line
from tests.support.bench import Bench
from tests.support.fakes import OK, REFUSED, FakeCaller
from tests.support.parts import WINDOW, Parts, opened, request, requests
from tests.support.waiting import until


def missing(run: Run) -> set[int]:
    """The lines without a durable result."""
    found, index = set[int](), run.ledger.next_missing(0)
    while index is not None:
        found.add(index)
        index = run.ledger.next_missing(index + 1)
    return found


class Endings(Bench):
    """A finalizer with its runs."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts, FakeCaller())
        self.bell = Bell()
        self.finalizer = Finalizer(parts.batches, self.runs, parts.spool, self.inputs, self.bell)

    async def settle(self, run: Run, *indexes: int, refused: bool = False) -> None:
        """Write results of some lines down."""
        reply = REFUSED if refused else OK
        which = LineFile.ERROR if refused else LineFile.OUTPUT
        for index in indexes:
            text = await asyncio.to_thread(self.inputs.read, run.id, index)
            line = reply_line(run.tag, request_line(index, text), reply)
            run.ledger.append(which, index, line, reply.usage, lambda: None)
        await until(lambda: not {*indexes} & missing(run))

    async def close(self, run: Run, event: Event) -> None:
        moved = await self.parts.batches.advance(run.id, event)
        assert moved is not None
        run.status = moved.status

    async def end(self, run: Run) -> BatchRecord:
        await self.finalizer.end(run)
        return await self.parts.row(run.id)

    def codes(self, file_id: str | None) -> list[str | int]:
        """The error codes of an error file; the status of lines that have an answer."""
        found: list[str | int] = []
        for line in self.parts.results(file_id):
            error = cast("dict[str, str] | None", line["error"])
            response = cast("dict[str, int] | None", line["response"])
            if error is not None:
                found.append(error["code"])
            elif response is not None:
                found.append(response["status_code"])
        return found


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Endings]:
    async with opened(tmp_path) as parts:
        yield Endings(parts)


async def test_a_batch_whose_lines_are_all_done_is_completed(it: Endings) -> None:
    run = await it.add(requests("abc"))
    await it.settle(run, 0, 2)
    await it.settle(run, 1, refused=True)
    await it.close(run, Event.LINES_DONE)
    hidden = await it.parts.row(run.id)
    ended = await it.end(run)
    assert ended.status is BatchStatus.COMPLETED
    assert ended.counts == Counts(3, 2, 1)
    assert ended.usage == Usage(4, 0, 6, 0, 10)
    assert (ended.output_file_id, ended.error_file_id) == (
        hidden.output_file_id,
        hidden.error_file_id,
    )
    for file_id, name in ((ended.output_file_id, "output"), (ended.error_file_id, "error")):
        assert file_id is not None
        file = await it.parts.files.get("local", file_id)
        assert file.bytes == it.parts.spool.file(file_id).stat().st_size
        assert file.filename == f"{run.id}_{name}.jsonl"
        assert file.expires_at == it.parts.clock() + 3600
    assert run.id not in it.runs
    assert not it.parts.spool.input(run.id).parent.exists()


async def test_an_empty_result_file_becomes_none(it: Endings) -> None:
    run = await it.add(requests("a"))
    row = await it.parts.row(run.id)
    assert row.error_file_id is not None
    await asyncio.to_thread(it.parts.spool.file(row.error_file_id).touch)
    await it.settle(run, 0)
    await it.close(run, Event.LINES_DONE)
    ended = await it.end(run)
    assert (ended.output_file_id, ended.error_file_id) == (row.output_file_id, None)
    assert not it.parts.spool.file(row.error_file_id).exists()


async def test_cancelled_lines_are_told_so_and_counted_in_neither(it: Endings) -> None:
    run = await it.add(requests("abcd"))
    await it.settle(run, 1)
    await it.close(run, Event.CANCEL)
    ended = await it.end(run)
    assert ended.status is BatchStatus.CANCELLED
    assert ended.counts == Counts(4, 1, 0)
    assert it.codes(ended.error_file_id) == ["batch_cancelled"] * 3
    _, error = await it.results(run)
    assert sorted(error) == ["a", "c", "d"]


async def test_lines_that_the_window_closed_on_are_expired(it: Endings) -> None:
    run = await it.add(requests("abc"))
    await it.settle(run, 0)
    await it.settle(run, 2, refused=True)
    it.parts.clock.at += WINDOW
    await it.close(run, Event.WINDOW_CLOSED)
    ended = await it.end(run)
    assert ended.status is BatchStatus.EXPIRED
    assert ended.counts == Counts(3, 1, 1)
    assert it.codes(ended.error_file_id) == [400, "batch_expired"]


async def test_a_window_that_closes_when_every_line_ran_completes(it: Endings) -> None:
    run = await it.add(requests("a"))
    await it.settle(run, 0)
    it.parts.clock.at += WINDOW
    await it.close(run, Event.WINDOW_CLOSED)
    assert (await it.end(run)).status is BatchStatus.COMPLETED


@pytest.mark.parametrize("lost", ["truncated", "gone"])
async def test_lines_whose_input_was_lost_end_as_server_error(it: Endings, lost: str) -> None:
    run = await it.add(requests("abc"))
    await it.settle(run, 0)
    it.inputs.forget(run.id)
    path = it.parts.spool.input(run.id)
    await asyncio.to_thread(path.unlink)
    if lost == "truncated":
        await asyncio.to_thread(path.write_bytes, request("a") + request("b")[:-9])
    run.input_lost = True
    await it.close(run, Event.LINES_DONE)
    ended = await it.end(run)
    assert ended.status is BatchStatus.COMPLETED
    assert ended.counts == Counts(3, 1, 2)  # the counts of a completed batch add up
    assert it.codes(ended.error_file_id) == ["server_error"] * 2
    assert [line["custom_id"] for line in it.parts.results(ended.error_file_id)] == ["", ""]
    assert ["could not be read" in note for note in ended.notes] == [True]


async def test_many_lines_are_filled_in_by_groups(it: Endings) -> None:
    run = await it.add(b"".join(request(f"line-{number}") for number in range(1100)))
    await it.settle(run, 0, 600, 1099)
    await it.close(run, Event.CANCEL)
    ended = await it.end(run)
    output, error = await it.results(run)
    assert (len(output), len(error)) == (3, 1097)
    assert ended.counts == Counts(1100, 3, 0)


async def test_a_batch_that_does_not_add_up_stays_and_says_why(
    it: Endings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await it.add(requests("ab"))
    await it.settle(run, 0, 1)
    tally = Tally()
    tally.completed = 1
    monkeypatch.setattr(run.ledger, "_tally", tally)
    await it.close(run, Event.LINES_DONE)
    stays = await it.end(run)
    assert stays.status is BatchStatus.FINALIZING
    assert stays.notes == ["result lines and request lines do not add up (1 of 2); see the log"]
    assert "batch_miscounted" in [record.message for record in caplog.records]
    assert run.is_ending
    assert run.id in it.runs


async def test_a_cancel_in_between_is_taken_up_at_the_next_look(
    it: Endings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await it.add(requests("ab"))
    await it.settle(run, 0)
    it.parts.clock.at += WINDOW
    await it.close(run, Event.WINDOW_CLOSED)
    append = run.ledger.append_never_run

    async def and_cancel(results: list[tuple[int, bytes]], *, failed: bool) -> None:
        await append(results, failed=failed)
        await it.parts.batches.advance(run.id, Event.CANCEL)

    monkeypatch.setattr(run.ledger, "append_never_run", and_cancel)
    assert (await it.end(run)).status is BatchStatus.CANCELLING
    assert not run.is_ending
    ended = await it.end(run)
    assert ended.status is BatchStatus.CANCELLED
    assert it.codes(ended.error_file_id) == ["batch_expired"]


async def test_a_batch_that_is_not_closing_is_left_alone(it: Endings) -> None:
    run = await it.add(requests("a"))
    run.is_ending = True
    assert (await it.end(run)).status is BatchStatus.IN_PROGRESS
    assert not run.is_ending


async def test_without_room_for_the_transaction_it_is_tried_again(
    it: Endings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await it.add(requests("a"))
    await it.settle(run, 0)
    await it.close(run, Event.LINES_DONE)

    async def full(_work: Work[object]) -> object:
        raise NoRoom

    with monkeypatch.context() as patch:
        patch.setattr(it.parts.database, "write", full)
        run.is_ending = True
        assert (await it.end(run)).status is BatchStatus.FINALIZING
        assert not run.is_ending
    assert (await it.end(run)).status is BatchStatus.COMPLETED


async def test_a_crash_before_the_transaction_is_finalized_again(
    it: Endings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await it.add(requests("abc"))
    await it.settle(run, 0)
    await it.close(run, Event.CANCEL)

    async def die(*_: object) -> None:
        raise LookupError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(it.parts.batches, "finished", die)
        with pytest.raises(LookupError):
            await it.end(run)
    again = Endings(it.parts)
    await again.recovery.recover_all()
    second = again.run_of(run.id)
    assert (second.ledger.missing, second.ledger.never_run) == (0, 2)
    ended = await again.end(second)
    assert (ended.status, ended.counts) == (BatchStatus.CANCELLED, Counts(3, 1, 0))
    output, error = await again.results(second)
    assert (sorted(output), sorted(error)) == (["a"], ["b", "c"])
    assert {path.name for path in (tmp_path / "files").iterdir()} == {
        ended.input_file_id,
        ended.output_file_id,
        ended.error_file_id,
    }


async def test_it_ends_what_is_quiet_until_told_to_stop(it: Endings) -> None:
    ready, busy = await it.add(requests("a")), await it.add(requests("b"))
    unvalidated = await it.parts.create("file-" + "0" * 22)
    await it.parts.batches.cancel("local", unvalidated.id)
    busy.unsettled = 1
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(it.finalizer.run(stop), name="finalizer")
        for run in (ready, busy):
            await it.close(run, Event.CANCEL)
        it.bell.ring()
        await until(lambda: ready.id not in it.runs)
        assert busy.id in it.runs
        busy.unsettled = 0
        it.bell.ring()
        await until(lambda: busy.id not in it.runs)
        stop.set()
        it.bell.ring()
    never_ran = await it.parts.row(unvalidated.id)
    assert never_ran.status is BatchStatus.CANCELLED
    assert (never_ran.output_file_id, never_ran.error_file_id) == (None, None)
