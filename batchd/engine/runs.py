"""The batches that run: what the engine holds in memory of each, and the table of them all.

A run is made from a row, its result files and the order of its lines, at start and after
validation alike. It holds a bitmap of done lines, a queue for each model, and a few numbers for
each line that waits or has failed before: never a line itself.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from batchd.attempts import Attempts
from batchd.engine.queue import LineQueue
from batchd.grouping import LineOrder
from batchd.ledger import Ledger
from batchd.model import BatchRecord, LineFile, Progress, Retrying
from batchd.progress import LiveProgress
from batchd.retry import LineState
from batchd.states import BatchStatus

if TYPE_CHECKING:
    import asyncio

    from batchd.gathering import Group


NEW_LINE = LineState()

_NOTED = 64  # models of a batch that are looked at for why it waits

CLOSING = frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING})


class Run:
    """One batch that was validated and is not terminal. Lives on the loop."""

    def __init__(
        self,
        record: BatchRecord,
        tag: bytes,
        ledger: Ledger,
        order: LineOrder | None,
        attempts_file: Attempts,
    ) -> None:
        """``order`` is None if the input is lost."""
        self.id = record.id
        self.owner = record.owner
        self.endpoint = record.endpoint
        self.priority = record.priority
        self.created_at = record.created_at
        self.expires_at = record.expires_at
        self.status = record.status
        self.tag = tag
        self.ledger = ledger
        self.attempts_file = attempts_file
        self._states: dict[int, LineState] = {}
        self._kinds: Counter[str] = Counter()  # of the states
        self.queues: Sequence[LineQueue] = (
            _queues(order, ledger, self._states) if order is not None else []
        )
        self.attempts: set[asyncio.Task[None]] = set()
        self.unsettled = 0  # lines sent whose result is not durable
        self.closing_since: float | None = None
        self.is_ending = False
        self.input_lost = order is None

    @property
    def is_quiet(self) -> bool:
        """Nothing of it is in flight or on its way to disk."""
        return not self.attempts and self.unsettled == 0

    @property
    def is_drained(self) -> bool:
        return self.ledger.missing == 0

    def state(self, index: int) -> LineState:
        """What a line has been through."""
        return self._states.get(index, NEW_LINE)

    def note(self, index: int, state: LineState) -> None:
        """What a line has been through by now."""
        self.settled(index)
        self._states[index] = state
        self._kinds[state.kind] += 1

    def remember(self, states: Mapping[int, LineState]) -> None:
        """What lines without a result have been through in an earlier life."""
        for index, state in states.items():
            self.note(index, state)

    def settled(self, index: int) -> None:
        """A line needs no further attempt."""
        state = self._states.pop(index, None)
        if state is not None:
            self._kinds[state.kind] -= 1

    @property
    def troubled(self) -> Mapping[int, LineState]:
        """The lines that have failed before and have no result yet."""
        return self._states

    @property
    def retrying(self) -> Retrying | None:
        """How many lines have failed before, and why; None if none has."""
        if not self._states:
            return None
        return Retrying(len(self._states), {kind: n for kind, n in self._kinds.items() if n})

    def close(self) -> None:
        self.ledger.close()
        self.attempts_file.close()


def durable(ledger: Ledger) -> Progress:
    """What a batch has come to by now; all of it is on disk."""
    return Progress(
        ledger.counts,
        ledger.usage,
        output_end=ledger.end(LineFile.OUTPUT),
        error_end=ledger.end(LineFile.ERROR),
    )


def _queues(order: LineOrder, ledger: Ledger, states: dict[int, LineState]) -> Sequence[LineQueue]:
    by_model: dict[str, list[Group]] = {}
    for group in order.groups:
        by_model.setdefault(group.model, []).append(group)
    read = None if order.is_as_in_input else order.read
    return [LineQueue(model, groups, read, ledger, states) for model, groups in by_model.items()]


class Runs:
    """All runs, by batch id. ``note``: why lines of some models wait, if they do."""

    def __init__(self, live: LiveProgress, note: Callable[[Iterable[str]], str | None]) -> None:
        self._live = live
        self._note = note
        self._runs: dict[str, Run] = {}

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs.values()))

    def __contains__(self, batch_id: str) -> bool:
        return batch_id in self._runs

    def get(self, batch_id: str) -> Run | None:
        return self._runs.get(batch_id)

    def add(self, run: Run) -> None:
        """From now on clients see what this run has come to."""
        self._runs[run.id] = run
        self._live.follow(run.id, lambda: self._progress(run))

    def remove(self, run: Run) -> None:
        del self._runs[run.id]
        run.close()

    def _progress(self, run: Run) -> Progress:
        waits = run.status is BatchStatus.IN_PROGRESS and not run.is_drained
        note = self._note(queue.model for queue in islice(run.queues, _NOTED)) if waits else None
        retrying = run.retrying if waits else None
        return msgspec.structs.replace(durable(run.ledger), note=note, retrying=retrying)
