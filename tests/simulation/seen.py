"""What an observer outside batchd knows: committed rows, acknowledgements, what was shown.

It survives every crash, and checks hold batchd's disk and rows against it.
"""

import asyncio
import json
from collections import Counter
from pathlib import Path

from batchd import ids
from batchd.store import batches as table
from batchd.wire.lines import check_result_line
from tests.simulation.database import Params, Statement
from tests.simulation.lines import Line
from tests.simulation.plan import BatchPlan, Plan, request
from tests.simulation.use import Use
from tests.simulation.wished import Wished

DIRECTORY = Path("/spool")
FILES = DIRECTORY / "files"
HOLDS = DIRECTORY / "batches"
INCOMING = DIRECTORY / "incoming"

_GENERATION = 1000  # by so much the number of a retry is higher

Numbers = tuple[int, int, int, int]  # total, completed, failed, tokens
NOTHING: Numbers = (0, 0, 0, 0)
CLOSING = frozenset({"finalizing", "cancelling"})
TERMINAL = frozenset({"failed", "completed", "expired", "cancelled"})


class Batch:
    """A batch by its committed row, and what became of it outside."""

    def __init__(self, plan: BatchPlan, lines: list[Line], params: Params) -> None:
        self.plan = plan
        self.lines = lines
        self.id = str(params["id"])
        self.output = FILES / str(params["output_file_id"])
        self.error = FILES / str(params["error_file_id"])
        self.tag = ids.batch_tag(self.id)
        self.status = "validating"
        self.wished_pause = Wished(value=False)
        self.wished_priority = Wished(int(str(params["priority"])))
        self.is_paused = False  # by its row
        self.priority = self.wished_priority.acknowledged
        self.changes = 0  # of these two
        self.held_since: int | None = None  # by which event the engine knew of the pause
        self.create_was_acknowledged = False
        self.cancel_was_acknowledged = False
        self.shown = NOTHING  # the most that somebody saw
        self.reads = 0  # of its input
        self.was_lost = False  # its input, by the disk
        self.was_damaged = False  # a result file of it, by the disk
        self.final_row: dict[str, object] = {}
        self.final_files: dict[Path, bytes] = {}

    @property
    def number(self) -> int:
        return self.plan.number

    def index_of(self, line: bytes) -> int | None:
        """Of a line of one of its result files."""
        return check_result_line(self.tag, line)

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


class Seen:
    """Knowledge of one history."""

    def __init__(self, plan: Plan) -> None:
        self.plans: dict[int, BatchPlan] = {}
        self.roots = frozenset(batch.number for batch in plan.batches)
        self.lines: dict[str, Line] = {}  # of the batch that runs them
        self._lines: dict[int, list[Line]] = {}
        for batch in plan.batches:
            self._expect(batch)
        self.by_id: dict[str, Batch] = {}
        self.by_number: dict[int, Batch] = {}
        self.uploads: set[str] = set()  # acknowledged, and not deleted by a client
        self.tally: Counter[str] = Counter()
        self.all_ended = asyncio.Event()
        self.closing = asyncio.Event()  # a batch has begun to end
        self._wanted = set(self.roots)  # batches, made or not
        self._reached: dict[tuple[int, str], asyncio.Event] = {}

    @property
    def unfinished(self) -> list[Batch]:
        return [batch for batch in self.by_id.values() if not batch.is_terminal]

    def reached(self, number: int, status: str) -> asyncio.Event:
        """Set once the batch of this number has had this status."""
        return self._reached.setdefault((number, status), asyncio.Event())

    def _expect(self, plan: BatchPlan) -> None:
        """There will be such a batch."""
        lines = [Line(plan.number, request(index, text)) for index, text in enumerate(plan.lines)]
        self.plans[plan.number] = plan
        self._lines[plan.number] = lines
        self.lines.update((line.custom_id, line) for line in lines)

    def retry_of(self, number: int) -> int:
        """The number of the batch that runs the lines of this one again."""
        return number + _GENERATION

    def ended(self, batch: Batch) -> None:
        """All is known of what became of it: it may be run again."""
        if batch.plan.use.retries and batch.status != "failed":
            plan = _again(batch, self.retry_of(batch.number))
            self._wanted.add(plan.number)
            self._expect(plan)
        self.reached(batch.number, "ended").set()
        self._look_for_the_end()

    def wants_no_more(self, number: int) -> None:
        """A batch will not be made after all."""
        self._wanted.discard(number)
        self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        if self._wanted == set(self.by_number) and not self.unfinished:
            self.all_ended.set()

    def lose_input(self, batch: Batch) -> None:
        if not batch.was_lost:
            batch.was_lost = True
            self.tally["lost inputs"] += 1

    def committed(self, statement: Statement) -> Batch | None:
        """Note what became of a batch; the batch if its status may be new."""
        text, params = statement
        if text is table.INSERT:
            number = int(json.loads(str(params["metadata"]))["number"])
            batch = Batch(self.plans[number], self._lines[number], params)
            self.by_id[batch.id] = self.by_number[number] = batch
        elif text is table.UPDATE:
            batch = self.by_id[str(params["id"])]
            if (batch.status, params["status"]) == ("finalizing", "cancelling"):
                self.tally["cancelled while finalizing"] += 1
            batch.status = str(params["status"])
        else:
            return None
        self.tally[batch.status] += 1
        self.reached(batch.number, batch.status).set()
        if batch.status in CLOSING:
            self.closing.set()
        return batch


def _again(batch: Batch, number: int) -> BatchPlan:
    """What a retry must become: all lines that came to nothing, and they only."""
    plan = batch.plan
    failed = range(plan.total)
    if batch.final_row["in_progress_at"] is not None:
        lines = batch.final_files.get(batch.error, b"").splitlines(keepends=True)
        failed = sorted(index for index in map(batch.index_of, lines) if index is not None)
    return BatchPlan(
        number=number,
        lines=[plan.lines[index] for index in failed],
        create_at=0.0,
        is_valid=plan.is_valid,
        owner=plan.owner,
        is_grouped=plan.is_grouped,
        use=Use(retries=plan.use.retries - 1),
    )
