"""The truth about pauses and priorities: what was acknowledged, and what the engine knows of it.

a row           says what was acknowledged last, or asked for since, in every life
taken note of   once the engine has looked at the rows after a commit; a start has from the first
paused          nothing new goes from when the engine has taken note until the resume is
                committed; what is in flight goes on
priority        is the run's as soon as the engine has taken note
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Never

from batchd.engine.runs import Run
from tests.simulation.lines import Line
from tests.simulation.plan import Plan
from tests.simulation.seen import Batch, Seen
from tests.simulation.servers import Server
from tests.simulation.troubles import Fault

Wrong = Callable[[str], Never]

_STEERED = "SELECT paused_at, priority FROM batch WHERE id = :id"
_BREAKS_OFF = frozenset({Fault.HANG, Fault.DRAIN})


class Steering:
    """``event`` numbers what happens, in its order."""

    def __init__(
        self,
        database: sqlite3.Connection,
        plan: Plan,
        seen: Seen,
        event: Callable[[], int],
        wrong: Wrong,
    ) -> None:
        self._database = database
        self._plan = plan
        self._seen = seen
        self._event = event
        self._wrong = wrong
        self.is_stopping = False

    # -- what is committed, and who knows

    def committed(self, batch_id: str) -> None:
        """A pause, a resume or a priority, if it came in time."""
        batch = self._seen.by_id[batch_id]
        is_paused, priority = self._row(batch)
        if (is_paused, priority) == (batch.is_paused, batch.priority):
            return
        batch.changes += 1
        batch.is_paused, batch.priority = is_paused, priority
        if not is_paused:
            batch.held_since = None

    def look(self) -> Mapping[str, int]:
        """How often each batch has been steered so far."""
        return {batch.id: batch.changes for batch in self._seen.unfinished}

    def noted(self, looked: Mapping[str, int], runs: Iterable[Run]) -> None:
        """The engine has read all rows since that look, and done what they say."""
        for batch_id, changes in looked.items():
            batch = self._seen.by_id[batch_id]
            if batch.is_paused and batch.changes == changes and batch.held_since is None:
                batch.held_since = self._event()
                self._seen.tally["pauses taken note of"] += 1
        for run in runs:
            batch = self._seen.by_id[run.id]
            if looked.get(run.id) == batch.changes and run.priority != batch.priority:
                self._wrong(f"batch {batch.number} goes with priority {run.priority}")

    # -- what is sent

    def sending(self, line: Line) -> None:
        batch = self._seen.by_number[line.batch]
        if batch.held_since is not None and line.picked > batch.held_since:
            self._wrong(f"line {line.custom_id} was sent although its batch is paused")

    def broken_off(self, server: Server, line: Line) -> None:
        """A pause breaks nothing off. Nor does anything else, where no server hangs or goes."""
        batch = self._seen.by_number[line.batch]
        plan = self._plan
        may_be = self.is_stopping or plan.fleet.reloads or batch.status != "in_progress"
        if not may_be and not any(
            period.server == server.name and period.fault in _BREAKS_OFF for period in plan.periods
        ):
            self._wrong(f"line {line.custom_id} was broken off")

    # -- after a life

    def life_ended(self) -> None:
        """When the disk is back: whatever was acknowledged stands, and binds the next life."""
        self.is_stopping = False
        for batch in self._seen.by_id.values():
            row = self._database.execute(_STEERED, {"id": batch.id}).fetchone()
            if row is not None:
                self._is_kept(batch)

    def _is_kept(self, batch: Batch) -> None:
        is_paused, priority = self._row(batch)
        if not batch.wished_pause.may_be(is_paused):
            state = "is" if is_paused else "is not"
            self._wrong(f"batch {batch.number} {state} paused, and otherwise was acknowledged")
        if not batch.wished_priority.may_be(priority):
            self._wrong(f"the priority of batch {batch.number} was acknowledged, and is {priority}")
        batch.is_paused, batch.priority = is_paused, priority
        is_held = is_paused and not batch.is_terminal
        batch.held_since = self._event() if is_held else None
        self._seen.tally["ends while paused"] += is_held

    def _row(self, batch: Batch) -> tuple[bool, int]:
        row = self._database.execute(_STEERED, {"id": batch.id}).fetchone()
        return row["paused_at"] is not None, int(row["priority"])
