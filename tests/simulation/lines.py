"""The truth about the lines of a history, over all lives of batchd: what they were sent and got."""

from batchd.model import FailureKind, Outcome, Reply, RequestLine

# An answer after which a line is done, whatever else is going on.
_FINAL = frozenset({200, 400, 404})
_FAULT_STATUSES = frozenset({408, 409, 500, 503})


class Line:
    """The truth about one line of one batch, over all lives."""

    __slots__ = (
        "all_faults",
        "batch",
        "custom_id",
        "failures",
        "faults",
        "faults_at",
        "faults_before",
        "faults_lost",
        "is_open",
        "not_before",
        "picked",
        "power_cuts",
        "replies",
        "request",
        "sendings",
        "settled",
    )

    def __init__(self, batch: int, request: RequestLine) -> None:
        self.batch = batch
        self.request = request
        self.custom_id = request.custom_id
        self.sendings = 0
        self.replies: set[tuple[int, bytes]] = set()
        self.failures: set[FailureKind] = set()
        self.all_faults = 0
        self.faults_lost = 0  # of which nothing was on record after a kill
        self.power_cuts = 0  # since its batch was there
        self.begin_life(0)

    def begin_life(self, faults: int) -> None:
        """Of the life that runs: sent and perhaps not durable; finally answered; faults."""
        self.is_open = False
        self.settled = False
        self.picked = 0  # by which event it was given a slot
        self.not_before = 0.0  # as its last fault asked
        self.faults = self.faults_before = faults
        self.faults_at: list[float] = []

    def came_to(self, outcome: Outcome, now: float) -> None:
        """What it was sent came to."""
        if isinstance(outcome, Reply):
            self.replies.add((outcome.status_code, outcome.body))
            self.settled = outcome.status_code in _FINAL
            is_fault = outcome.status_code in _FAULT_STATUSES
            if is_fault and outcome.hint is not None:
                self.not_before = now + outcome.hint
        else:
            self.failures.add(outcome.kind)
            is_fault = outcome.kind is not FailureKind.UNREACHABLE
        if is_fault:
            self.faults += 1
            self.all_faults += 1
            self.faults_at.append(now)
        self.is_open = self.settled
