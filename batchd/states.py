"""The batch state machine, as data (contract section 6).

Rule 1: every status a batch can have, and every way to leave it, is in TRANSITIONS.
Rule 2: this module does no I/O and does not know what time it is; callers say what happened,
and this module says what follows.

    validating ─VALIDATED─► in_progress ─LINES_DONE────► finalizing ─PUBLISHED──────► completed
      │  │  │                 │     └────WINDOW_CLOSED──►   │ └──────PUBLISHED_LATE─► expired
      │  │  └─────CANCEL──────┴─────────CANCEL──────────────┴─► cancelling ─PUBLISHED─► cancelled
      │  └─WINDOW_CLOSED─► expired
      └─REJECTED─► failed

A batch whose window closes while it runs passes through ``finalizing`` and is ``expired`` if a
line of it never ran, ``completed`` if every line did.
"""

from enum import StrEnum

from batchd.errors import InvalidTransition


class BatchStatus(StrEnum):
    """OpenAI's eight statuses; clients break on any other."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What happened to a batch."""

    VALIDATED = "validated"
    REJECTED = "rejected"
    CANCEL = "cancel"
    LINES_DONE = "lines_done"
    WINDOW_CLOSED = "window_closed"
    PUBLISHED = "published"
    PUBLISHED_LATE = "published_late"


TRANSITIONS: dict[BatchStatus, dict[Event, BatchStatus]] = {
    BatchStatus.VALIDATING: {
        Event.VALIDATED: BatchStatus.IN_PROGRESS,
        Event.REJECTED: BatchStatus.FAILED,
        Event.CANCEL: BatchStatus.CANCELLING,
        Event.WINDOW_CLOSED: BatchStatus.EXPIRED,
    },
    BatchStatus.IN_PROGRESS: {
        Event.LINES_DONE: BatchStatus.FINALIZING,
        Event.WINDOW_CLOSED: BatchStatus.FINALIZING,
        Event.CANCEL: BatchStatus.CANCELLING,
    },
    BatchStatus.FINALIZING: {
        Event.PUBLISHED: BatchStatus.COMPLETED,
        Event.PUBLISHED_LATE: BatchStatus.EXPIRED,
        Event.CANCEL: BatchStatus.CANCELLING,
    },
    BatchStatus.CANCELLING: {Event.PUBLISHED: BatchStatus.CANCELLED},
    BatchStatus.FAILED: {},
    BatchStatus.COMPLETED: {},
    BatchStatus.EXPIRED: {},
    BatchStatus.CANCELLED: {},
}

TERMINAL = frozenset(status for status, exits in TRANSITIONS.items() if not exits)
UNFINISHED = frozenset(TRANSITIONS) - TERMINAL


def next_status(status: BatchStatus, event: Event) -> BatchStatus:
    """The status that follows. ``InvalidTransition`` if this event cannot happen in ``status``."""
    try:
        return TRANSITIONS[status][event]
    except KeyError:
        raise InvalidTransition(f"A batch that is {status} cannot take {event}.") from None
