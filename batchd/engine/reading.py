"""Reads further in the orders of lines that were used up, and goes on without one that is lost."""

import logging
from collections.abc import Iterable, Sequence

from batchd.engine.inputs import LOST_ERRORS
from batchd.engine.queue import LineQueue
from batchd.engine.runs import Run
from batchd.errors import BatchdError

log = logging.getLogger(__name__)


class OrderLost(BatchdError):
    """The order of a batch's lines cannot be read any more, and there are several models."""


def fill(queues: Sequence[LineQueue]) -> list[LineQueue]:
    """Read on in each; those whose order is lost. One that cannot be read just now stays hungry."""
    lost: list[LineQueue] = []
    for queue in queues:
        try:
            queue.fill()
        except (OSError, EOFError, IndexError) as error:
            log.warning("order_not_read", extra={"reason": str(error)})
            if not isinstance(error, OSError) or error.errno in LOST_ERRORS:
                lost.append(queue)
    return lost


def give_up_orders(runs: Iterable[Run], lost: Sequence[LineQueue]) -> None:
    """An order is derived, so one that is lost costs no line, if the model is known.

    ``OrderLost`` if it is not: the next start makes the order anew.
    """
    for run in runs if lost else ():
        for queue in run.queues:
            if queue not in lost:
                continue
            if len(run.queues) > 1:
                raise OrderLost(f"the order of {run.id} is lost: the next start makes it anew")
            queue.read_plainly()
