"""The truth about dropped files: each gives one batch, and its results come back once.

The inbox is a directory of the simulated disk, with ``done`` and ``outbox`` beside it. A dropped
file is its owner's: on disk, and never written to by batchd.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Never

from tests.simulation.disk import SimDisk
from tests.simulation.plan import BatchPlan
from tests.simulation.seen import Seen

Wrong = Callable[[str], Never]

INBOX = Path("/inbox")
DROPPED, DONE, OUTBOX = INBOX / "dropped", INBOX / "done", INBOX / "outbox"
OUTPUT, ERRORS, STATUS = ".output.jsonl", ".errors.jsonl", ".status.json"
_EXPIRES = "SELECT expires_at FROM file WHERE id = :id AND deleted_at IS NULL"


class Drop:
    """One dropped file. Its number is its inode."""

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan
        self.name = f"drop-{plan.number}.jsonl"
        self.stem = f"drop-{plan.number}"
        self.data = b"\n".join(plan.lines) + b"\n"
        self.was_delivered = False

    @property
    def path(self) -> Path:
        return DROPPED / self.name

    @property
    def identity(self) -> tuple[int, int, int, int]:
        return 1, self.plan.number, 0, len(self.data)


class Drops:
    """All of a history. ``now`` is the clock on the wall."""

    def __init__(
        self,
        disk: SimDisk,
        database: sqlite3.Connection,
        seen: Seen,
        now: Callable[[], float],
        wrong: Wrong,
    ) -> None:
        self.by_name: dict[str, Drop] = {}
        self._batches: dict[str, Drop] = {}
        self._disk = disk
        self._database = database
        self._seen = seen
        self._now = now
        self._wrong = wrong

    def make_directories(self) -> None:
        for folder in (INBOX, DROPPED, DONE, OUTBOX):
            self._disk.make_directory(folder)

    def drop(self, plan: BatchPlan) -> None:
        """Somebody moves a file into the inbox; once."""
        drop = Drop(plan)
        if drop.name not in self.by_name:
            self.by_name[drop.name] = drop
            self._disk.plant(drop.path, drop.data)
            self._seen.tally["dropped files"] += 1

    @property
    def are_delivered(self) -> bool:
        return all(drop.was_delivered for drop in self.by_name.values())

    # -- what is committed

    def claimed(self, params: Mapping[str, object]) -> None:
        self._batches[str(params["batch_id"])] = self.by_name[str(params["name"])]

    def left(self, params: Mapping[str, object]) -> None:
        """From now on a file with that identity is another one."""
        drop = self._batches[str(params["batch_id"])]
        if drop.path in self._disk.durable:
            self._wrong(f"{drop.name} may come back, and would be taken for another one")

    def delivered(self, params: Mapping[str, object]) -> None:
        """All its results are in the outbox, and nobody brings them again."""
        batch_id = str(params["batch_id"])
        drop, batch = self._batches[batch_id], self._seen.by_id[batch_id]
        if drop.was_delivered:
            self._wrong(f"{drop.name} was delivered twice")
        drop.was_delivered = True
        self._seen.tally["delivered files"] += 1
        if batch_id.encode() not in self._durable(drop, STATUS):
            self._wrong(f"the status of {drop.name} is not on disk")
        for suffix, path in ((OUTPUT, batch.output), (ERRORS, batch.error)):
            content = batch.final_files.get(path, b"")
            if self._durable(drop, suffix) != content and not self._has_expired(path):
                self._wrong(f"the results of {drop.name} are not on disk: {suffix}")

    def _durable(self, drop: Drop, suffix: str) -> bytes:
        return self._disk.durable.get(OUTBOX / f"{drop.stem}{suffix}", b"")

    def _has_expired(self, path: Path) -> bool:
        row = self._database.execute(_EXPIRES, {"id": path.name}).fetchone()
        return row is None or (row["expires_at"] is not None and row["expires_at"] <= self._now())

    # -- the end of the history

    def nothing_is_left(self) -> None:
        """Every original is among what is done, as it was; each result is there once."""
        originals = {path.name: data for path, data in self._in(DONE).items()}
        wanted = {drop.name: drop.data for drop in self.by_name.values()}
        if originals != wanted or self._in(DROPPED):
            self._wrong(f"{set(originals)} are done of {set(wanted)}")
        outbox = self._in(OUTBOX)
        stems = Counter(path.name.partition(".")[0] for path in outbox if path.suffix == ".json")
        if stems != Counter(drop.stem for drop in self.by_name.values()):
            self._wrong(f"the outbox has {sorted(path.name for path in outbox)}")

    def _in(self, folder: Path) -> Mapping[Path, bytes]:
        files = self._disk.durable
        return {path: files[path] for path in files if path.parent == folder}
