"""Backups of a running daemon under load, and daemons started on them.

A client goes on all the time: it uploads, creates, cancels and deletes, and remembers what it was
told. The original and the daemons on the copies have a model server each, whose logs say what was
sent by whom.
"""

import copy
import hashlib
import json
import os
import random
import secrets
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import pytest

from tests.conftest import StartBatchd
from tests.crash.conftest import SWEEPING
from tests.support.batchd_process import BatchdProcess
from tests.support.checker import WITH_RESULTS, Account, check
from tests.support.eventlog import Event
from tests.support.jobs import TERMINAL, Jobs, Refused, backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.promises import recorded
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SLOTS = 16
BACKUPS = 3
SIZES = (1, 40, 300, 300)
WINDOWS = ("24h", "2s")

# A backup that takes its time between the database and the bytes that it names.
SLOWLY = """
import sys, time
from batchd.cli.main import main
from batchd.store import copies

copy = copies.copy

def copy_and_rest(path, target):
    copy(path, target)
    time.sleep(0.5)

copies.copy = copy_and_rest
sys.exit(main())
"""

Tree = dict[str, tuple[int, int, str]]


def tree(directory: Path) -> Tree:
    """Each file's inode, mode and bytes."""
    return {
        str(path.relative_to(directory)): (
            path.stat().st_ino,
            path.stat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in directory.rglob("*")
        if path.is_file()
    }


def back_up(*args: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run the command as an operator would."""
    return batchd_command("backup", *args)


def check_undamaged(state: Path) -> None:
    done = batchd_command("fsck", "--directory", state, "--json")
    assert (json.loads(done.stdout)["findings"], done.returncode) == ([], 0)


def batchd_command(
    *args: str | Path, program: Sequence[str] = ("-m", "batchd")
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *program, *map(str, args)]
    return subprocess.run(  # noqa: S603 - our own program
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def rows(database: Path, statement: str) -> list[str]:
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return [str(row[0]) for row in connection.execute(statement)]


class Known(msgspec.Struct, frozen=True):
    """What the client had been told at some moment."""

    files: dict[str, bytes]  # acknowledged, and no delete was asked for
    deleted: set[str]
    batches: dict[str, bytes]
    cancelled: set[str]
    counts: dict[str, Counter[str]]
    ended: set[str]


class Traffic:
    """A client, inside ``with``."""

    def __init__(self, jobs: Jobs, chance: random.Random) -> None:
        self._jobs = jobs
        self._chance = chance
        self._lock = threading.Lock()
        self._known = Known({}, set(), {}, set(), {}, set())
        self._inputs: dict[str, str] = {}
        self._stop = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(30)
        if self._fault is not None and error is None:
            raise self._fault

    def known(self) -> Known:
        with self._lock:
            return copy.deepcopy(self._known)

    def _run(self) -> None:
        try:
            number = 0
            while not self._stop.wait(0.02):
                self._submit(number)
                self._delete()
                self._poll()
                number += 1
        except BaseException as fault:  # noqa: BLE001 - raised where the test waits
            self._fault = fault

    def _submit(self, number: int) -> None:
        data = request_lines(self._chance.choice(SIZES), prefix=f"b{number}")
        file_id = self._jobs.upload(data)
        with self._lock:
            self._known.files[file_id] = data
        window = self._chance.choices(WINDOWS, weights=[3, 1])[0]
        batch_id = str(self._jobs.create(file_id, window=window)["id"])
        with self._lock:
            self._known.batches[batch_id] = data
            self._inputs[batch_id] = file_id

    def _delete(self) -> None:
        """An input, of whichever batch: running, waiting to be validated, or done."""
        file_id = self._chance.choice(list(self._inputs.values()))
        if file_id not in self._known.files or self._chance.random() < 0.5:
            return
        with self._lock:
            del self._known.files[file_id]
        self._jobs.delete_file(file_id)
        with self._lock:
            self._known.deleted.add(file_id)

    def _poll(self) -> None:
        for batch_id in [*self._known.batches]:
            if batch_id in self._known.ended:
                continue
            batch = self._jobs.get(batch_id)
            counts = Counter[str](batch["request_counts"])
            if self._chance.random() < 0.1 and batch["status"] not in TERMINAL:
                self._cancel(batch_id)
            with self._lock:
                self._known.counts[batch_id] = counts
                if batch["status"] in TERMINAL:
                    self._known.ended.add(batch_id)

    def _cancel(self, batch_id: str) -> None:
        try:
            self._jobs.cancel(batch_id)
        except Refused as refused:
            if refused.status != 409:
                raise
            return
        with self._lock:
            self._known.cancelled.add(batch_id)


class Taken(msgspec.Struct, frozen=True):
    """A backup, and what the client had been told when it began and when it was done."""

    place: Path
    before: Known
    after: Known
    tree: Tree
    events: int  # how many the model server's log had when it began


def prefix(name: str) -> str:
    """Which batch a line is of, from its custom_id or nonce."""
    return name.removeprefix("nonce of ").partition("-")[0]


def prefix_of(data: bytes) -> str:
    return prefix(json.loads(data[: data.index(b"\n")])["custom_id"])


def by_batch(events: Iterable[Event]) -> dict[str, list[Event]]:
    logs: dict[str, list[Event]] = {}
    for event in events:
        logs.setdefault(prefix(event.nonce), []).append(event)
    return logs


@pytest.fixture
def second_model(tmp_path: Path) -> Iterator[ModelProcess]:
    place = tmp_path / "second-model"
    place.mkdir()
    with ModelProcess(place) as process:
        yield process


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_daemon_on_a_backup_finishes_what_ran_and_leaves_the_original_alone(
    model_process: ModelProcess,
    second_model: ModelProcess,
    start_batchd: StartBatchd,
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("BACKUP_SEED") or secrets.randbelow(1 << 32))
    print(f"BACKUP_SEED={seed}")  # noqa: T201 - to see the same traffic again
    model_process.set(delay=0.03)
    original = start_batchd(
        backends=backends(model_process.base_url, max_in_flight=SLOTS),
        batches={"completion_windows": list(WINDOWS), "finish_grace": 0.5},
        **SWEEPING,
    )
    jobs = Jobs(original.url)
    with Traffic(jobs, random.Random(seed)) as traffic:  # noqa: S311 - what a client does
        taken = [
            take(original, traffic, model_process, tmp_path / f"copy-{number}")
            for number in range(BACKUPS)
        ]
    finished = traffic.known()
    check_accounts(jobs, finished.batches, lambda: model_process.events, resent_allowed=0)
    for file_id, data in finished.files.items():
        assert jobs.content(file_id) == data
    wait_until(lambda: no_orphans(original.state), within=10)
    assert original.terminate() == 0
    for backup in taken:
        assert tree(backup.place) == backup.tree, "the original has written into a copy"
    before = tree(original.state)
    for backup in taken:
        settle(backup, model_process, second_model, tmp_path)
        assert tree(original.state) == before, "a daemon on a copy has written into the original"


def take(original: BatchdProcess, traffic: Traffic, model: ModelProcess, place: Path) -> Taken:
    """A backup, once some hundred lines more were answered."""
    answered = len(model.events)
    wait_until(lambda: len(model.events) > answered + 800, within=20)
    events, before = len(model.events), traffic.known()
    slowly = ("-c", SLOWLY)
    done = batchd_command("backup", place, "--config", original.config, "--json", program=slowly)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["missing"] == []
    after = traffic.known()
    found = tree(place)
    print(  # noqa: T201 - to read
        f"{place.name}: {told['linked']} linked, {told['copied']} copied, "
        f"{told['unfinished_batches']} unfinished, {told['seconds']} s"
    )
    return Taken(place, before, after, found, events)


def settle(backup: Taken, model: ModelProcess, second_model: ModelProcess, directory: Path) -> None:
    """Start a daemon on a copy, and hold what it makes of it against what clients were told."""
    check_undamaged(backup.place)
    kept = set(recorded(backup.place))
    sent_before = len(second_model.events)
    settings: dict[str, object] = {
        "storage": {"directory": str(backup.place)},
        "batches": {"completion_windows": list(WINDOWS)},
        **SWEEPING,
    }
    twin = BatchdProcess(
        directory / f"on-{backup.place.name}", backend=second_model.base_url, settings=settings
    )
    with twin:
        jobs = Jobs(twin.url)
        check_acknowledged(jobs, backup)
        present = {name: data for name, data in backup.after.batches.items() if has(jobs, name)}
        resent = check_accounts(
            jobs,
            present,
            lambda: [*model.events, *second_model.events[sent_before:]],
            resent_allowed=max(SIZES),
        )
        wait_until(lambda: no_orphans(backup.place), within=10)
        check_undamaged(backup.place)
        for file_id in rows(
            backup.place / "batchd.db", "SELECT id FROM file WHERE deleted_at IS NULL"
        ):
            jobs.delete_file(file_id)
        assert twin.terminate() == 0
    sent = [event.nonce for event in second_model.events[sent_before:] if event.event == "start"]
    assert len(sent) == len(set(sent))
    assert not set(sent) & {f"nonce of {line}" for line in kept}, "a recorded line was sent again"
    check_sent_again(backup, model, sent)
    print(  # noqa: T201 - to read
        f"{backup.place.name}: {len(present)} batches, {len(kept)} lines recorded, {len(sent)} "
        f"sent by the copy, {resent} of them answered before"
    )


def has(jobs: Jobs, batch_id: str) -> bool:
    try:
        jobs.get(batch_id)
    except Refused as refused:
        if refused.status != 404:
            raise
        return False
    return True


def check_acknowledged(jobs: Jobs, backup: Taken) -> None:
    """What was acknowledged before the backup began is in the copy."""
    for file_id, data in backup.before.files.items():
        if file_id in backup.after.files:  # else it was deleted while the backup ran
            assert jobs.content(file_id) == data
    for file_id in backup.before.deleted:
        with pytest.raises(Refused):
            jobs.content(file_id)
    for batch_id, counts in backup.before.counts.items():
        assert Counter[str](jobs.get(batch_id)["request_counts"]) >= counts
    for batch_id in backup.before.batches:
        assert has(jobs, batch_id)
    for batch_id in backup.before.ended:
        assert jobs.get(batch_id)["status"] in TERMINAL
    for batch_id in backup.before.cancelled:
        assert jobs.get(batch_id)["status"] in {"cancelling", "cancelled"}


def check_sent_again(backup: Taken, model: ModelProcess, sent: Sequence[str]) -> None:
    """Of what the copy sent, only what was in flight had been answered before the backup began."""
    before = model.events[: backup.events]
    answered = {event.nonce for event in before if event.event == "end"}
    again = answered & set(sent)
    assert len(again) <= 2 * SLOTS


def check_accounts(
    jobs: Jobs, batches: dict[str, bytes], log: Callable[[], list[Event]], *, resent_allowed: int
) -> int:
    """Every batch ends as a true account of its input; how many answered lines were sent again."""
    ended = {batch_id: jobs.wait(batch_id, within=60) for batch_id in batches}
    logs, resent = by_batch(log()), 0
    for batch_id, data in batches.items():
        batch = ended[batch_id]
        output, errors = jobs.content(batch["output_file_id"]), jobs.content(batch["error_file_id"])
        account = Account(input=data, output=output, errors=errors, batch=batch)
        sent = logs.get(prefix_of(data), [])
        summary = check(account, log=sent, resent_allowed=resent_allowed)
        assert batch["status"] in {*WITH_RESULTS, "failed"}
        resent += summary.resent
    return resent


def no_orphans(state: Path) -> bool:
    live = rows(state / "batchd.db", "SELECT id FROM file WHERE deleted_at IS NULL")
    on_disk = {path.name for path in (state / "files").iterdir()}
    return on_disk == set(live) and not any((state / "batches").iterdir())


# A child after the other dies in place of its n-th call that makes, syncs or names something; what
# each has left is told. The last one was let through.
KILLER = """
import json, os, pathlib, shutil, signal, sys
from batchd.upkeep.backup import back_up

state, place = map(pathlib.Path, sys.argv[1:])
left = 0

def or_die(work):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args, **kwargs)
    return counted

def child():
    path = pathlib.Path
    for owner, names in ((os, ["open", "fsync"]), (path, ["mkdir", "hardlink_to", "rename"])):
        for name in names:
            setattr(owner, name, or_die(getattr(owner, name)))
    back_up(state, place, lambda done, of: None)
    os._exit(0)

while True:
    child_id = os.fork()
    if not child_id:
        child()
    code = os.waitstatus_to_exitcode(os.waitpid(child_id, 0)[1])
    there = sorted(str(found.relative_to(place.parent)) for found in place.parent.rglob("copy*"))
    inside = sorted(str(found.relative_to(place)) for found in place.rglob("*"))
    print(json.dumps([code, there, inside]))
    if code != -signal.SIGKILL:
        break
    shutil.rmtree(place, ignore_errors=True)
    left += 1
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_backup_that_is_killed_leaves_nothing_that_looks_like_one(
    model_process: ModelProcess, start_batchd: StartBatchd, tmp_path: Path
) -> None:
    model_process.set(behave="timeout")
    batchd = start_batchd(backends=backends(model_process.base_url, max_in_flight=SLOTS))
    jobs = Jobs(batchd.url)
    jobs.wait(jobs.start(request_lines(5)), {"in_progress"})
    whole = tmp_path / "whole"
    assert back_up(whole, "--config", batchd.config).returncode == 0
    parts = sorted(str(path.relative_to(whole)) for path in whole.rglob("*"))
    command = [sys.executable, "-c", KILLER, str(batchd.state), str(tmp_path / "copy")]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)  # noqa: S603 - our own program
    *kills, last = map(json.loads, told.stdout.splitlines())
    assert last == [0, ["copy"], parts]
    for _, there, inside in kills:
        assert there in ([], ["copy.incomplete"], ["copy"])
        assert inside == (parts if there == ["copy"] else [])
    left = Counter(name for _, there, _ in kills for name in there)
    print(f"{len(kills)} kills left {dict(left)}")  # noqa: T201 - to read
    assert left["copy.incomplete"] >= 10


def test_the_command_says_what_it_did_and_what_it_could_not_do(
    model_process: ModelProcess, start_batchd: StartBatchd, tmp_path: Path
) -> None:
    """Of a daemon that runs, of one that was killed, and of one that was stopped."""
    batchd = start_batchd(model_process.base_url)
    jobs, data = Jobs(batchd.url), request_lines(5)
    account = jobs.account(data, jobs.start(data))
    config, half = batchd.config, tmp_path / "2.incomplete"
    first = back_up(tmp_path / "1", "--config", config)
    assert (first.returncode, first.stderr) == (0, "")
    assert "2 files linked" in first.stdout
    assert first.stdout.endswith("0 copied (0 B), unfinished batches: 0\n")
    batchd.kill()
    half.mkdir()
    (half / "batchd.db").write_bytes(b"half")
    second = back_up(tmp_path / "2", "--config", config)
    assert second.stderr == f"batchd: {half}, left by a backup that was broken off, was removed\n"
    batchd.start()
    assert batchd.terminate() == 0
    third = back_up(tmp_path / "3", "--directory", batchd.state, "--json")
    assert json.loads(third.stdout)["linked"] == 2
    for name in "123":
        content = (tmp_path / name / "files" / account.batch["output_file_id"]).read_bytes()
        assert content == account.output
    batchd.start()
    again = back_up(tmp_path / "3", "--config", config)
    assert (again.returncode, again.stdout) == (2, "")
    assert "is there already" in again.stderr
    nothing = back_up(tmp_path / "4", "--directory", tmp_path)
    assert nothing.returncode == 78
    assert nothing.stderr == (
        f"batchd: there is nothing to back up in {tmp_path}: it has no batchd.db\n"
    )
