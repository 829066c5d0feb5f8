"""Which lines of a running batch have failed before and have no result yet: for people who ask.

A few numbers are in memory of such a line; its custom_id is read from the input, in a thread. The
work is bounded by how many lines may wait, and by how many were asked for.
"""

import asyncio
import heapq
from collections.abc import Iterable, Mapping, Sequence

from batchd.disk import Disk
from batchd.engine.inputs import InputLost, Inputs
from batchd.engine.runs import Run, Runs
from batchd.model import TroubledLine
from batchd.retry import LineState
from batchd.wire.lines import request_line

_LONGEST = 1 << 20  # bytes of a line that is read only to tell its custom_id

_Standing = tuple[int, LineState]


class Troubles:
    """Looks when asked. Lives on the loop."""

    def __init__(self, runs: Runs, inputs: Inputs, disk: Disk) -> None:
        self._runs = runs
        self._inputs = inputs
        self._disk = disk

    async def of(self, batch_id: str, limit: int) -> tuple[list[TroubledLine], bool]:
        """At most so many lines, those with the most faults first; whether there are more."""
        run = self._runs.get(batch_id)
        if run is None:
            return [], False
        worst = heapq.nlargest(limit, run.troubled.items(), key=_badness)
        has_more = len(run.troubled) > len(worst)
        waits = _waits(run, {index for index, _ in worst})
        names = await self._disk.run(self._custom_ids, batch_id, [index for index, _ in worst])
        if batch_id not in self._runs:
            self._inputs.forget(batch_id)  # it has ended meanwhile: its input must not stay open
        lines = [
            _shown(standing, name, waits.get(standing[0]))
            for standing, name in zip(worst, names, strict=True)
        ]
        return lines, has_more

    def _custom_ids(self, batch_id: str, indexes: Sequence[int]) -> list[str | None]:
        """Blocks; for a thread."""
        return [self._custom_id(batch_id, index) for index in indexes]

    def _custom_id(self, batch_id: str, index: int) -> str | None:
        try:
            if self._inputs.length(batch_id, index) > _LONGEST:
                return None
            return request_line(index, self._inputs.read(batch_id, index)).custom_id
        except (InputLost, OSError, ValueError):
            return None


def _waits(run: Run, indexes: set[int]) -> Mapping[int, float]:
    """Seconds until these lines may be sent again; those in flight are not in it."""
    now = asyncio.get_running_loop().time()
    waiting: Iterable[tuple[float, int]] = (one for queue in run.queues for one in queue.waiting)
    return {index: max(0.0, at - now) for at, index in waiting if index in indexes}


def _badness(standing: _Standing) -> tuple[int, int, int]:
    index, state = standing
    return state.faults, state.attempts, -index


def _shown(standing: _Standing, custom_id: str | None, wait: float | None) -> TroubledLine:
    index, state = standing
    return TroubledLine(
        line=index + 1,
        custom_id=custom_id,
        attempts=state.attempts,
        faults=state.faults,
        last_failure=state.kind,
        backend=state.backend or None,
        next_attempt_in=None if wait is None else round(wait, 3),
    )
