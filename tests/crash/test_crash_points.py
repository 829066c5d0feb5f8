"""A kill -9 just before and just after everything that lasts: each row of the tables that say what
a crash leaves ("The life of a batch", and the heads of the modules ``files``, ``ledger`` and
``inbox.intake``), on the real process.

The process dies by its own hand at a named point (``tests.support.crash_point``), what it leaves is
read by a stranger, it is started again, and the client goes on from what was acknowledged.
"""

import contextlib
import itertools
import os
import re
import signal
import sqlite3
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from tests.crash.conftest import SWEEPING
from tests.support.checker import Account, check
from tests.support.crashing import CrashingBatchd
from tests.support.deaths import Deaths
from tests.support.errand import PRIORITY, Drop, Errand, Kind
from tests.support.jobs import Jobs
from tests.support.model_process import ModelProcess
from tests.support.remains import Remains, Row, names
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
AGED = 1_000_000_000  # seconds since the epoch: older than any orphan may become
DAMAGED = b"?"

Between = Callable[[Path], None]


class Case(msgspec.Struct, frozen=True):
    """One life for each of ``points``, which ends there; ``nth`` counts in the last of them.

    ``leaves``: how many names the last death leaves that belong to nobody; None where that depends
    on what others were at. ``between`` is done to the storage directory before the last of several
    lives.
    """

    points: tuple[str, ...]
    kind: Kind
    leaves: int | None
    nth: int
    between: Between | None

    def __str__(self) -> str:
        times = f" ({self.nth})" if self.nth > 1 else ""
        return f"{self.kind}, {self.points[-1]}{times}"


def at(
    *points: str,
    kind: Kind = "completed",
    leaves: int | None = 0,
    nth: int = 1,
    between: Between | None = None,
) -> Case:
    return Case(points, kind, leaves, nth, between)


def damage(state: Path) -> None:
    """One byte of the first line that is known to be good changes."""
    known = [row for row in Remains(state).batches.values() if row["output_end"]]
    path = state / "files" / str(known[-1]["output_file_id"])
    with path.open("r+b") as ledger:
        ledger.write(DAMAGED)


def distrust(state: Path) -> None:
    """As if a sync had failed."""
    (state / "sync-failed").touch()


def expire(state: Path) -> None:
    """The time of every input file has come."""
    with contextlib.closing(sqlite3.connect(state / "batchd.db")) as database:
        database.execute("UPDATE file SET expires_at = 1 WHERE purpose = 'batch'")
        database.commit()


def litter(state: Path) -> None:
    """An upload, a file and a hold of nobody."""
    hold = state / "batches" / "batch_of_nobody"
    hold.mkdir()
    for path in (state / "incoming" / "upload-of-nobody", state / "files" / "file-of-nobody"):
        path.write_bytes(b"x")
    (hold / "input").write_bytes(b"x")
    age(state)


ENDED = "after the removal of an ending"
STEERING: Mapping[str, Callable[[Row], bool]] = {
    "the commit of a pause": lambda row: row["paused_at"] is not None,
    "the commit of a priority": lambda row: bool(row["priority"] == PRIORITY),
    "the commit of a resume": lambda row: row["paused_at"] is None,
}

# The rows of "The life of a batch" in ARCHITECTURE.md. A step is named by ``crash_point``.
LIFE: Mapping[str, list[Case]] = {
    "upload": [
        at("before the fsync of an upload", leaves=1),
        at("after the fsync of an upload", leaves=1),
        at("before the directory sync of an upload", leaves=1),
        at("before the commit of an upload", leaves=1),
        at("after the commit of an upload"),
    ],
    "create": [
        at("before the commit of a create"),
        at("after the commit of a create"),
        at("before the commit of a create", kind="keyed"),
        at("after the commit of a create", kind="keyed"),
        at("after the commit of a create", "before the commit to completed", kind="keyed"),
    ],
    "validate": [
        at("before the link of a hold"),
        at("before the directory sync of a hold", nth=2),
        at("before the fsync of an index"),
        at("after the fsync of an index"),
        at("before the commit to in_progress"),
        at("after the commit to in_progress"),
        at("before the commit to failed", kind="failed"),
        at("after the commit to failed", kind="failed", leaves=1),
    ],
    "a line ends": [
        at("before the opening of a ledger"),
        at("before the directory sync of a ledger"),
        at("before the append of a ledger"),
        at("amid the append of a ledger"),
        at("before the fdatasync of a ledger"),
        at("after the fdatasync of a ledger"),
        at("after the hand-back of a ledger"),
    ],
    "last line done, or window closed": [
        at("before the commit to finalizing"),
        at("after the commit to finalizing"),
        at("before the commit to finalizing", kind="expired"),
        at("after the commit to finalizing", kind="expired"),
    ],
    "cancel": [
        at("before the commit to cancelling", kind="cancelled"),
        at("after the commit to cancelling", kind="cancelled"),
    ],
    "pause, resume, priority": [
        at("before the commit of a pause", kind="steered"),
        at("after the commit of a pause", kind="steered"),
        at("before the commit of a priority", kind="steered"),
        at("after the commit of a priority", kind="steered"),
        at("before the commit of a resume", kind="steered"),
        at("after the commit of a resume", kind="steered"),
    ],
    # What is left of the first batch may not be removed yet.
    "retry": [
        at("before the fsync of an upload", kind="retried", nth=2, leaves=None),
        at("before the commit of an upload", kind="retried", nth=2, leaves=None),
        at("after the commit of an upload", kind="retried", nth=2, leaves=None),
        at("before the commit of a create", kind="retried", nth=2, leaves=None),
        at("after the commit of a create", kind="retried", nth=2, leaves=None),
    ],
    "finalize": [
        at("before a fill", kind="cancelled"),
        at("after a fill", kind="cancelled"),
        at("after a fill", kind="cancelled", nth=2),
        at("after a fill", kind="expired"),
        at("before the commit to completed"),
        at("after the commit to completed", leaves=1),
        at("before the commit to expired", kind="expired"),
        at("after the commit to expired", kind="expired", leaves=1),
        at("before the commit to cancelled", kind="cancelled"),
        at("after the commit to cancelled", kind="cancelled", leaves=1),
        at(
            "after the opening of a ledger",
            "before the unlink of an ending",
            kind="heals",
            leaves=2,
        ),
        at(
            "after the opening of a ledger", "after the unlink of an ending", kind="heals", leaves=1
        ),
        at("before the removal of an ending", leaves=1),
        at("amid the removal of an ending", leaves=1),
        at("after the removal of an ending"),
    ],
    "delete, expire": [
        at(ENDED, "before the commit of a delete", kind="deleted"),
        at(ENDED, "after the commit of a delete", kind="deleted", leaves=1),
        at(ENDED, "after the unlink of a delete", kind="deleted"),
        at(ENDED, "before the commit of an expiry", kind="outlives", between=expire),
        at(ENDED, "after the commit of an expiry", kind="outlives", between=expire, leaves=1),
        at(ENDED, "after the unlink of an expiry", kind="outlives", between=expire),
    ],
}
# What no row of that table is about: a start that reads ledgers back (the head of ``ledger``), the
# sweeper, and the inbox (the head of ``inbox.intake``).
KNOWN_GOOD = ("after the hand-back of a ledger", "after the commit of a checkpoint")
MORE: Mapping[str, list[Case]] = {
    "recovery": [
        at("amid the append of a ledger", "before the cut of a recovery"),
        at("amid the append of a ledger", "after the cut of a recovery"),
        at("after the fdatasync of a ledger", "after the fdatasync of a recovery"),
    ],
    "salvage": [
        at(
            "after the fdatasync of a ledger",
            "before the append of a salvage",
            between=distrust,
            leaves=1,
        ),
        at(
            "after the fdatasync of a ledger",
            "after the fdatasync of a salvage",
            between=distrust,
            leaves=1,
        ),
        at("after the fdatasync of a ledger", "before the unlink of a new trust", between=distrust),
        at("after the fdatasync of a ledger", "after the unlink of a new trust", between=distrust),
        at(*KNOWN_GOOD, "before the link of a salvage", between=damage, leaves=1),
        at(*KNOWN_GOOD, "before the rename of a salvage", between=damage, leaves=1),
        at(*KNOWN_GOOD, "before the directory sync of a salvage", nth=3, between=damage),
        at(*KNOWN_GOOD, "before the commit of a checkpoint", between=damage),
        at(*KNOWN_GOOD, "after the commit of a checkpoint", between=damage),
    ],
    "sweep": [
        at(ENDED, "before the unlink of a sweep", between=litter, leaves=3),
        at(ENDED, "after the unlink of a sweep", between=litter, leaves=2),
        at(ENDED, "before the removal of a sweep", between=litter, leaves=1),
        at(ENDED, "amid the removal of a sweep", between=litter, leaves=1),
        at(ENDED, "after the removal of a sweep", between=litter),
    ],
    "inbox": [
        at("before the commit of a claim", kind="dropped"),
        at("after the commit of a claim", kind="dropped"),
        at("after the move of a claim", kind="dropped", leaves=None),
        at("after the commit of a move", kind="dropped", leaves=None),
        at("before a copy of a delivery", kind="dropped", leaves=None),
        at("after a copy of a delivery", kind="dropped", nth=2, leaves=None),
        at("before the commit of a delivery", kind="dropped", leaves=None),
        at("after the commit of a delivery", kind="dropped", leaves=None),
    ],
}
CASES = [case for cases in (*LIFE.values(), *MORE.values()) for case in cases]


def age(state: Path) -> None:
    """Everything in the spool is old enough to be swept, if it is nobody's."""
    for folder in ("incoming", "files", "batches"):
        for path in (state / folder).iterdir():
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (AGED, AGED))


class Stage:
    """A model server and a batchd that is started anew, which one case after the other uses."""

    def __init__(self, directory: Path) -> None:
        self.server = ModelProcess(directory)
        self.inbox = directory / "inbox"
        self.directory = directory
        self.deaths = 0
        self.sent_again = 0
        self.numbers = itertools.count(1)
        self._batchd: CrashingBatchd | None = None

    def batchd(self) -> CrashingBatchd:
        if self._batchd is None:
            inbox = {"directory": str(self.inbox), "settle": "20ms", "rescan_every": "200ms"}
            self._batchd = CrashingBatchd(
                self.directory / f"batchd-{next(self.numbers)}",
                backend=self.server.base_url,
                settings={
                    "batches": {"completion_windows": ["24h", "1s"]},
                    "inbox": inbox,
                    **SWEEPING,
                },
            )
            self._batchd.start()
        return self._batchd

    def close(self) -> None:
        if self._batchd is not None:
            self._batchd.kill()
        self._batchd = None

    @contextlib.contextmanager
    def act(self, kind: Kind) -> Generator["Act"]:
        """What fails may leave anything behind: the next case gets a new directory."""
        try:
            yield Act(self, f"case-{next(self.numbers)}", kind)
        except BaseException:
            self.close()
            raise


class Act:
    """One case on the stage: an errand, and the deaths in it."""

    def __init__(self, stage: Stage, name: str, kind: Kind) -> None:
        self._stage = stage
        self._name = name
        self._batchd = stage.batchd()
        jobs = Jobs(self._batchd.url)
        self._files = jobs.file_ids()
        window = "1s" if kind == "expired" else "24h"
        self.errand: Errand = (
            Drop(name, jobs, stage.inbox)
            if kind == "dropped"
            else Errand(name, kind, jobs, window=window)
        )
        self._deaths = Deaths(stage.server, f"{name}-")

    @property
    def state(self) -> Path:
        return self._batchd.state

    def die(self, point: str, *, nth: int) -> Remains:
        """Go on until batchd has died there; what it leaves."""
        self.errand.may_delete = bool(self._deaths)
        self._batchd.die_at(point, nth=nth)
        if self._deaths:
            self._batchd.live_again()
        try:
            wait_until(self._goes_on_until_dead, within=8)
        except TimeoutError:
            pytest.fail(f"batchd never came to the point: {point}")
        assert self._batchd.death() == (-signal.SIGKILL, point)
        remains = Remains(self.state)
        assert not remains.missing
        recorded = {name for row in self._rows(remains) for name in remains.recorded(row["id"])}
        self._deaths.note(recorded - self.errand.runs_again)
        self._check_commit(point, remains)
        return remains

    def go_on_to_the_end(self) -> Account:
        """Started again, batchd has all it acknowledged, and brings the batch to its end."""
        self._batchd.live_again()
        self._batchd.wait_until_ready()
        self.errand.check_acknowledged()
        wait_until(self._goes_on)
        account = self.errand.account()
        assert account.batch["status"] == self.errand.status
        check(account, log=self._deaths.events, resent_allowed=self._deaths.in_flight)
        self._check_no_orphans()
        self._stage.deaths += len(self._deaths)
        self._stage.sent_again += self._deaths.check_sent_again()
        return account

    def _goes_on(self) -> bool:
        try:
            self.errand.run()
        except ConnectionError:
            return False
        return True

    def _goes_on_until_dead(self) -> bool:
        return self._batchd.has_died or (self._goes_on() and self._batchd.has_died)

    def _rows(self, remains: Remains) -> list[Row]:
        """The rows of the errand's batch and of its retry, acknowledged or not."""
        rows = sorted(remains.batches.values(), key=lambda row: row["seq"], reverse=True)
        new = itertools.takewhile(lambda row: row["id"] not in self.errand.known, rows)
        return list(new)[::-1]

    def _check_commit(self, point: str, remains: Remains) -> None:
        """A commit is all or nothing: what it brings is there after it, and not before it."""
        moment, _, step = point.partition(" ")
        rows = self._rows(remains)
        happened = moment == "after"
        if step == "the commit of an upload":
            inputs = {name for name, row in remains.files.items() if row["purpose"] == "batch"}
            assert len(inputs - self._files) == len(rows) + happened
        elif step in {"the commit of a create", "the commit of a claim"}:
            assert len(rows) == (self.errand.kind == "retried") + happened
        elif step == "the commit of a delete":
            assert (self.errand.file_id not in remains.files) == happened
        elif step in STEERING:
            assert STEERING[step](rows[-1]) == happened
        elif step.startswith("the commit to "):
            assert (rows[-1][f"{step.split()[-1]}_at"] is not None) == happened

    def _check_no_orphans(self) -> None:
        """After a sweep there is nothing but the files that a client can see."""
        age(self.state)
        files = self.errand.jobs.file_ids()
        wait_until(lambda: names(self.state) == files)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    with stage.server, contextlib.closing(stage):
        yield stage
    counts = f"{stage.deaths} deaths: 0 lost, 0 duplicated, 0 torn, {stage.sent_again} sent again"
    print(counts)  # noqa: T201 - to read


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kill_at_this_point_loses_nothing(case: Case, stage: Stage) -> None:
    with stage.act(case.kind) as act:
        *first, last = case.points
        for point in first:
            act.die(point, nth=1)
        if case.between is not None:
            case.between(act.state)
        if case.between is damage:
            act.errand.forget_counts()
        remains = act.die(last, nth=case.nth)
        if case.leaves is not None:
            assert len(remains.orphans) == case.leaves, remains.orphans
        account = act.go_on_to_the_end()
        if case.between is damage:
            kept = act.state / "files" / f"{account.batch['output_file_id']}.damaged"
            assert kept.read_bytes().startswith(DAMAGED)


def test_every_row_of_the_life_of_a_batch_has_its_points() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.split("\n## The life of a batch\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    assert rows[2:] == list(LIFE)
