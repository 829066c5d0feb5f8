"""The stored records and the values that pass between the parts. Pure: structs and nothing else.

Instants are seconds since the epoch and end in ``_at``; durations are seconds; sizes are bytes.
"""

from enum import StrEnum

import msgspec

from batchd.states import TERMINAL, BatchStatus

LOCAL_OWNER = "local"


class Purpose(StrEnum):
    """What a file is for; only the names that strict clients accept (contract section 2)."""

    ASSISTANTS = "assistants"
    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"
    FINE_TUNE = "fine-tune"
    USER_DATA = "user_data"
    VISION = "vision"


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of table ``file``: bytes with an id, a name, a purpose and perhaps an expiry."""

    seq: int = 0
    id: str
    owner: str
    filename: str
    purpose: Purpose
    bytes: int
    sha256: str | None
    created_at: int
    expires_at: int | None


class Counts(msgspec.Struct, frozen=True):
    """``request_counts``: lines never run are in neither ``completed`` nor ``failed``."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens, summed over the lines of the output file."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.total_tokens + other.total_tokens,
        )


NO_USAGE = Usage()


class LineError(msgspec.Struct, frozen=True):
    """One entry of ``errors.data``: why a batch could not start. ``line`` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of table ``batch``.

    ``output_file_id`` and ``error_file_id`` are drawn at creation and hidden from clients until
    the batch is terminal: then they are null unless the file exists. ``output_end`` and
    ``error_end`` are the ledger's last offsets known to be durable.
    """

    seq: int = 0
    id: str
    owner: str
    status: BatchStatus
    endpoint: str
    model: str | None = None
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: int
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    errors: list[LineError] | None = None
    counts: Counts = Counts()
    usage: Usage = NO_USAGE
    output_file_id: str | None
    error_file_id: str | None
    output_end: int = 0
    error_end: int = 0
    priority: int = 0
    paused_at: int | None = None
    parent_id: str | None = None
    source: str = "api"
    idempotency_key: str | None = None
    request_hash: str | None = None
    notes: list[str] = []

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def was_validated(self) -> bool:
        return self.in_progress_at is not None

    @property
    def latest_at(self) -> int:
        """The latest instant in its life so far, while it has not ended."""
        steps = (self.created_at, self.in_progress_at, self.finalizing_at, self.cancelling_at)
        return max(at for at in steps if at is not None)


class Control(msgspec.Struct, frozen=True):
    """What the row of an unfinished batch says of how it is to go on."""

    status: BatchStatus
    priority: int = 0
    is_paused: bool = False


class InboxClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A row of table ``inbox_claim``: a file taken from the inbox and the batch it became.

    ``stem`` is what its results are called in the outbox (``stem.output.jsonl``).
    """

    seq: int = 0
    device: int
    inode: int
    mtime_ns: int
    size: int
    uid: int
    name: str
    stem: str
    batch_id: str
    left_at: int | None = None
    delivered_at: int | None = None

    @property
    def identity(self) -> tuple[int, int, int, int]:
        return self.device, self.inode, self.mtime_ns, self.size


class Retrying(msgspec.Struct, frozen=True):
    """Lines that have failed before and have no result yet, by what they came to last."""

    lines: int
    kinds: dict[str, int]


class Progress(msgspec.Struct, frozen=True):
    """What is known of a running batch beyond its row: durable, but not yet in SQLite.

    The two ends are the sizes of its result files. ``retrying``, of this instant, is nowhere else.
    """

    counts: Counts
    usage: Usage = NO_USAGE
    note: str | None = None
    retrying: Retrying | None = None
    output_end: int = 0
    error_end: int = 0


class TroubledLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that has failed before and has no result yet. ``line`` counts from 1.

    ``next_attempt_in``: seconds until it may be sent again; None while it is in flight.
    ``backend``: where it failed last, if that is known.
    """

    line: int
    custom_id: str | None
    attempts: int
    faults: int
    last_failure: str
    backend: str | None
    next_attempt_in: float | None


class NewBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish for a batch, from whichever door.

    ``parent_id``: the batch whose lines it runs again, ``codes``: those that failed with these.
    ``idempotency_key``: it is granted once; ``is_repeated``: perhaps it was granted before.
    """

    input_file_id: str
    endpoint: str
    completion_window: str
    window: int
    metadata: dict[str, str] | None = None
    output_expires_after: int
    priority: int = 0
    parent_id: str | None = None
    codes: frozenset[str] | None = None
    source: str = "api"
    idempotency_key: str | None = None
    is_repeated: bool = False


class RequestLine(msgspec.Struct, frozen=True):
    """One line of the input file: what to send, and what to call the answer.

    ``index`` counts request lines from 0 (blank lines have none); ``body`` is the client's bytes.
    ``max_tokens``: the most that its answer may have, where it says so.
    """

    index: int
    custom_id: str
    model: str
    body: bytes
    max_tokens: int | None = None


class FailureKind(StrEnum):
    """Why an attempt brought no usable answer. Logged and counted as is."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    RESET = "reset"
    NOT_HTTP = "not_http"
    NOT_JSON = "not_json"
    TOO_LARGE = "too_large"


class Window(msgspec.Struct, frozen=True):
    """What a server says of one of its rates: the limit, what is left, seconds to its reset."""

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


class Quota(msgspec.Struct, frozen=True):
    """What a server says of its rates with an answer."""

    requests: Window | None = None
    tokens: Window | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The backend answered, with whatever status. ``body`` is a JSON object made one line."""

    status_code: int
    request_id: str
    body: bytes
    usage: Usage = NO_USAGE
    error_code: str | None = None
    hint: float | None = None  # seconds the backend asked us to wait
    quota: Quota | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status_code < 300  # noqa: PLR2004 - HTTP's success class


class Failure(msgspec.Struct, frozen=True):
    """No usable answer. Never carries prompt or reply text."""

    kind: FailureKind


Outcome = Reply | Failure


class LineFile(StrEnum):
    """Which of the two result files of a batch a line stands in."""

    OUTPUT = "output"
    ERROR = "error"


# msgspec learns a type when it is first asked, and two threads that ask at once can end the process
# (seen with 0.22): so it learns the types of rows now.
for _row in (FileRecord, BatchRecord, InboxClaim):
    msgspec.json.Decoder(_row)
