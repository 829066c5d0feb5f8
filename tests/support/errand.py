"""A client that wants one job done in spite of crashes.

It remembers what was acknowledged and never asks for that again; what was not, it asks for again.
Each of its batches has some lines that are answered, some that are refused, and, if it is to be
cancelled or to expire, many that never run.
"""

import json
from pathlib import Path
from typing import Literal

from tests.support.checker import Account
from tests.support.jobs import TERMINAL, Jobs, JsonObject, request_line, request_lines
from tests.support.waiting import wait_until

Kind = Literal[
    "completed", "failed", "cancelled", "expired", "deleted", "outlives", "heals", "dropped"
]

ANSWERED = 10
REFUSED = 3
NEVER_RUN = 600  # more than are filled in at once


class Errand:
    """``run`` until it returns; ``ConnectionError`` means that batchd died on the way."""

    def __init__(self, name: str, kind: Kind, jobs: Jobs, *, window: str = "24h") -> None:
        self.kind: Kind = kind
        self.data = _input(name, kind)
        self.jobs = jobs
        self.known = {str(batch["id"]) for batch in jobs.batches()}
        self.file_id: str | None = None
        self.batch_id: str | None = None
        self.may_delete = True
        self._window = window
        self._counts: JsonObject = {"total": 0, "completed": 0, "failed": 0}
        self._cancelled = False
        self._deleting = False
        self._deleted = False

    def run(self) -> None:
        """Do what is still to be done, and wait until the batch has ended."""
        jobs = self.jobs
        if self.file_id is None:
            self.file_id = jobs.upload(self.data)
        if self.batch_id is None:
            self.batch_id = self.unacknowledged_batch() or self._create(self.file_id)
        if self.kind == "cancelled" and not self._cancelled:
            jobs.wait_for(self.batch_id, self._is_answered)
            jobs.cancel(self.batch_id)
            self._cancelled = True
        jobs.wait_for(self.batch_id, self._has_ended)
        if self.kind == "deleted" and self.may_delete and not self._deleted:
            self._delete(self.file_id)

    def check_acknowledged(self) -> None:
        """Whatever batchd has acknowledged is there."""
        if self._deleted or self.kind == "outlives":
            assert self.file_id not in self.jobs.file_ids()
        elif self.file_id is not None and not self._deleting:
            assert self.jobs.content(self.file_id) == self.data
        if self.batch_id is not None:
            self._see(self.jobs.get(self.batch_id))
        if self.batch_id is not None and self._cancelled:
            assert self.jobs.get(self.batch_id)["cancelling_at"] is not None

    def forget_counts(self) -> None:
        """Lines that were counted have been lost, and not by batchd."""
        self._counts = dict.fromkeys(self._counts, 0)

    def account(self) -> Account:
        assert self.batch_id is not None
        return self.jobs.account(self.data, self.batch_id)

    def unacknowledged_batch(self) -> str | None:
        """A batch whose creation was committed, though nobody was told."""
        new = [str(batch["id"]) for batch in self.jobs.batches() if batch["id"] not in self.known]
        assert len(new) <= 1, "a create that was asked for once made two batches"
        return new[0] if new else None

    def _create(self, file_id: str) -> str:
        return str(self.jobs.create(file_id, window=self._window)["id"])

    def _delete(self, file_id: str) -> None:
        """A file that has gone is one whose deletion was not acknowledged."""
        self._deleting = True
        if file_id in self.jobs.file_ids():
            self.jobs.delete_file(file_id)
        self._deleted = True

    def _is_answered(self, batch: JsonObject) -> bool:
        self._see(batch)
        counts = batch["request_counts"]
        return bool(counts["completed"] == ANSWERED and counts["failed"] == REFUSED)

    def _has_ended(self, batch: JsonObject) -> bool:
        self._see(batch)
        return batch["status"] in TERMINAL

    def _see(self, batch: JsonObject) -> None:
        counts = batch["request_counts"]
        assert all(counts[name] >= self._counts[name] for name in counts), "the counts went back"
        self._counts = counts


class Drop(Errand):
    """The same by way of the inbox: a file is dropped once, and its results come back once."""

    def __init__(self, name: str, jobs: Jobs, inbox: Path) -> None:
        super().__init__(name, "dropped", jobs)
        self._name = name
        self._inbox = inbox

    def run(self) -> None:
        draft, dropped = self._inbox / f".{self._name}", self._inbox / f"{self._name}.jsonl"
        if self.file_id is None:
            draft.write_bytes(self.data)
            draft.rename(dropped)
            self.file_id = str(dropped)
        status = self._inbox / "outbox" / f"{self._name}.status.json"
        self.jobs.batches()  # ConnectionError when batchd is dead
        if not status.exists():
            raise ConnectionError("the results are not there yet")

    def check_acknowledged(self) -> None:
        """A drop is acknowledged by nobody; it is there or its results are."""

    def account(self) -> Account:
        done = self._inbox / "done" / f"{self._name}.jsonl"
        wait_until(done.exists)
        assert done.read_bytes() == self.data
        output, errors, status = self._results()
        self.batch_id = self.unacknowledged_batch()
        batch = json.loads(status.read_bytes())
        assert batch["id"] == self.batch_id
        return Account(
            input=self.data, output=output.read_bytes(), errors=errors.read_bytes(), batch=batch
        )

    def _results(self) -> list[Path]:
        """The three files that one delivery makes, and no other."""
        found = sorted((self._inbox / "outbox").glob(f"{self._name}*"))
        suffixes = ("errors.jsonl", "output.jsonl", "status.json")
        errors, output, status = (self._inbox / "outbox" / f"{self._name}.{s}" for s in suffixes)
        assert found == [errors, output, status]
        return [output, errors, status]


def _input(name: str, kind: Kind) -> bytes:
    if kind == "heals":
        return request_line(f"{name}-heals", "400|ok")
    data = request_lines(ANSWERED, prefix=f"{name}-ok")
    data += request_lines(REFUSED, "400", prefix=f"{name}-refused")
    if kind in {"cancelled", "expired"}:
        data += request_lines(NEVER_RUN, "429", prefix=f"{name}-waits")
    if kind == "failed":
        data += request_line(f"{name}-bad").replace(b"/v1/chat", b"/v2/chat")
    return data
