"""Each wish becomes one batch, and a retry has exactly the lines that came to nothing.

Over a chain of retries every line of the first batch stands once among all answers and the errors
of the last one.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Never

from tests.simulation.disk import SimDisk
from tests.simulation.plan import BatchPlan
from tests.simulation.seen import FILES, Batch, Seen

Wrong = Callable[[str], Never]


class Chains:
    """Looks at each batch when it is created, and at all of them at the end."""

    def __init__(self, disk: SimDisk, seen: Seen, wrong: Wrong) -> None:
        self._disk = disk
        self._seen = seen
        self._wrong = wrong

    def creating(self, params: Mapping[str, object]) -> None:
        """At the commit."""
        number = int(json.loads(str(params["metadata"]))["number"])
        if number in self._seen.by_number:
            self._wrong(f"batch {number} was made twice")
        plan = self._seen.plans.get(number)
        if plan is None:
            self._wrong(f"nobody asked for batch {number}")
        if params["parent_id"] is not None:
            self._seen.tally["retries"] += 1
            self._is_right(plan, FILES / str(params["input_file_id"]))

    def _is_right(self, plan: BatchPlan, path: Path) -> None:
        found = self._disk.durable.get(path, b"").splitlines()
        if found != plan.lines:
            self._wrong(f"batch {plan.number} has {len(found)} lines to retry of {plan.total}")

    def refused(self, batch: Batch, reason: str) -> None:
        """A retry was refused: for good reason only."""
        seen = self._seen
        child = seen.plans[seen.retry_of(batch.number)]
        if child.lines and "every line" in reason:
            self._wrong(f"a retry of batch {batch.number} was refused: {reason}")
        seen.tally["refused retries"] += 1

    def add_up(self) -> None:
        """At the end of the history."""
        for batch in self._seen.by_id.values():
            if batch.plan.use.retries and batch.number in self._seen.roots:
                self._adds_up(batch)

    def _adds_up(self, root: Batch) -> None:
        found = Counter[str]()
        last = root
        for batch in self._chain(root):
            found.update(_names(batch, batch.output))
            last = batch
        if last.final_row["in_progress_at"] is None:
            return  # its lines never ran, and it has no files to say so
        found.update(_names(last, last.error))
        wanted = Counter(line.custom_id for line in root.lines)
        if found != wanted and not self._has_nameless(root):
            self._wrong(f"the retries of batch {root.number} have {found}")

    def _chain(self, root: Batch) -> Iterable[Batch]:
        batch: Batch | None = root
        while batch is not None:
            yield batch
            batch = self._seen.by_number.get(self._seen.retry_of(batch.number))

    def _has_nameless(self, root: Batch) -> bool:
        """Lines of an input that was lost have no name."""
        return any(batch.was_lost for batch in self._chain(root))


def _names(batch: Batch, path: Path) -> list[str]:
    lines = batch.final_files.get(path, b"").splitlines()
    return [str(json.loads(line)["custom_id"]) for line in lines]
