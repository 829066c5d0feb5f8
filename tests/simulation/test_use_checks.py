"""The checks of pauses, keys, retries and drops can fail: histories show each of these bugs."""

# The bugs are planted inside.
# pyright: reportPrivateUsage=false

import contextlib
import itertools
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import cast

import msgspec
import pytest

from batchd.again import Again
from batchd.batches import AlsoInTransaction, Batches
from batchd.engine.keeper import Keeper
from batchd.engine.runner import Runner
from batchd.engine.runs import Run
from batchd.ledger import Bitmap
from batchd.model import BatchRecord, Control, FileRecord, NewBatch
from batchd.store import Transaction
from batchd.store import batches as batch_table
from batchd.store import inbox as inbox_table
from batchd.wire.wishes import RetryWish
from tests.simulation.database import opened_store
from tests.simulation.disk import SimDisk
from tests.simulation.drops import DROPPED
from tests.simulation.history import run_history
from tests.simulation.many import run_chunk
from tests.simulation.plan import Ending, EndKind, Trigger, planned
from tests.simulation.use import Door, Use

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(60),
    pytest.mark.allow_blocking(reason="its loop is virtual, and waits for nobody"),
]

SEEDS = range(400)
AT_ONCE = 20  # histories, until the bug has shown itself

Patch = pytest.MonkeyPatch
Follow = Callable[[Keeper, Run, Control], Awaitable[None]]
Create = Callable[..., Awaitable[BatchRecord]]


def _following(patch: Patch, alter: Callable[[Keeper, Run, Control], Control]) -> None:
    """The keeper is told something else of a batch than its row says."""
    as_shipped = cast("Follow", Keeper._follow_run)

    async def follow(self: Keeper, run: Run, control: Control) -> None:
        await as_shipped(self, run, alter(self, run, control))

    patch.setattr(Keeper, "_follow_run", follow)


def pauses_are_not_followed(patch: Patch) -> None:
    _following(patch, lambda _, __, control: msgspec.structs.replace(control, is_paused=False))


def a_start_forgets_pauses(patch: Patch) -> None:
    """A run that is new to the keeper goes, whatever its row says."""
    known = set[Run]()

    def alter(_: Keeper, run: Run, control: Control) -> Control:
        is_new = run not in known
        known.add(run)
        return msgspec.structs.replace(control, is_paused=control.is_paused and not is_new)

    _following(patch, alter)


def a_pause_breaks_off(patch: Patch) -> None:
    def alter(_: Keeper, run: Run, control: Control) -> Control:
        if control.is_paused:
            for attempt in list(run.attempts):
                attempt.cancel()
        return control

    _following(patch, alter)


def priorities_are_not_followed(patch: Patch) -> None:
    def alter(_: Keeper, run: Run, control: Control) -> Control:
        return msgspec.structs.replace(control, priority=run.priority)

    _following(patch, alter)


def a_pause_is_for_ever(patch: Patch) -> None:
    dismissed = set[Run]()
    dismiss, admit = Runner.dismiss, Runner.admit

    def dismiss_for_good(self: Runner, run: Run) -> None:
        dismissed.add(run)
        dismiss(self, run)

    def admit_others(self: Runner, run: Run) -> None:
        if run not in dismissed:
            admit(self, run)

    patch.setattr(Runner, "dismiss", dismiss_for_good)
    patch.setattr(Runner, "admit", admit_others)


async def _nothing(*_: object) -> None:
    pass


def pauses_are_not_written(patch: Patch) -> None:
    patch.setattr(batch_table, "pause", _nothing)


def priorities_are_not_written(patch: Patch) -> None:
    patch.setattr(batch_table, "set_priority", _nothing)


def a_status_ends_a_pause(patch: Patch) -> None:
    """The row of a batch forgets it with the next step."""
    forgets = batch_table.UPDATE.replace("notes = :notes", "notes = :notes, paused_at = NULL")
    patch.setattr(batch_table, "UPDATE", forgets)


def a_pause_stops_the_window(patch: Patch) -> None:
    patch.setattr(batch_table, "OVERDUE", f"{batch_table.OVERDUE} AND paused_at IS NULL")


def keys_are_looked_up_first(patch: Patch) -> None:
    """The lookup is a transaction, and the insertion another."""
    as_shipped = cast("Create", Batches.create)
    granted = Batches._granted

    async def create(
        self: Batches, owner: str, wish: NewBatch, also: AlsoInTransaction | None = None
    ) -> BatchRecord:
        earlier = await self._database.write(lambda tx: granted(self, tx, owner, wish))
        return earlier or await as_shipped(self, owner, wish, also)

    patch.setattr(Batches, "create", create)
    patch.setattr(Batches, "_granted", _nothing)


def repeated_wishes_are_new(patch: Patch) -> None:
    finds_nothing = batch_table.GRANTED_LATELY.replace("WHERE", "WHERE 0 AND")
    patch.setattr(batch_table, "GRANTED_LATELY", finds_nothing)


def _retrying(patch: Patch, takes: Callable[[int, Bitmap], bool]) -> None:
    """A retry takes other lines than those that were chosen."""
    as_shipped = Again._copied

    async def copied(self: Again, record: BatchRecord, path: Path, chosen: Bitmap) -> FileRecord:
        others = Bitmap(chosen.size)
        for index in range(chosen.size):
            if takes(index, chosen):
                others.add(index)
        return await as_shipped(self, record, path, others)

    patch.setattr(Again, "_copied", copied)


def a_retry_takes_all_lines(patch: Patch) -> None:
    _retrying(patch, lambda _, __: True)


def a_retry_leaves_out_the_last_line(patch: Patch) -> None:
    _retrying(patch, lambda index, chosen: index in chosen and index + 1 < chosen.size)


def a_retry_has_no_key(patch: Patch) -> None:
    as_shipped = Again._new_batch

    def new_batch(self: Again, record: BatchRecord, wish: RetryWish) -> NewBatch:
        return msgspec.structs.replace(as_shipped(self, record, wish), idempotency_key=None)

    patch.setattr(Again, "_new_batch", new_batch)


def a_claim_comes_later(patch: Patch) -> None:
    """The batch of a dropped file is a transaction, and its claim another."""
    as_shipped = cast("Create", Batches.create)

    async def create(
        self: Batches, owner: str, wish: NewBatch, also: AlsoInTransaction | None = None
    ) -> BatchRecord:
        record = await as_shipped(self, owner, wish)
        if also is not None:

            async def claim(tx: Transaction) -> None:
                await also(tx, record)

            await self._database.write(claim)
        return record

    patch.setattr(Batches, "create", create)


def deliveries_are_forgotten(patch: Patch) -> None:
    forgets = inbox_table.DELIVERABLE.replace("inbox_claim.delivered_at IS NULL", "1")
    patch.setattr(inbox_table, "DELIVERABLE", forgets)


FOUND_BY: dict[Callable[[Patch], None], str] = {
    pauses_are_not_followed: "although its batch is paused",
    a_start_forgets_pauses: "although its batch is paused",
    a_pause_breaks_off: "was broken off",
    priorities_are_not_followed: "goes with priority",
    a_pause_is_for_ever: "not all batches have come to their end",
    pauses_are_not_written: "acknowledged and not done",
    priorities_are_not_written: "acknowledged and not done",
    a_status_ends_a_pause: "paused",
    a_pause_stops_the_window: "not all batches have come to their end",
    keys_are_looked_up_first: "IntegrityError",
    a_retry_takes_all_lines: "lines to retry",
    a_retry_leaves_out_the_last_line: "lines to retry",
    a_retry_has_no_key: "was made twice",
    deliveries_are_forgotten: "was delivered twice",
}


# Seen only in a crash between two commits.
FOUND_EARLY: dict[Callable[[Patch], None], Door] = {
    repeated_wishes_are_new: Door.REPEAT,
    a_claim_comes_later: Door.DROP,
}
COMMITS = range(1, 5)  # of an upload, a create and, in the inbox, a move; and one more
OPERATIONS = range(1, 16)  # of the disk, until a dropped file has been moved; and more


@contextlib.contextmanager
def with_bug(bug: Callable[[Patch], None]) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        bug(patch)
        yield


def crashed_early(door: Door, kind: EndKind) -> list[str]:
    """What is wrong with histories that crash around each commit by which a batch is made."""
    again = Ending(kind, Trigger.COMMIT, 1)
    return _wrong(door, [[Ending(kind, Trigger.COMMIT, count), again] for count in COMMITS])


def killed_in_a_drop() -> list[str]:
    """The same if one is killed in any operation of the disk, and its successor loses power."""
    then = Ending(EndKind.POWER, Trigger.COMMIT, 2)
    kills = [Ending(EndKind.KILL, Trigger.OPERATION, count) for count in OPERATIONS]
    return _wrong(Door.DROP, [[kill, then] for kill in kills])


def _wrong(door: Door, endings: list[list[Ending]]) -> list[str]:
    wrong: list[str] = []
    with opened_store() as store:
        for seed, crashes in itertools.product(range(4), endings):
            plan = planned(seed)
            batch = msgspec.structs.replace(plan.batches[0], use=Use(door=door))
            changed = msgspec.structs.replace(plan, batches=[batch], periods=[], endings=crashes)
            told = run_history(changed, store)
            wrong += [told.violation] if told.violation is not None else []
    return wrong


@pytest.mark.parametrize("bug", FOUND_BY, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_seen_in_histories(bug: Callable[[Patch], None]) -> None:
    seen: list[str] = []
    for first in SEEDS[::AT_ONCE]:
        told = run_chunk(range(first, first + AT_ONCE), lambda: with_bug(bug))
        seen += [one.violation for one in told if one.violation is not None]
        if any(FOUND_BY[bug] in text for text in seen):
            break
    assert [text for text in seen if FOUND_BY[bug] in text], seen


@pytest.mark.parametrize("kind", [EndKind.KILL, EndKind.POWER])
@pytest.mark.parametrize("door", Door)
def test_a_crash_around_each_commit_of_a_creation_makes_one_batch(
    door: Door, kind: EndKind
) -> None:
    assert crashed_early(door, kind) == []


def test_a_kill_in_any_operation_and_then_a_power_cut_take_no_drop_twice() -> None:
    assert killed_in_a_drop() == []


def test_a_move_that_is_believed_unsynced_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill a name may have gone from the page cache only."""
    sync_directory = SimDisk.sync_directory

    def sync_others(self: SimDisk, path: Path) -> None:
        if path != DROPPED or self.files.keys() & {DROPPED / "drop-0.jsonl"}:
            sync_directory(self, path)

    monkeypatch.setattr(SimDisk, "sync_directory", sync_others)
    assert [text for text in killed_in_a_drop() if "may come back" in text]


@pytest.mark.parametrize("bug", FOUND_EARLY, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_seen_in_crashes_around_a_creation(bug: Callable[[Patch], None]) -> None:
    with with_bug(bug):
        seen = crashed_early(FOUND_EARLY[bug], EndKind.KILL)
    assert [text for text in seen if "was made twice" in text], seen
