"""Everything batchd has promised to clients, and whether it keeps it.

A promise is an answer that somebody was given: an upload, a create or a cancel that was
acknowledged, a count that a poll has seen, a batch that was shown at its end. Knows nothing of what
goes wrong in between; ``Lost`` is raised for the first promise that was broken.
"""

import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.support.checker import Account, Summary, check
from tests.support.eventlog import Event
from tests.support.jobs import TERMINAL, Jobs, JsonObject, Refused, request_lines

RESULT = b'{"id":"batch_req_'


class Lost(AssertionError):
    """Something that was acknowledged is not there any more, or has gone back."""


class Upload:
    """An input file of ``count`` lines; the custom_ids, ``prefix-0`` and so on, are in no other."""

    def __init__(self, prefix: str, count: int) -> None:
        self.prefix = prefix
        self.count = count
        self.data = request_lines(count, prefix=prefix)


class Batch:
    """What clients were told of one batch."""

    def __init__(self, batch_id: str, upload: Upload) -> None:
        self.id = batch_id
        self.upload = upload
        self.cancelled = False
        self.counts: dict[str, int] = {}
        self.final: JsonObject | None = None


class _ResultLine(msgspec.Struct):
    custom_id: str


_read = msgspec.json.Decoder(_ResultLine).decode


def recorded(state: Path) -> list[str]:
    """The custom_id of every whole result line in a storage directory, whoever's."""
    # A name with a dot is a copy; and perhaps not even the directory was left.
    files = [path for path in (state / "files").glob("*") if not path.suffix]
    lines = (line for path in files for line in path.read_bytes().split(b"\n")[:-1])
    return [name for line in lines if (name := _custom_id(line)) is not None]


def _custom_id(line: bytes) -> str | None:
    """None for a line that is torn, or of an input file."""
    try:
        return _read(line).custom_id if line.startswith(RESULT) else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class Promises:
    """Noted by any thread; checked by one."""

    def __init__(self) -> None:
        self.uploads: dict[str, Upload] = {}
        self.batches: dict[str, Batch] = {}
        self._lock = threading.Lock()
        self._new_uploads: list[str] = []
        self._new_batches: list[str] = []

    # -- what was acknowledged

    def uploaded(self, file_id: str, upload: Upload) -> None:
        with self._lock:
            self.uploads[file_id] = upload
            self._new_uploads.append(file_id)

    def created(self, batch_id: str, file_id: str) -> None:
        with self._lock:
            self.batches[batch_id] = Batch(batch_id, self.uploads[file_id])
            self._new_batches.append(batch_id)

    def cancelled(self, batch_id: str) -> None:
        self.batches[batch_id].cancelled = True

    def look(self, jobs: Jobs, batch_id: str) -> JsonObject:
        """Ask for a batch. It must not be less than what anybody was shown of it before."""
        batch = self.batches[batch_id]
        counts, final = batch.counts, batch.final  # before asking: others ask at the same time
        try:
            shown = jobs.get(batch_id)
        except Refused as refused:
            raise Lost(f"the create of {batch_id} was acknowledged, and then: {refused}") from None
        now: dict[str, int] = shown["request_counts"]
        if any(now[name] < count for name, count in counts.items()):
            raise Lost(f"{batch_id}: its counts went back from {counts} to {now}")
        if final is not None and shown != final:
            raise Lost(f"{batch_id} had ended as {final}, and is now {shown}")
        with self._lock:
            if sum(now.values()) > sum(batch.counts.values()):
                batch.counts = now
            if shown["status"] in TERMINAL:
                batch.final = shown
        return shown

    @property
    def open(self) -> list[Batch]:
        """The batches that nobody has seen at their end."""
        with self._lock:
            return [batch for batch in self.batches.values() if batch.final is None]

    @property
    def cancels(self) -> int:
        return sum(batch.cancelled for batch in self.batches.values())

    # -- whether it holds

    def check_disk(self, state: Path, kept: Iterable[str]) -> None:
        """Hold a storage directory and what is ``recorded`` in it against what clients were told.

        Nobody may work on it meanwhile.
        """
        for file_id, upload in list(self.uploads.items()):  # somebody may just be noting one more
            path = state / "files" / file_id
            if not path.exists() or path.read_bytes() != upload.data:
                raise Lost(f"the upload {file_id} was acknowledged, and its bytes are lost")
        lines = Counter(custom_id.rpartition("-")[0] for custom_id in kept)
        for batch in list(self.batches.values()):
            told = batch.counts.get("completed", 0) + batch.counts.get("failed", 0)
            lost = told - lines[batch.upload.prefix]
            if lost > 0:
                raise Lost(f"{batch.id}: {told} lines were counted, {lost} are lost")

    def check_new(self, jobs: Jobs) -> None:
        """Look for everything that was acknowledged since this was last asked."""
        with self._lock:
            uploads, self._new_uploads = self._new_uploads, []
            batches, self._new_batches = self._new_batches, []
        listed = jobs.file_ids()
        for file_id in uploads:
            if file_id not in listed:
                raise Lost(f"the upload {file_id} was acknowledged, and is not there")
        for batch_id in batches:
            self.look(jobs, batch_id)

    def check_all(self, jobs: Jobs, events: Iterable[Event]) -> list[Summary]:
        """Once every batch has ended: each is a true account of its input.

        How often a line may have been sent is for the caller to say.
        """
        self._check_uploads(jobs, self.uploads)
        logs: dict[str, list[Event]] = {}
        for event in events:
            logs.setdefault(event.nonce.rpartition("-")[0], []).append(event)
        return [
            self._check_batch(jobs, batch, logs.get(f"nonce of {batch.upload.prefix}", []))
            for batch in self.batches.values()
        ]

    def check_account(self, jobs: Jobs, batch_id: str) -> None:
        """One batch that has ended: its files are whole."""
        self._check_batch(jobs, self.batches[batch_id], None)

    def _check_batch(self, jobs: Jobs, batch: Batch, log: list[Event] | None) -> Summary:
        shown = self.look(jobs, batch.id)
        if batch.cancelled and shown["status"] != "cancelled":
            raise Lost(f"the cancel of {batch.id} was acknowledged, and it is {shown['status']}")
        output = jobs.content(shown["output_file_id"])
        errors = jobs.content(shown["error_file_id"])
        account = Account(input=batch.upload.data, output=output, errors=errors, batch=shown)
        return check(account, log=log, resent_allowed=len(log or ()))

    def _check_uploads(self, jobs: Jobs, file_ids: Iterable[str]) -> None:
        for file_id in file_ids:
            try:
                kept = jobs.content(file_id)
            except Refused as refused:
                raise Lost(f"the upload {file_id} was acknowledged, and then: {refused}") from None
            if kept != self.uploads[file_id].data:
                raise Lost(f"the upload {file_id} has other bytes than were acknowledged")
