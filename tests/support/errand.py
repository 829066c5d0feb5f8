"""A client that wants one job done in spite of crashes.

It remembers what was acknowledged and never asks for that again; what was not, it asks for again,
with the same key if it had one. Each of its batches has some lines that are answered, some that are
refused, and, if it is to be cancelled or to expire, many that never run.
"""

import itertools
import json
from pathlib import Path
from typing import Literal

from tests.support.checker import Account
from tests.support.jobs import TERMINAL, Jobs, JsonObject, request_line, request_lines
from tests.support.waiting import wait_until

Kind = Literal[
    "completed",
    "failed",
    "cancelled",
    "expired",
    "deleted",
    "outlives",
    "heals",
    "dropped",
    "keyed",
    "steered",
    "retried",
]

ANSWERED = 10
REFUSED = 3
NEVER_RUN = 600  # more than are filled in at once
PRIORITY = 7  # of a batch that is steered
_CANCELLED = frozenset({"cancelled", "steered"})


class Errand:
    """``run`` until it returns; ``ConnectionError`` means that batchd died on the way."""

    def __init__(self, name: str, kind: Kind, jobs: Jobs, *, window: str = "24h") -> None:
        self.kind: Kind = kind
        self.name = name
        self.data = _input(name, kind)
        self.jobs = jobs
        self.known = {str(batch["id"]) for batch in jobs.batches()}  # the newest
        self.file_id: str | None = None
        self.batch_id: str | None = None
        self.may_delete = True
        self._window = window
        self._counts: JsonObject = {"total": 0, "completed": 0, "failed": 0}
        self._cancelled = False
        self._is_paused: bool | None = None  # as acknowledged
        self._has_priority = False
        self._retry_id: str | None = None
        self._deleting = False
        self._deleted = False

    def run(self) -> None:
        """Do what is still to be done, and wait until the batch has ended."""
        jobs = self.jobs
        if self.file_id is None:
            self.file_id = jobs.upload(self.data)
        if self.batch_id is None:
            self.batch_id = self._created(self.file_id)
        if self.kind in _CANCELLED and not self._cancelled:
            jobs.wait_for(self.batch_id, self._is_answered)
            if self.kind == "steered":
                self._steer(self.batch_id)
            jobs.cancel(self.batch_id)
            self._cancelled = True
        jobs.wait_for(self.batch_id, self._has_ended)
        if self.kind == "retried":
            self._retry(self.batch_id)
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
        if self.batch_id is not None and self.kind == "steered":
            self._check_steered(self.jobs.get(self.batch_id))

    def forget_counts(self) -> None:
        """Lines that were counted have been lost, and not by batchd."""
        self._counts = dict.fromkeys(self._counts, 0)

    @property
    def status(self) -> str:
        """Of its batch at the end."""
        if self.kind in _CANCELLED:
            return "cancelled"
        return self.kind if self.kind in TERMINAL else "completed"

    @property
    def runs_again(self) -> set[str]:
        """The lines that are sent again although they have a result."""
        name = self.name
        return {f"{name}-refused-{n}" for n in range(REFUSED)} if self.kind == "retried" else set()

    def account(self) -> Account:
        assert self.batch_id is not None
        if self.kind == "keyed":
            assert self.file_id is not None
            assert self._create(self.file_id) == self.batch_id
        return self.jobs.account(self.data, self.batch_id)

    def unacknowledged_batch(self) -> str | None:
        """A batch whose creation was committed, though nobody was told."""
        newest = itertools.takewhile(
            lambda batch: batch["id"] not in self.known, self.jobs.batches()
        )
        new = [str(batch["id"]) for batch in newest if batch["batchd"]["parent_id"] is None]
        assert len(new) <= 1, "a create that was asked for once made two batches"
        return new[0] if new else None

    def _created(self, file_id: str) -> str:
        if self.kind == "keyed":
            return self._create(file_id)
        return self.unacknowledged_batch() or self._create(file_id)

    def _create(self, file_id: str) -> str:
        key = {"idempotency_key": f"key of {self.name}"} if self.kind == "keyed" else {}
        return str(self.jobs.create(file_id, window=self._window, **key)["id"])

    def _steer(self, batch_id: str) -> None:
        """Pause it, give it another priority, and resume it."""
        jobs = self.jobs
        if self._is_paused is None:
            assert jobs.ask_of(batch_id, "pause")["batchd"]["paused_at"] is not None
            self._is_paused = True
        if not self._has_priority:
            jobs.ask_of(batch_id, "priority", priority=PRIORITY)
            self._has_priority = True
        if self._is_paused:
            jobs.ask_of(batch_id, "resume")
            self._is_paused = False

    def _check_steered(self, batch: JsonObject) -> None:
        shown = batch["batchd"]
        if self._has_priority:
            assert shown["priority"] == PRIORITY
        if self._is_paused is False:
            assert shown["paused_at"] is None
        elif self._is_paused and not self._has_priority:  # else a resume may be on its way
            assert shown["paused_at"] is not None

    def _retry(self, batch_id: str) -> None:
        """Run what was refused again, once."""
        jobs, key = self.jobs, f"retry of {self.name}"
        answer = jobs.ask_of(batch_id, "retry", idempotency_key=key)
        self._retry_id = self._retry_id or str(answer["id"])
        children = [
            batch["id"] for batch in jobs.batches() if batch["batchd"]["parent_id"] == batch_id
        ]
        assert children == [self._retry_id]
        lines = jobs.content(str(answer["input_file_id"])) or b""
        assert lines == request_lines(REFUSED, "400", prefix=f"{self.name}-refused")
        ended = jobs.wait(self._retry_id)
        assert ended["request_counts"] == {"total": REFUSED, "completed": 0, "failed": REFUSED}

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
        self._inbox = inbox

    def run(self) -> None:
        draft, dropped = self._inbox / f".{self.name}", self._inbox / f"{self.name}.jsonl"
        if self.file_id is None:
            draft.write_bytes(self.data)
            draft.rename(dropped)
            self.file_id = str(dropped)
        status = self._inbox / "outbox" / f"{self.name}.status.json"
        self.jobs.batches()  # ConnectionError when batchd is dead
        if not status.exists() or json.loads(status.read_bytes())["status"] not in TERMINAL:
            raise ConnectionError("the results are not there yet")

    def check_acknowledged(self) -> None:
        """A drop is acknowledged by nobody; it is there or its results are."""

    def account(self) -> Account:
        done = self._inbox / "done" / f"{self.name}.jsonl"
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
        found = sorted((self._inbox / "outbox").glob(f"{self.name}*"))
        suffixes = ("errors.jsonl", "output.jsonl", "status.json")
        errors, output, status = (self._inbox / "outbox" / f"{self.name}.{s}" for s in suffixes)
        assert found == [errors, output, status]
        return [output, errors, status]


def _input(name: str, kind: Kind) -> bytes:
    if kind == "heals":
        return request_line(f"{name}-heals", "400|ok")
    data = request_lines(ANSWERED, prefix=f"{name}-ok")
    data += request_lines(REFUSED, "400", prefix=f"{name}-refused")
    if kind in {*_CANCELLED, "expired"}:
        data += request_lines(NEVER_RUN, "429", prefix=f"{name}-waits")
    if kind == "failed":
        data += request_line(f"{name}-bad").replace(b"/v1/chat", b"/v2/chat")
    return data
