"""Clients that never stop: they upload, create, cancel and poll, whether or not batchd is there.

What they are told goes to ``Promises``. Some batches have a window that ends before they do, some
are cancelled, at once or on the way; the rest is answered to the end.
"""

import itertools
import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.jobs import Jobs, Refused
from tests.support.promises import Batch, Promises, Upload

WINDOWS = ("24h", "2s")
_SHORT = "2s"
_SMALL = 30
_MANY = 1000  # more lines than are answered in the short window
_PAUSE = 0.01
_LEAVE_WITHIN = 30


class Load:
    """Runs inside ``with``. At most ``large_at_once`` of its larger batches are unfinished."""

    def __init__(
        self, jobs: Jobs, promises: Promises, chance: random.Random, *, large_at_once: int = 4
    ) -> None:
        self._jobs = jobs
        self._promises = promises
        self._chance = chance
        self._large_at_once = large_at_once
        self._numbers = itertools.count()
        self._cancel_at: dict[str, int] = {}  # completed lines at which to cancel a batch
        self._stop = threading.Event()
        self._no_more = threading.Event()
        self._fault: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,), name=work.__name__, daemon=True)
            for work in (self._submit, self._submit, self._poll)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_LEAVE_WITHIN)
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise what a client has seen go wrong."""
        if self._fault is not None:
            raise self._fault

    def submit_no_more(self) -> None:
        """Poll and cancel only, from now on."""
        self._no_more.set()

    def new_upload(self, count: int) -> Upload:
        """A file like those of the clients, of which there is no other."""
        return Upload(f"input{next(self._numbers)}", count)

    @property
    def _open_large(self) -> int:
        return sum(batch.upload.count > _SMALL for batch in self._promises.open)

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._stop.wait(_PAUSE):
            try:
                work()
            except OSError:
                continue  # it is being started again
            except (AssertionError, ValueError) as fault:
                self._fault = fault
                return

    def _submit(self) -> None:
        if self._no_more.is_set():
            return
        kind, count = "plain", self._chance.choice([1, 3, 10, _SMALL])
        if self._open_large < self._large_at_once:
            kind = self._chance.choices(["plain", "short", "cancel"], weights=[2, 1, 2])[0]
            count = 300 if kind == "plain" else _MANY
        upload = self.new_upload(count)
        file_id = self._jobs.upload(upload.data)
        self._promises.uploaded(file_id, upload)
        window = _SHORT if kind == "short" else WINDOWS[0]
        batch_id = str(self._jobs.create(file_id, window=window)["id"])
        if kind == "cancel":
            self._cancel_at[batch_id] = self._chance.choice([0, 1, 100, 200])
        self._promises.created(batch_id, file_id)

    def _poll(self) -> None:
        for batch in self._promises.open:
            shown = self._promises.look(self._jobs, batch.id)
            at = self._cancel_at.get(batch.id)
            if at is not None and shown["request_counts"]["completed"] >= at:
                self._cancel(batch)

    def _cancel(self, batch: Batch) -> None:
        try:
            self._jobs.cancel(batch.id)
        except Refused as refused:
            if refused.status != 409:
                raise
        else:
            self._promises.cancelled(batch.id)
        self._cancel_at.pop(batch.id)
