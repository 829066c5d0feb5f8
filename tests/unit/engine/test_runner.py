"""The runner sees every line to its end, within its bounds. Real writer, ledger, spool and rows."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchd.engine.queue import LineQueue
from batchd.engine.reading import OrderLost
from batchd.gathering import Group
from batchd.model import Counts, Outcome, Reply, RequestLine
from batchd.states import BatchStatus
from tests.support.bench import Bench
from tests.support.fakes import (
    BUSY,
    OK,
    REFUSED,
    THROTTLED,
    TIMED_OUT,
    UNREACHABLE,
    FakeCaller,
    TroubledDisk,
    config_of,
)
from tests.support.parts import Parts, opened, request, requests
from tests.support.waiting import until

if TYPE_CHECKING:
    from array import array

    from batchd.engine.runs import Run

Script = Mapping[str, Sequence[Outcome]]
MakeBench = Callable[..., Bench]


@pytest.fixture(autouse=True)
def looks_for_room_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchd.writer._FULL_RETRY", 0.005)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path, TroubledDisk()) as opened_parts:
        yield opened_parts


@pytest.fixture
def bench(parts: Parts) -> MakeBench:
    def make(
        script: Script | None = None, *, slots: int = 4, open_gate: bool = True, **bounds: float
    ) -> Bench:
        server = FakeCaller(script, open_gate=open_gate)
        configs = [config_of(max_in_flight=slots)]
        return Bench(parts, server, configs=configs, servers=None, **bounds)

    return make


async def test_every_line_is_written_down_once(bench: MakeBench) -> None:
    it = bench(
        {
            "b": [BUSY, OK],
            "c": [REFUSED],
            "d": [TIMED_OUT],
            "e": [TIMED_OUT, BUSY, BUSY],
            "f": [THROTTLED, THROTTLED, OK],
        }
    )
    run = await it.add(requests("abcdefgh"))
    await it.work_off(run)
    output, error = await it.results(run)
    assert sorted(output) == ["a", "b", "f", "g", "h"]
    assert sorted(error) == ["c", "d", "e"]
    assert error["d"] == {
        "code": "request_timeout",
        "message": "The model server did not answer in time.",
    }
    assert isinstance(error["e"], dict)
    assert error["e"]["status_code"] == 503
    attempts = {name: it.server.received.count(name) for name in "abcdefgh"}
    assert attempts == {"a": 1, "b": 2, "c": 1, "d": 3, "e": 3, "f": 3, "g": 1, "h": 1}
    assert run.ledger.counts == Counts(8, 5, 3)
    assert run.ledger.usage.total_tokens == 25
    assert it.drained >= 1
    assert it.memory.held == 0


async def test_lines_of_two_batches_take_turns(bench: MakeBench) -> None:
    it = bench(slots=1)
    large, small = await it.add(requests("abcdefgh")), await it.add(requests("12"))
    await it.work_off(large, small)
    assert it.server.received[:4] == ["a", "1", "b", "2"]


async def test_no_more_is_in_flight_than_there_are_slots(bench: MakeBench) -> None:
    it = bench(slots=3, open_gate=False)
    run = await it.add(requests("abcdefghij"))
    it.runner.admit(run)
    async with it.running():
        await until(lambda: len(it.server.received) == 3)
        await asyncio.sleep(0.02)
        assert it.server.received == ["a", "b", "c"]
        it.server.gate.set()
        await until(lambda: run.is_drained)
    assert it.server.most_in_flight == 3


async def test_no_more_is_sent_and_not_durable_than_twice_the_slots(
    bench: MakeBench, parts: Parts
) -> None:
    it = bench(slots=3)
    run = await it.add(requests("abcdefghijklmnop"))
    most = 0

    def look() -> None:
        nonlocal most
        most = max(most, run.unsettled)

    it.server.on_send = look
    disk = parts.spool.disk
    assert isinstance(disk, TroubledDisk)
    disk.room = 0
    it.runner.admit(run)
    async with it.running():
        await until(lambda: parts.writer.is_full)
        await asyncio.sleep(0.02)
        assert len(it.server.received) <= 6
        assert run.ledger.counts == Counts(16)
        disk.room = None
        await until(lambda: run.is_drained)
    assert most <= 6
    assert len(it.server.received) == 16


async def test_what_was_being_read_as_the_disk_ran_full_is_not_sent(
    bench: MakeBench, parts: Parts
) -> None:
    it = bench(slots=3)
    run = await it.add(requests("abcdef"))
    read_picks, looks = it.inputs.read_picks, 0

    def read_and_fill(*given: object, **named: object) -> object:
        nonlocal looks
        looks += 1
        found = read_picks(*given, **named)  # type: ignore[arg-type] # passed on as they came
        if looks == 1:
            parts.room.note_full()
        return found

    it.inputs.read_picks = read_and_fill  # type: ignore[method-assign,assignment] # the disk fills
    it.runner.admit(run)
    async with it.running():
        await until(lambda: looks == 1 and run.unsettled == 0)
        assert it.server.received == []
        await asyncio.to_thread(parts.room.look)
        await until(lambda: run.is_drained)
    assert sorted(it.server.received) == sorted("abcdef")
    assert it.memory.held == 0


async def test_bodies_in_memory_keep_to_the_budget(bench: MakeBench) -> None:
    it = bench(slots=8, memory=5000, open_gate=False)
    run = await it.add(requests("abcdef", size=1500))
    looks = 0
    read_picks = it.inputs.read_picks

    def counted(*given: object, **named: object) -> object:
        nonlocal looks
        looks += 1
        return read_picks(*given, **named)  # type: ignore[arg-type] # passed on as they came

    it.inputs.read_picks = counted  # type: ignore[method-assign,assignment] # only counts
    it.runner.admit(run)
    async with it.running():
        await until(lambda: len(it.server.received) == 3)
        await asyncio.sleep(0.05)
        assert len(it.server.received) == 3
        assert looks < 5  # it waits for room, it does not spin
        it.server.gate.set()
        await until(lambda: run.is_drained)
    assert sorted(it.server.received) == list("abcdef")


async def test_lines_that_are_long_in_coming_leave_the_memory_to_others(parts: Parts) -> None:
    """What an answer takes counts once it comes: nobody knows before."""
    slow, fast = FakeCaller(open_gate=False), FakeCaller()
    it = Bench(
        parts,
        configs=[
            config_of("slow", models=("slow",), max_in_flight=64),
            config_of("fast", models=("fast",), max_in_flight=4),
        ],
        servers={"slow": slow, "fast": fast},
    )
    runs: list[Run] = []
    for model in ("slow", "fast"):
        run = await it.add(b"".join(request(f"{model}-{n}", model=model) for n in range(100)))
        group = Group(model, 1, 0, 100, is_rest=False)
        run.queues = [LineQueue(model, [group], None, run.ledger, {})]
        it.runner.admit(run)
        runs.append(run)
    async with it.running():
        await until(lambda: runs[1].is_drained and len(slow.received) == 64)
        slow.gate.set()
        await until(lambda: runs[0].is_drained)
    assert it.memory.held == 0


async def test_an_answer_that_waits_for_the_disk_takes_what_it_has(parts: Parts) -> None:
    disk = parts.spool.disk
    assert isinstance(disk, TroubledDisk)
    disk.room = 0
    it = Bench(parts, configs=[config_of(max_in_flight=64)])
    run = await it.add(requests("abcdefghijkl"))
    it.runner.admit(run)
    async with it.running():
        await until(lambda: parts.writer.is_full and not run.attempts)
        assert 0 < it.memory.held < 12 * 1000
        disk.room = None
        await until(lambda: run.is_drained)
    assert it.memory.held == 0


async def test_a_line_larger_than_the_budget_goes_alone(bench: MakeBench) -> None:
    it = bench(slots=8, memory=10)
    run = await it.add(requests("abc", size=100))
    await it.work_off(run)
    assert it.server.most_in_flight == 1
    assert sorted(it.server.received) == list("abc")


async def test_an_outage_parks_the_backend_and_burns_no_line(bench: MakeBench) -> None:
    it = bench({"a": [UNREACHABLE, OK]}, slots=1)
    run = await it.add(requests("abc"))
    backend = it.pool.backends[0]
    it.runner.admit(run)
    async with it.running():
        await until(lambda: backend.note is not None)
        waiting = it.parts.batches.progress(await it.parts.row(run.id))
        assert waiting is not None
        assert waiting.note == backend.note
        assert "cannot be reached" in str(waiting.note)
        backend.resume()
        await until(lambda: run.is_drained)
    assert run.ledger.counts == Counts(3, 3, 0)
    over = it.parts.batches.progress(await it.parts.row(run.id))
    assert over is not None
    assert over.note is None


class Grudge(FakeCaller):
    """Answers line a with a 429 each time, and takes longer over others than line a waits."""

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        if line.custom_id != "a":
            await asyncio.sleep(0.003)
        return await super().send(endpoint, line)


async def test_five_429s_while_others_are_served_end_a_line(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.engine.runner._BEHIND_OTHERS", 0.001)
    it = Bench(parts, Grudge({"a": [THROTTLED]}), configs=[config_of(max_in_flight=1)])
    run = await it.add(requests("abcdefghijklmnop"))
    await it.work_off(run)
    assert run.ledger.counts == Counts(16, 15, 1)
    assert 5 <= it.server.received.count("a") <= 6


async def test_a_dismissed_run_starts_nothing_more(bench: MakeBench) -> None:
    it = bench(slots=2, open_gate=False)
    run = await it.add(requests("abcdef"))
    it.runner.admit(run)
    async with it.running():
        await until(lambda: len(it.server.received) == 2)
        run.status = BatchStatus.CANCELLING
        it.runner.dismiss(run)
        it.server.gate.set()
        await until(lambda: run.is_quiet)
        assert it.drained >= 1
    assert it.server.received == ["a", "b"]
    assert run.ledger.counts == Counts(6, 2, 0)


async def test_an_attempt_that_is_broken_off_records_nothing(bench: MakeBench) -> None:
    it = bench(slots=2, open_gate=False)
    run = await it.add(requests("abc"))
    it.runner.admit(run)
    async with it.running():
        await until(lambda: len(it.server.received) == 2)
        run.status = BatchStatus.CANCELLING
        it.runner.dismiss(run)
        for attempt in list(run.attempts):
            attempt.cancel()
        await until(lambda: run.is_quiet)
        assert it.in_flight == 0
        assert it.memory.held == 0
    assert run.ledger.missing == 3


async def test_an_attempt_cancelled_before_its_first_step_gives_its_slot_back(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = bench(slots=2)
    run = await it.add(requests("abc"))
    create = asyncio.TaskGroup.create_task

    def create_and_cancel(*args: Any, name: str) -> asyncio.Task[Any]:
        task = create(*args, name=name)
        if name.startswith("line-"):
            run.status = BatchStatus.CANCELLING
            task.cancel()
        return task

    monkeypatch.setattr(asyncio.TaskGroup, "create_task", create_and_cancel)
    it.runner.admit(run)
    async with it.running():
        await until(lambda: run.status is BatchStatus.CANCELLING and run.is_quiet)
        assert it.in_flight == 0
        assert it.memory.held == 0
    assert run.ledger.missing == 3


async def test_stopping_lets_finish_what_is_in_flight(bench: MakeBench) -> None:
    it = bench(slots=2, open_gate=False)
    run = await it.add(requests("abc"))
    it.runner.admit(run)
    async with it.running():
        await until(lambda: len(it.server.received) == 2)
        asyncio.get_running_loop().call_later(0.02, it.server.gate.set)
    await until(lambda: run.is_quiet)
    assert run.ledger.counts == Counts(3, 2, 0)


async def test_what_is_late_after_the_drain_is_broken_off(bench: MakeBench) -> None:
    it = bench(slots=2, open_gate=False, drain=0.01)
    run = await it.add(requests("abc"))
    it.runner.admit(run)
    async with it.running():
        await until(lambda: len(it.server.received) == 2)
    assert run.is_quiet
    assert run.ledger.missing == 3
    assert it.memory.held == 0


async def test_an_input_that_is_lost_ends_the_run(bench: MakeBench, parts: Parts) -> None:
    it = bench(slots=1)
    data = requests("abcd")
    run = await it.add(data)
    path = parts.spool.input(run.id)
    await asyncio.to_thread(path.unlink)
    await asyncio.to_thread(path.write_bytes, data[: len(data) // 2 + 5])
    it.runner.admit(run)
    async with it.running():
        await until(lambda: run.input_lost and run.is_quiet)
        assert it.drained >= 1
        it.runner.admit(run)  # in vain
    assert it.server.received == ["a", "b"]
    assert run.ledger.counts == Counts(4, 2, 0)
    assert it.memory.held == 0


class Grouped(FakeCaller):
    """Notes how many lines of one group were in flight at once; rings as each answer is out."""

    def __init__(self) -> None:
        super().__init__()
        self.ring: Callable[[], None] = lambda: None
        self.flying: Counter[bool] = Counter()
        self.sent: Counter[bool] = Counter()
        self.most_of_one = 0

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        group = line.custom_id.isupper()
        self.flying[group] += 1
        self.sent[group] += 1
        if max(self.sent.values()) < 10:  # when one has no more lines, the other gets its slot
            self.most_of_one = max(self.most_of_one, self.flying[group])
        for _ in range(1 if group else 50):
            await asyncio.sleep(0)
        outcome = await super().send(endpoint, line)
        self.flying[group] -= 1
        self.ring()
        return outcome


async def test_a_slot_that_is_free_goes_to_the_group_it_had(parts: Parts) -> None:
    server = Grouped()
    it = Bench(parts, server, configs=[config_of(max_in_flight=2)])
    run = await it.add(requests("abcdefghijABCDEFGHIJ"))
    groups = [Group("m", 1 + at, 10 * at, 10, is_rest=False) for at in range(2)]
    run.queues = [LineQueue("m", groups, None, run.ledger, {})]
    server.ring = it.runner.ring
    await it.work_off(run)
    assert server.most_of_one == 1


def lost(at: int, count: int) -> "array[int]":
    raise EOFError(f"the order ends before position {at + count}")


async def test_a_run_whose_order_is_lost_goes_on_as_in_the_input(bench: MakeBench) -> None:
    it = bench(slots=2)
    run = await it.add(requests("abcdef"))
    run.queues = [LineQueue("m", [Group("m", 1, 0, 6, is_rest=False)], lost, run.ledger, {})]
    await it.work_off(run)
    assert sorted(it.server.received) == list("abcdef")


async def test_an_order_of_several_models_that_is_lost_ends_the_process(bench: MakeBench) -> None:
    """The next start makes it anew."""
    it = bench(slots=2)
    run = await it.add(requests("abcdef"))
    run.queues = [
        LineQueue(model, [Group(model, 1, 3 * at, 3, is_rest=False)], lost, run.ledger, {})
        for at, model in enumerate("mn")
    ]
    it.runner.admit(run)
    with pytest.raises(ExceptionGroup) as caught:
        await it.runner.run(asyncio.Event())
    assert caught.group_contains(OrderLost)


async def test_lines_go_to_another_backend_when_one_fails_them(parts: Parts) -> None:
    bad = FakeCaller({name: [TIMED_OUT] for name in "abcdef"})
    good = FakeCaller()
    it = Bench(
        parts,
        configs=[config_of(name, models=("m",), max_in_flight=1) for name in ("bad", "good")],
        servers={"bad": bad, "good": good},
    )
    run = await it.add(requests("abcdef"))
    await it.work_off(run)
    assert run.ledger.counts == Counts(6, 6, 0)
    assert sorted(good.received) == list("abcdef")
    assert it.memory.held == 0


async def test_one_that_fails_every_line_ends_none_that_a_busy_one_can_do(parts: Parts) -> None:
    names = "abcdefghijklmnopqrstuvwxyz"
    bad = FakeCaller({name: [BUSY] for name in names})
    good = FakeCaller()
    it = Bench(
        parts,
        configs=[
            config_of("bad", models=("m",), max_in_flight=8),
            config_of("good", models=("m",), max_in_flight=1),
        ],
        servers={"bad": bad, "good": good},
    )
    run = await it.add(requests(names))
    await it.work_off(run)
    assert run.ledger.counts == Counts(26, 26, 0)


async def test_answers_pass_through_untouched(bench: MakeBench) -> None:
    body = b'{"n":1.0000000000000000001,"t":"\\u00e9 \xc3\xa9"}'
    it = bench({"a": [Reply(status_code=200, request_id="r", body=body)]})
    run = await it.add(requests("a"))
    await it.work_off(run)
    row = await it.parts.row(run.id)
    written = await asyncio.to_thread(it.parts.spool.file(str(row.output_file_id)).read_bytes)
    assert b'"body":' + body + b"}" in written
