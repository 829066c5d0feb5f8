"""The keeper keeps runs in step with their rows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchd.bell import Bell
from batchd.engine.keeper import Keeper
from batchd.errors import NoRoom
from batchd.model import Control, Counts
from batchd.states import BatchStatus, Event
from tests.support.bench import Bench
from tests.support.fakes import FakeCaller
from tests.support.parts import Parts, opened, requests
from tests.support.waiting import until


class CountedBell(Bell):
    """Counts its rings since it was last asked."""

    def __init__(self) -> None:
        super().__init__()
        self._rings = 0

    def ring(self) -> None:
        self._rings += 1
        super().ring()

    def was_rung(self) -> bool:
        rings, self._rings = self._rings, 0
        return rings > 0


class Keeping(Bench):
    def __init__(self, parts: Parts, *, grace: float = 60, open_gate: bool = True) -> None:
        super().__init__(parts, FakeCaller(open_gate=open_gate))
        self.bell = Bell()
        self.finalizer_bell = CountedBell()
        self.keeper = Keeper(
            parts.batches,
            self.runs,
            self.recovery,
            self.runner,
            bell=self.bell,
            finalizer_bell=self.finalizer_bell,
            grace=grace,
        )


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path) as opened_parts:
        yield opened_parts


async def test_a_validated_batch_gets_its_run_and_is_worked_off(parts: Parts) -> None:
    it = Keeping(parts)
    record = await parts.running(requests("abc"))
    waiting = await parts.create("file-" + "0" * 22)
    async with it.running():
        await it.keeper.follow()
        run = it.run_of(record.id)
        await until(lambda: run.is_drained)
        await it.keeper.follow()
    assert (await parts.row(record.id)).status is BatchStatus.FINALIZING
    assert run.status is BatchStatus.FINALIZING
    assert it.finalizer_bell.was_rung()
    assert waiting.id not in it.runs


async def test_a_cancelled_run_starts_nothing_more(parts: Parts) -> None:
    it = Keeping(parts, open_gate=False)
    run = await it.add(requests("abcdefgh"))
    async with it.running():
        await it.keeper.follow()
        await until(lambda: len(it.server.received) == 4)
        await parts.batches.cancel("local", run.id)
        await it.keeper.follow()
        assert not it.finalizer_bell.was_rung()
        it.server.gate.set()
        await until(lambda: run.is_quiet)
        await it.keeper.follow()
    assert it.finalizer_bell.was_rung()
    assert len(it.server.received) == 4
    assert run.ledger.counts == Counts(8, 4, 0)


async def test_after_the_grace_what_is_in_flight_is_broken_off(parts: Parts) -> None:
    it = Keeping(parts, open_gate=False, grace=0)
    run = await it.add(requests("abcdefgh"))
    async with it.running():
        await it.keeper.follow()
        await until(lambda: len(it.server.received) == 4)
        await parts.batches.advance(run.id, Event.WINDOW_CLOSED)
        await it.keeper.follow()
        await until(lambda: run.is_quiet)
    assert run.ledger.missing == 8


async def test_a_run_that_lost_its_input_is_handed_over(parts: Parts) -> None:
    it = Keeping(parts)
    run = await it.add(requests("ab"))
    run.input_lost = True
    await it.keeper.follow()
    assert (await parts.row(run.id)).status is BatchStatus.FINALIZING


async def test_a_step_that_came_too_late_changes_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Keeping(parts)
    run = await it.add(requests("ab"))
    run.input_lost = True
    controls = await parts.batches.controls()
    await parts.batches.cancel("local", run.id)

    async def stale() -> dict[str, Control]:
        return controls

    with monkeypatch.context() as patch:
        patch.setattr(parts.batches, "controls", stale)
        await it.keeper.follow()
    assert (await parts.row(run.id)).status is BatchStatus.CANCELLING
    await it.keeper.follow()
    assert run.status is BatchStatus.CANCELLING


async def test_it_writes_down_how_far_the_ledger_is_known_to_be_good(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.engine.keeper._CHECKPOINT_EVERY", 0)
    it = Keeping(parts)
    run = await it.add(requests("abc"))
    stop = asyncio.Event()
    async with it.running(), asyncio.TaskGroup() as tasks:
        tasks.create_task(it.keeper.run(stop), name="keeper")
        await until(lambda: run.status is BatchStatus.FINALIZING)
        it.bell.ring()
        rows = [await parts.row(run.id)]
        while not rows[-1].output_end:
            rows.append(await parts.row(run.id))
        stop.set()
        it.bell.ring()
    row = rows[-1]
    assert row.output_file_id is not None
    assert row.output_end == parts.spool.file(row.output_file_id).stat().st_size
    assert (row.error_end, row.counts) == (0, Counts(3, 3, 0))
    assert row.usage.total_tokens == 15


async def test_a_full_disk_does_not_end_it(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    it = Keeping(parts)
    run = await it.add(requests("a"))
    stop = asyncio.Event()

    async def full(_work: object) -> None:
        raise NoRoom

    async with it.running(), asyncio.TaskGroup() as tasks:
        with monkeypatch.context() as patch:
            patch.setattr(parts.database, "write", full)
            tasks.create_task(it.keeper.run(stop), name="keeper")
            await until(lambda: run.is_drained)
            it.bell.ring()
            await until(lambda: "step_waits" in [record.message for record in caplog.records])
        it.bell.ring()
        await until(lambda: run.status is BatchStatus.FINALIZING)
        stop.set()
        it.bell.ring()
