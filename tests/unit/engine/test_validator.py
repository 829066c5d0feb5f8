"""The validator moves batches on from ``validating``, with a hold on the input first."""

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container
from pathlib import Path
from typing import BinaryIO

import pytest

from batchd.backends.models import KnownModels
from batchd.bell import Bell
from batchd.config import BatchesConfig
from batchd.engine.inspection import Inspection, Verdict
from batchd.engine.validator import Validator
from batchd.grouping import Order, open_order
from batchd.jsonl import IndexedLines
from batchd.model import BatchRecord, Control, Counts, NewBatch
from batchd.states import BatchStatus, Event
from tests.support.fakes import HastyDisk
from tests.support.parts import ENDPOINT, WINDOW, Parts, opened, request, requests
from tests.support.waiting import until


def input_of(inspection: Inspection) -> Path:
    return vars(inspection)["_places"].input


class HeldInspections:
    """Lets inspections begin, and go on when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.batches: list[str] = []
        self.told_to_stop = 0
        self.go_on = threading.Event()
        judge, stop = Inspection.judge, Inspection.stop

        def held(inspection: Inspection) -> Verdict:
            self.begun += 1
            self.batches.append(input_of(inspection).parent.name)
            assert self.go_on.wait(5)
            return judge(inspection)

        def told(inspection: Inspection) -> None:
            self.told_to_stop += 1
            stop(inspection)

        monkeypatch.setattr(Inspection, "judge", held)
        monkeypatch.setattr(Inspection, "stop", told)
        # A pause, and so a look whether to stop, after each line.
        monkeypatch.setattr("batchd.engine.inspection._SLICE", 1)


class FakeModels:
    def __init__(self) -> None:
        self.known: KnownModels | None = KnownModels(frozenset({"m"}))

    async def known_models(self) -> KnownModels | None:
        return self.known


class Validating:
    def __init__(self, parts: Parts, order: Order = "prefix") -> None:
        self.parts = parts
        self.models = FakeModels()
        self.bell = Bell()
        self.stop = asyncio.Event()
        self.validator = Validator(
            parts.batches,
            parts.files,
            parts.spool,
            parts.room,
            self.models,
            BatchesConfig(max_requests=5, order=order),
            self.bell,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.validator.run(self.stop), name="validator")
            try:
                yield
            finally:
                self.stop.set()
                self.bell.ring()

    async def until_status(self, batch_id: str, status: BatchStatus) -> BatchRecord:
        async with asyncio.timeout(5):
            while (record := await self.parts.row(batch_id)).status is not status:
                pass  # each look is a hop to SQLite's thread
        return record

    async def judged(self, data: bytes, status: BatchStatus) -> BatchRecord:
        record = await self.parts.create((await self.parts.upload(data)).id)
        async with self.running():
            return await self.until_status(record.id, status)

    def holds(self, batch_id: str) -> list[str]:
        folder = self.parts.spool.input(batch_id).parent
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path) as opened_parts:
        yield opened_parts


@pytest.fixture
def it(parts: Parts) -> Validating:
    return Validating(parts)


async def test_a_good_file_is_in_progress_with_its_index(it: Validating) -> None:
    record = await it.judged(requests("ab") + b"\n" + requests("c"), BatchStatus.IN_PROGRESS)
    assert (record.counts, record.model) == (Counts(3), "m")
    assert record.in_progress_at == it.parts.clock()
    assert it.holds(record.id) == ["index", "input"]
    assert it.parts.spool.input(record.id).stat().st_nlink == 2
    lines = await asyncio.to_thread(
        IndexedLines, it.parts.spool.input(record.id), it.parts.spool.index(record.id)
    )
    read = [await asyncio.to_thread(lines.read, index) for index in range(len(lines))]
    lines.close()
    assert read == requests("abc").splitlines()


@pytest.mark.parametrize(("order", "positions"), [("prefix", [0, 2, 1]), ("input", [0, 1, 2])])
async def test_the_order_of_the_lines_is_as_configured(
    parts: Parts, order: Order, positions: list[int]
) -> None:
    it = Validating(parts, order)
    data = b"".join(request(name, size=300).replace(b"x", name.encode()) for name in "aba")
    data = data.replace(b'"a"', b'"c"', 1)
    record = await it.judged(data, BatchStatus.IN_PROGRESS)
    found = await asyncio.to_thread(open_order, parts.spool.order(record.id), total=3, model="m")
    assert found is not None
    assert list(await asyncio.to_thread(found.read, 0, 3)) == positions


async def test_a_faulty_file_fails_with_every_fault(it: Validating) -> None:
    data = request("a") + request("b", model="no-such") + request("a") + b"[]\n"
    record = await it.judged(data, BatchStatus.FAILED)
    assert record.errors is not None
    assert [(error.line, error.code) for error in record.errors] == [
        (2, "model_not_found"),
        (3, "duplicate_custom_id"),
        (4, "invalid_request"),
    ]
    assert (record.output_file_id, record.error_file_id, record.counts) == (None, None, Counts())
    await until(lambda: it.holds(record.id) == [])


async def test_nothing_is_validated_while_the_disk_is_full(
    it: Validating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.engine.validator._LOOK_AGAIN", 0.005)
    record = await it.parts.create((await it.parts.upload(requests("a"))).id)
    looks = 0
    controls = it.parts.batches.controls

    async def counted() -> dict[str, Control]:
        nonlocal looks
        looks += 1
        return await controls()

    monkeypatch.setattr(it.parts.batches, "controls", counted)
    it.parts.room.note_full()
    async with it.running():
        await until(lambda: looks > 3)
        assert it.holds(record.id) == []
        await asyncio.to_thread(it.parts.room.look)
        await it.until_status(record.id, BatchStatus.IN_PROGRESS)


@pytest.mark.parametrize(("left", "words"), [(b"", "has 0 bytes"), (None, "is missing")])
async def test_an_input_that_was_damaged_is_not_validated(
    it: Validating, left: bytes | None, words: str
) -> None:
    """Cut at a line's end it would be a good file with fewer lines."""
    file = await it.parts.upload(requests("ab"))
    path = it.parts.spool.file(file.id)
    await asyncio.to_thread(path.unlink)
    if left is not None:
        await asyncio.to_thread(path.write_bytes, left)
    record = await it.parts.create(file.id)
    async with it.running():
        failed = await it.until_status(record.id, BatchStatus.FAILED)
    assert failed.errors is not None
    (error,) = failed.errors
    assert (error.code, error.param) == ("file_corrupt", "file_id")
    assert f"The bytes of file {file.id} are damaged: it {words}" in error.message
    assert it.holds(record.id) == []


async def test_models_are_not_judged_when_nobody_knows_them(it: Validating) -> None:
    it.models.known = None
    await it.judged(request("a", model="new") + request("b"), BatchStatus.IN_PROGRESS)


async def test_a_batch_without_an_input_file_fails(it: Validating) -> None:
    record = await it.parts.create("file-" + "0" * 22)
    gone = await it.parts.upload(requests("a"))
    second = await it.parts.create(gone.id)
    await asyncio.to_thread(it.parts.spool.file(gone.id).unlink)
    async with it.running():
        for batch in (record, second):
            failed = await it.until_status(batch.id, BatchStatus.FAILED)
            assert failed.errors is not None
            assert failed.errors[0].param == "file_id"


async def test_a_file_deleted_during_validation_fails_the_batch(
    it: Validating, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldInspections(monkeypatch)
    file = await it.parts.upload(requests("ab"))
    record = await it.parts.create(file.id)
    async with it.running():
        await until(lambda: held.begun == 1)
        await it.parts.files.delete("local", file.id)
        held.go_on.set()
        failed = await it.until_status(record.id, BatchStatus.FAILED)
        await until(lambda: it.holds(record.id) == [])
    assert failed.errors is not None
    assert failed.errors[0].message.startswith(f"Cannot find file {file.id}")


@pytest.mark.parametrize("event", [Event.CANCEL, Event.WINDOW_CLOSED])
async def test_a_batch_that_is_wanted_no_more_is_given_up(
    it: Validating, monkeypatch: pytest.MonkeyPatch, event: Event
) -> None:
    held = HeldInspections(monkeypatch)
    record = await it.parts.create((await it.parts.upload(requests("abc"))).id)
    async with it.running():
        await until(lambda: held.begun == 1)
        moved = await it.parts.batches.advance(record.id, event)
        it.bell.ring()
        await until(lambda: held.told_to_stop > 0)
        held.go_on.set()
        await until(lambda: it.holds(record.id) == [])
    assert moved is not None
    assert (await it.parts.row(record.id)).status is moved.status


async def test_a_verdict_that_comes_too_late_changes_nothing(
    it: Validating, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldInspections(monkeypatch)
    record = await it.parts.create((await it.parts.upload(requests("a"))).id)
    async with it.running():
        await until(lambda: held.begun == 1)
        await it.parts.batches.advance(record.id, Event.CANCEL)
        held.go_on.set()
        await until(lambda: it.holds(record.id) == [])
    assert (await it.parts.row(record.id)).status is BatchStatus.CANCELLING


async def test_stopping_gives_up_and_the_next_start_begins_anew(
    it: Validating, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldInspections(monkeypatch)
    record = await it.parts.create((await it.parts.upload(requests("abc"))).id)
    async with it.running():
        await until(lambda: held.begun == 1)
        it.stop.set()
        it.bell.ring()
        await until(lambda: held.told_to_stop > 0)
        held.go_on.set()
    assert (await it.parts.row(record.id)).status is BatchStatus.VALIDATING
    again = Validating(it.parts)
    async with again.running():
        await again.until_status(record.id, BatchStatus.IN_PROGRESS)


async def test_a_small_file_does_not_wait_for_large_ones_but_few_run_at_once(
    it: Validating, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldInspections(monkeypatch)
    file = await it.parts.upload(requests("a"))
    records = [await it.parts.create(file.id) for _ in range(7)]
    async with it.running():
        await until(lambda: held.begun == 4)
        it.bell.ring()
        await asyncio.sleep(0.02)
        assert held.begun == 4
        held.go_on.set()
        for record in records:
            await it.until_status(record.id, BatchStatus.IN_PROGRESS)


class FullOnce(HastyDisk):
    """Has no room for the first hold."""

    def __init__(self) -> None:
        self.asked = 0

    def link_or_copy(self, source: Path, target: Path) -> None:
        self.asked += 1
        if self.asked == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().link_or_copy(source, target)


async def test_a_full_disk_postpones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchd.engine.postponed.POSTPONED", 0.01)
    async with opened(tmp_path, FullOnce()) as parts:
        await Validating(parts).judged(requests("a"), BatchStatus.IN_PROGRESS)
    assert "validation_postponed" in [record.message for record in caplog.records]


class FullFor(HastyDisk):
    """Has no room for the holds of some batches."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.asked: list[str] = []

    def link_or_copy(self, source: Path, target: Path) -> None:
        self.asked.append(target.parent.name)
        if target.parent.name in self.refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().link_or_copy(source, target)


async def test_what_is_postponed_holds_up_nobody(tmp_path: Path) -> None:
    disk = FullFor()
    async with opened(tmp_path, disk) as parts:
        it = Validating(parts)
        file = await parts.upload(requests("a"))
        refused = [await parts.create(file.id) for _ in range(6)]
        disk.refused |= {record.id for record in refused}
        record = await parts.create(file.id)
        async with it.running():
            await it.until_status(record.id, BatchStatus.IN_PROGRESS)
            assert sorted(disk.asked) == sorted([*disk.refused, record.id]), "each of them once"


async def test_what_is_postponed_again_and_again_waits_longer_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.engine.postponed.POSTPONED", 0.01)
    monkeypatch.setattr("batchd.engine.postponed.LONGEST_POSTPONED", 0.02)
    disk = FullFor()
    async with opened(tmp_path, disk) as parts:
        it = Validating(parts)
        record = await parts.create((await parts.upload(requests("a"))).id)
        disk.refused.add(record.id)
        times: list[float] = []
        async with it.running():
            for tries in range(1, 5):
                await until(lambda tries=tries: len(disk.asked) >= tries)
                times.append(asyncio.get_running_loop().time())
            disk.refused.clear()
            await it.until_status(record.id, BatchStatus.IN_PROGRESS)
    assert times[3] - times[1] > 0.03


class Unreadable(HastyDisk):
    """Cannot give out what lies under one name."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.path = Path()

    def open_read(self, path: Path) -> BinaryIO:
        if path == self.path:
            raise OSError(self.number, os.strerror(self.number))
        return super().open_read(path)


def cannot_read(number: int, faulty: Container[Path]) -> Callable[[Inspection], Verdict]:
    """A judge who meets an error of the disk in some inputs."""
    judge = Inspection.judge

    def failing(inspection: Inspection) -> Verdict:
        if input_of(inspection) in faulty:
            raise OSError(number, os.strerror(number))
        return judge(inspection)

    return failing


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
async def test_an_input_that_the_disk_cannot_read_is_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    disk = Unreadable(number)
    async with opened(tmp_path, disk) as parts:
        it = Validating(parts)
        file = await parts.upload(requests("a"))
        record = await parts.create(file.id)
        disk.path = parts.spool.file(file.id)
        faulty = [parts.spool.input(record.id)]
        monkeypatch.setattr(Inspection, "judge", cannot_read(number, faulty))
        async with it.running():
            failed = await it.until_status(record.id, BatchStatus.FAILED)
            await until(lambda: it.holds(record.id) == [])
    assert failed.errors is not None
    (error,) = failed.errors
    assert (error.code, error.param) == ("file_corrupt", "file_id")
    assert f"The bytes of file {file.id} are damaged: it cannot be read" in error.message
    [said] = [entry for entry in caplog.records if entry.message == "damage_found"]
    assert vars(said)["path"] == f"files/{file.id}"


async def test_an_error_of_the_disk_that_passes_only_postpones(
    it: Validating, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchd.engine.postponed.POSTPONED", 0.01)
    record = await it.parts.create((await it.parts.upload(requests("a"))).id)
    faulty = [it.parts.spool.input(record.id)]
    monkeypatch.setattr(Inspection, "judge", cannot_read(errno.EIO, faulty))
    async with it.running():
        await until(lambda: "validation_postponed" in caplog.text)
        faulty.clear()
        await it.until_status(record.id, BatchStatus.IN_PROGRESS)
    assert "damage_found" not in caplog.text


async def create_for(owner: str, parts: Parts, data: bytes) -> BatchRecord:
    async with parts.files.receive() as upload:
        await upload.write(data)
        file = await parts.files.create(
            owner, upload, filename="a.jsonl", purpose="batch", expires_after=None
        )
    wish = NewBatch(
        input_file_id=file.id,
        endpoint=ENDPOINT,
        completion_window="24h",
        window=WINDOW,
        output_expires_after=3600,
    )
    return await parts.batches.create(owner, wish)


async def test_the_one_file_of_an_owner_does_not_wait_for_the_many_of_another(
    it: Validating, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldInspections(monkeypatch)
    many = [await create_for("anna", it.parts, requests("a")) for _ in range(9)]
    one = await create_for("ben", it.parts, requests("a"))
    async with it.running():
        await until(lambda: len(held.batches) == 4)
        assert set(held.batches) == {one.id, *(record.id for record in many[:3])}
        held.go_on.set()
        for record in [*many, one]:
            await it.until_status(record.id, BatchStatus.IN_PROGRESS)


async def test_a_small_file_does_not_wait_for_any_number_of_large_ones(
    it: Validating, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldInspections(monkeypatch)
    monkeypatch.setattr("batchd.engine.validator._SMALL", len(requests("a")))
    large = [await create_for("anna", it.parts, requests("abc")) for _ in range(6)]
    async with it.running():
        await until(lambda: len(held.batches) == 3)
        small = await create_for("anna", it.parts, requests("a"))
        it.bell.ring()
        await until(lambda: len(held.batches) == 4)
        assert held.batches[3] == small.id
        held.go_on.set()
        for record in [*large, small]:
            await it.until_status(record.id, BatchStatus.IN_PROGRESS)


class DeletedMeanwhile(HastyDisk):
    """Somebody deletes the file after its row was found and before it is held."""

    def link_or_copy(self, source: Path, target: Path) -> None:
        source.unlink()
        super().link_or_copy(source, target)


async def test_a_file_deleted_just_before_it_is_held_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, DeletedMeanwhile()) as parts:
        it = Validating(parts)
        record = await it.judged(requests("a"), BatchStatus.FAILED)
        assert not parts.spool.input(record.id).parent.exists()


async def test_what_nobody_foresaw_fails_one_batch_and_not_the_daemon(
    it: Validating, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(_inspection: Inspection) -> Verdict:
        raise LookupError

    with monkeypatch.context() as patch:
        patch.setattr(Inspection, "judge", break_down)
        failed = await it.judged(request("a"), BatchStatus.FAILED)
    assert failed.errors is not None
    assert "its log says why" in failed.errors[0].message
    assert "validation_failed" in [entry.message for entry in caplog.records]
    it.stop.clear()
    await it.judged(request("b"), BatchStatus.IN_PROGRESS)
