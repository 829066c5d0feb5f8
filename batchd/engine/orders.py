"""The order of a batch's lines, opened; made anew where there is none that can be used. Blocks."""

import logging
from typing import Protocol

from batchd.grouping import LineOrder, Order, open_order, rebuild_order
from batchd.model import BatchRecord
from batchd.spool import Spool

log = logging.getLogger(__name__)


class OpensOrder(Protocol):
    """``Orders.open``, or what a simulation has."""

    def __call__(self, record: BatchRecord) -> LineOrder | None: ...


class Orders:
    """Opens orders. ``order``: how lines are to be sent (``batches.order``)."""

    def __init__(self, spool: Spool, order: Order) -> None:
        self._spool = spool
        self._order: Order = order

    def open(self, record: BatchRecord) -> LineOrder | None:
        """In which order a batch's lines go; None if its input cannot be read at all.

        ``OSError`` if the disk fails.
        """
        found = self._open(record)
        if found is not None:
            return found
        log.info("order_made_anew", extra={"batch": record.id})
        spool = self._spool
        try:
            rebuild_order(
                spool.input(record.id),
                spool.index(record.id),
                spool.order(record.id),
                order=self._order,
            )
        except (EOFError, FileNotFoundError):
            return None
        return self._open(record)

    def _open(self, record: BatchRecord) -> LineOrder | None:
        path = self._spool.order(record.id)
        return open_order(path, total=record.counts.total, model=record.model)
