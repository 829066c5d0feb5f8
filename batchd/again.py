"""The lines of an ended batch that came to nothing, run again as a batch of their own.

Which these are, the error file says: each of its lines has its request's index in its id. Their
requests are copied, byte for byte, from the input file to a new one; the new batch names the first
one as its parent. A crash leaves, at most, an input file that expires. Memory: a bit for each line.
"""

import asyncio
import contextlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import msgspec

from batchd import ids
from batchd.batches import Batches
from batchd.disk import Disk
from batchd.errors import BatchdError, Conflict, FileCorrupt, NotFound
from batchd.files import Files
from batchd.hops import hopping
from batchd.jsonl import BOM, line_groups, lines
from batchd.ledger import Bitmap
from batchd.model import BatchRecord, FileRecord, NewBatch, Purpose
from batchd.states import BatchStatus
from batchd.unreadable import Readable, corrupt_if_unreadable
from batchd.wire.checks import one_of
from batchd.wire.lines import check_result_lines, failure_codes
from batchd.wire.wishes import RetryWish

_AT_ONCE = 2
_PIECE = 1 << 18
_SLICE = 4096  # lines looked at in one step at most
_DAMAGED = "The error file of batch {id} is damaged: run `batchd fsck` where batchd runs."
_NOT_AS_VALIDATED = (
    "The input file of batch {id} does not have the lines any more that it was validated with: it "
    "is damaged. Run `batchd fsck` where batchd runs."
)
# What the lines of a batch without files came to: it ended before it was validated.
_ENDED_EARLY = {BatchStatus.CANCELLED: "batch_cancelled", BatchStatus.EXPIRED: "batch_expired"}


class Again:
    """Makes new batches of old lines. ``windows`` as in the configuration."""

    def __init__(
        self, files: Files, batches: Batches, disk: Disk, windows: Mapping[str, int]
    ) -> None:
        self._files = files
        self._batches = batches
        self._disk = disk
        # Each keeps a thread busy, and so the loop from its turns.
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._windows = windows

    async def retry(self, owner: str, batch_id: str, wish: RetryWish) -> BatchRecord:
        """A new batch of the lines that failed, expired or were cancelled.

        ``Conflict`` if there are none, or they cannot be read any more.
        """
        record = await self._batches.get(owner, batch_id)
        new = self._new_batch(record, wish)
        earlier = await self._batches.granted(owner, new)
        if earlier is not None:
            return earlier
        if not record.is_terminal:
            raise Conflict(
                f"Cannot retry a batch with status '{record.status}': wait until it has ended, or "
                "cancel it."
            )
        if record.status is BatchStatus.FAILED:
            raise Conflict(
                f"Cannot retry batch {record.id}: its input was not accepted, and no line of it "
                "ran. Correct the input and create a new batch."
            )
        if not record.was_validated:
            if wish.codes is not None and _ENDED_EARLY[record.status] not in wish.codes:
                raise _nothing_to_retry(record, wish)
            await self._bytes(record, record.input_file_id, "input")
            return await self._batches.create(owner, new)
        async with self._at_once:
            return await self._of_lines(record, new, wish)

    async def _of_lines(self, record: BatchRecord, new: NewBatch, wish: RetryWish) -> BatchRecord:
        if record.error_file_id is None:
            raise _nothing_to_retry(record, wish)
        errors = await self._bytes(record, record.error_file_id, "error")
        requests = await self._bytes(record, record.input_file_id, "input")
        chosen = Bitmap(record.counts.total)
        try:
            async for _ in hopping(self._choose(errors, record, wish.codes, chosen)):
                pass
            if not chosen.count:
                raise _nothing_to_retry(record, wish)
            file = await self._copied(record, requests, chosen)
        except FileNotFoundError:
            raise Conflict(f"Cannot retry batch {record.id}: a file of it was deleted.") from None
        try:
            batch = await self._batches.create(
                record.owner, msgspec.structs.replace(new, input_file_id=file.id)
            )
        except (BatchdError, OSError):
            await self._remove(file)
            raise
        if batch.input_file_id != file.id:  # the wish was granted before
            await self._remove(file)
        return batch

    async def _remove(self, file: FileRecord) -> None:
        with contextlib.suppress(NotFound):  # its owner was quicker
            await self._files.delete(file.owner, file.id)

    async def _copied(self, record: BatchRecord, requests: Path, chosen: Bitmap) -> FileRecord:
        """The chosen requests as a file."""
        async with self._files.receive() as upload:
            async for piece in hopping(self._requests(requests, record, chosen)):
                await upload.write(piece)
            return await self._files.create(
                record.owner,
                upload,
                filename=f"{record.id}_retry.jsonl",
                purpose=Purpose.BATCH.value,
                expires_after=None,
            )

    async def _bytes(self, record: BatchRecord, file_id: str, name: str) -> Path:
        try:
            _, path = await self._files.find_bytes(record.owner, file_id)
        except NotFound:
            raise Conflict(
                f"Cannot retry batch {record.id}: its {name} file {file_id} was deleted or has "
                "expired."
            ) from None
        return path

    def _new_batch(self, record: BatchRecord, wish: RetryWish) -> NewBatch:
        window = wish.completion_window or record.completion_window
        return NewBatch(
            input_file_id=record.input_file_id,
            endpoint=record.endpoint,
            completion_window=window,
            window=self._seconds(record, window),
            metadata=record.metadata if wish.metadata is None else wish.metadata or None,
            output_expires_after=record.output_expires_after,
            priority=record.priority if wish.priority is None else wish.priority,
            parent_id=record.id,
            codes=wish.codes,
            idempotency_key=wish.idempotency_key,
            is_repeated=wish.is_repeated,
        )

    def _seconds(self, record: BatchRecord, window: str) -> int:
        if window == record.completion_window and window not in self._windows:
            return record.expires_at - record.created_at  # it was one when the batch was made
        return self._windows[one_of(window, list(self._windows), "completion_window")]

    def _choose(
        self, errors: Path, record: BatchRecord, codes: frozenset[str] | None, chosen: Bitmap
    ) -> Iterator[None]:
        """Add the requests whose error line has one of the codes, a piece of the file at a step."""
        tag = ids.batch_tag(record.id)
        with self._opened(errors, f"The error file of batch {record.id}") as file:
            for _, group in line_groups(file):
                for line, index in zip(group, check_result_lines(tag, group), strict=True):
                    if index is None or index >= chosen.size:
                        raise FileCorrupt(_DAMAGED.format(id=record.id))
                    if codes is None or codes & failure_codes(line):
                        chosen.add(index)
                yield

    @contextlib.contextmanager
    def _opened(self, path: Path, what: str) -> Generator[Readable]:
        with corrupt_if_unreadable(what):
            opened = self._disk.open_read(path)
        with opened as file:
            yield Readable(file, what)

    def _requests(self, requests: Path, record: BatchRecord, chosen: Bitmap) -> Iterator[bytes]:
        """The chosen lines of an input file, in pieces; blank lines have no index."""
        index, piece = 0, bytearray()
        with self._opened(requests, f"The input file of batch {record.id}") as file:
            for number, (offset, line) in enumerate(lines(file), start=1):
                text = line.removeprefix(BOM) if offset == 0 else line
                if text.strip():
                    if index < chosen.size and index in chosen:
                        piece += text.rstrip(b"\r\n") + b"\n"
                    index += 1
                if len(piece) >= _PIECE or number % _SLICE == 0:
                    yield bytes(piece)
                    piece.clear()
        if index != chosen.size:
            raise FileCorrupt(_NOT_AS_VALIDATED.format(id=record.id))
        yield bytes(piece)


def _nothing_to_retry(record: BatchRecord, wish: RetryWish) -> Conflict:
    if wish.codes is not None:
        which = f"no line of it failed with {', '.join(sorted(wish.codes))}"
    else:
        which = "every line of it was answered"
    return Conflict(f"Cannot retry batch {record.id}: {which}.")
