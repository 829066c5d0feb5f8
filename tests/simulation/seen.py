"""What an observer outside batchd knows: committed rows, acknowledgements, what was shown.

It survives every crash, and checks hold batchd's disk and rows against it.
"""

import asyncio
import json
from collections import Counter
from pathlib import Path

from batchd import ids
from batchd.store import batches as table
from tests.simulation.database import Params, Statement
from tests.simulation.lines import Line
from tests.simulation.plan import BatchPlan, Plan, request

DIRECTORY = Path("/spool")
FILES = DIRECTORY / "files"
HOLDS = DIRECTORY / "batches"
INCOMING = DIRECTORY / "incoming"

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

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


class Seen:
    """Knowledge of one history."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lines = {
            batch.number: [
                Line(batch.number, request(index, text)) for index, text in enumerate(batch.lines)
            ]
            for batch in plan.batches
        }
        self.lines = {line.custom_id: line for lines in self._lines.values() for line in lines}
        self.by_id: dict[str, Batch] = {}
        self.by_number: dict[int, Batch] = {}
        self.uploads: set[str] = set()  # acknowledged, and not deleted by a client
        self.tally: Counter[str] = Counter()
        self.all_ended = asyncio.Event()
        self.closing = asyncio.Event()  # a batch has begun to end
        self._reached: dict[tuple[int, str], asyncio.Event] = {}

    @property
    def unfinished(self) -> list[Batch]:
        return [batch for batch in self.by_id.values() if not batch.is_terminal]

    def reached(self, number: int, status: str) -> asyncio.Event:
        """Set once the batch of this number has had this status."""
        return self._reached.setdefault((number, status), asyncio.Event())

    def lose_input(self, batch: Batch) -> None:
        if not batch.was_lost:
            batch.was_lost = True
            self.tally["lost inputs"] += 1

    def committed(self, statement: Statement) -> Batch | None:
        """Note what became of a batch; the batch if its status may be new."""
        text, params = statement
        if text is table.INSERT:
            number = int(json.loads(str(params["metadata"]))["number"])
            assert number not in self.by_number
            batch = Batch(self._plan.batches[number], self._lines[number], params)
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
        if len(self.by_id) == len(self._plan.batches) and not self.unfinished:
            self.all_ended.set()
        return batch
