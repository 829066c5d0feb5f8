"""When a batch can be paused, and what people are told of one that is. Pure."""

from datetime import UTC, datetime

from batchd.model import BatchRecord
from batchd.states import BatchStatus

# With these statuses there may be lines that were not sent yet.
PAUSABLE = frozenset({BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS})


def paused_note(record: BatchRecord) -> str | None:
    """That nothing is sent, and that time goes on all the same; None if it is not paused."""
    if record.paused_at is None or record.status not in PAUSABLE:
        return None
    return (
        f"paused since {_moment(record.paused_at)}: nothing more is sent until it is resumed; its "
        f"completion window goes on, and ends at {_moment(record.expires_at)}"
    )


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
