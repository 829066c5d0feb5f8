"""Takes dropped files: each becomes one batch, or is rejected with a reason.

    state  inbox     spool  rows           left by a crash before   then
    I0     original  -      -              the end of the copy      taken again; bytes are swept
    I1     original  file   file           the batch's INSERT       taken again; the file expires
    I2     original  file   batch, claim   the move to done/        only moved, known by its claim
    I3     done/     file   batch, claim   the claim's left_at      only noted

The batch and its claim are one transaction: that is the commit. What is dropped may be a trap, and
may be changed at any time by who dropped it: it is opened without following or waiting, copied, and
looked at again afterwards; what was copied is all that is ever used.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import msgspec

from batchd import disk
from batchd.batches import Batches
from batchd.config import BatchesConfig
from batchd.errors import BatchdError, InvalidRequest, NoRoom
from batchd.files import Files
from batchd.inbox import refusals
from batchd.inbox.directories import SUFFIX, Directories
from batchd.inbox.folder import Dropped
from batchd.inbox.refusals import Refused
from batchd.inbox.settling import Arrival, Seen, Settling
from batchd.jsonl import BOM, lines
from batchd.model import LOCAL_OWNER, BatchRecord, FileRecord, InboxClaim, NewBatch, Purpose
from batchd.store import Transaction
from batchd.store import inbox as table
from batchd.store.database import Database
from batchd.wire.params import DEFAULT_EXPIRES_AFTER

log = logging.getLogger(__name__)

_PIECE = 1 << 19
_RETRY = 5.0  # seconds until a file that could not be taken is tried again


class NotYet(BatchdError):
    """The file can be taken later, unless it changes at ``at``."""

    def __init__(self, at: float | None = None) -> None:
        super().__init__()
        self.at = at


class _FirstLine(msgspec.Struct, frozen=True):
    url: str


_decode = msgspec.json.Decoder(_FirstLine).decode


class Intake:
    """One pass after the other over what is in the inbox."""

    def __init__(  # noqa: PLR0913 - its parts, its rules, and time from outside
        self,
        database: Database,
        files: Files,
        batches: Batches,
        config: BatchesConfig,
        settling: Settling,
        *,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._files = files
        self._batches = batches
        self._config = config
        self._settling = settling
        self._now = now
        self._complaints: dict[str, str] = {}

    async def look(self, directories: Directories, stop: asyncio.Event) -> None:
        """One pass: take, reject or leave alone all that is there."""
        told = self._settling.take_told()
        listing = await asyncio.to_thread(directories.listing)
        await self._let_claimed_go(directories, listing)
        self._complaints = {
            name: reason for name, reason in self._complaints.items() if name in listing
        }
        for arrival in self._settling.look(listing, told, self._monotonic()):
            if stop.is_set():
                return
            await self._take(directories, arrival, stop)

    async def _let_claimed_go(self, directories: Directories, listing: dict[str, Seen]) -> None:
        """Move what is a batch already; note what its owner has moved."""
        claims = await table.open_claims(self._database)
        if not claims:
            return
        by_identity = {seen.identity: seen for seen in listing.values()}
        for claim in claims:
            seen = by_identity.get(claim.identity)
            if seen is not None:
                del listing[seen.name]
            await self._let_go(directories, claim.batch_id, seen)

    async def _let_go(self, directories: Directories, batch_id: str, seen: Seen | None) -> None:
        """Move an original to ``done/`` if it is there, and forget its identity."""
        now = int(self._now())
        try:
            if seen is not None:
                await asyncio.to_thread(directories.move_to_done, seen)
            await self._database.write(lambda tx: table.left(tx, batch_id, now))
        except (OSError, NoRoom) as error:
            # The claim stays open, and the next look tries again.
            self._complain(seen.name if seen else batch_id, _reason(error))

    async def _take(self, directories: Directories, arrival: Arrival, stop: asyncio.Event) -> None:
        seen = arrival.seen
        name = seen.name
        try:
            await self._submit(directories, arrival, stop)
        except Refused as refused:
            await self._reject(directories, seen, refused)
        except NotYet as later:
            self._settling.postpone(name, later.at or self._monotonic() + _RETRY)
        except (OSError, NoRoom) as error:
            self._try_later(name, _reason(error))

    async def _submit(
        self, directories: Directories, arrival: Arrival, stop: asyncio.Event
    ) -> None:
        if not arrival.seen.is_regular:
            raise refusals.not_a_file()
        async with _opened(directories, arrival.seen) as dropped:
            await self._require_complete(dropped, arrival)
            refusals.check(dropped.seen)
            stem = await self._free_stem(directories, dropped.seen.name)
            try:
                file = await self._copy(dropped, stop)
            except InvalidRequest as error:
                raise refusals.unacceptable(error) from error
            batch = await self._create(file, dropped.seen, stem)
        facts = {"file": dropped.seen.name, "batch": batch.id, "results": stem}
        log.info("inbox_taken", extra={**facts, "uid": dropped.seen.uid, "bytes": file.bytes})
        await self._let_go(directories, batch.id, dropped.seen)

    async def _require_complete(self, dropped: Dropped, arrival: Arrival) -> None:
        if dropped.seen != arrival.seen:
            raise NotYet(self._monotonic())
        has_writer = await asyncio.to_thread(dropped.has_writer)
        if has_writer:
            raise NotYet
        if has_writer is None and not arrival.certain:
            raise NotYet(self._settling.certain_at(arrival.seen.name, self._monotonic()))

    async def _free_stem(self, directories: Directories, name: str) -> str:
        taken = await table.stems(self._database)
        stem = name.removesuffix(SUFFIX)
        return await asyncio.to_thread(directories.free_stem, stem, taken)

    async def _copy(self, dropped: Dropped, stop: asyncio.Event) -> FileRecord:
        """The file's bytes as a file of ours, if they did not change meanwhile."""
        size = dropped.seen.size
        self._files.check_size(size)
        async with self._files.receive(size) as upload:
            while upload.size < size:
                wanted = min(_PIECE, size - upload.size)
                piece = await asyncio.to_thread(dropped.read, upload.size, wanted)
                if not piece or stop.is_set():
                    raise NotYet
                await upload.write(piece)
            if await asyncio.to_thread(dropped.look) != dropped.seen:
                raise NotYet
            return await self._files.create(
                LOCAL_OWNER,
                upload,
                filename=dropped.seen.name,
                purpose=Purpose.BATCH.value,
                expires_after=None,
            )

    async def _create(self, file: FileRecord, seen: Seen, stem: str) -> BatchRecord:
        """The batch and its claim, in one transaction."""

        async def claim(tx: Transaction, batch: BatchRecord) -> None:
            await table.insert(tx, _claim(seen, stem, batch.id))

        try:
            endpoint = await self._endpoint(file)
            window, seconds = next(iter(self._config.windows.items()))
            wish = NewBatch(
                input_file_id=file.id,
                endpoint=endpoint,
                completion_window=window,
                window=seconds,
                output_expires_after=DEFAULT_EXPIRES_AFTER,
                source="inbox",
            )
            return await self._batches.create(LOCAL_OWNER, wish, also=claim)
        except (BatchdError, OSError):
            # No batch was made of it, and none will be.
            await self._files.delete(LOCAL_OWNER, file.id)
            raise

    async def _endpoint(self, file: FileRecord) -> str:
        """What the first request asks for; ``Refused`` unless it is an endpoint of ours."""
        _, path = await self._files.find_bytes(file.owner, file.id)
        line_no, line = await asyncio.to_thread(_first_line, path)
        try:
            url = _decode(line).url
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            url = None
        if url not in self._config.endpoints:
            raise refusals.unknown_endpoint(line_no, self._config.endpoints)
        return url

    async def _reject(self, directories: Directories, seen: Seen, refused: Refused) -> None:
        safe_name = refusals.safe_name(seen.name)
        report = refusals.refusal_report(seen.name, refused)
        try:
            is_news = await asyncio.to_thread(directories.reject, seen, safe_name, report)
        except OSError as error:
            self._try_later(seen.name, _reason(error))
            return
        self._settling.postpone(seen.name)
        if is_news:
            facts = {"file": refusals.shown(seen.name), "code": refused.code, "uid": seen.uid}
            log.warning("inbox_rejected", extra=facts)

    def _try_later(self, name: str, reason: str) -> None:
        self._settling.postpone(name, self._monotonic() + _RETRY)
        self._complain(name, reason)

    def _complain(self, name: str, reason: str) -> None:
        """Say what is in the way, once for each file and reason."""
        if self._complaints.get(name) != reason:
            self._complaints[name] = reason
            facts = {"file": refusals.shown(name), "reason": reason}
            log.warning("inbox_waits", extra=facts)

    def _monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def _opened(directories: Directories, seen: Seen) -> AsyncGenerator[Dropped]:
    try:
        dropped = await asyncio.to_thread(directories.inbox.open, seen.name)
    except FileNotFoundError:
        raise NotYet from None
    except OSError as error:
        raise (refusals.unreadable(error) or error) from None
    try:
        yield dropped
    finally:
        await asyncio.to_thread(dropped.close)


def _reason(error: OSError | NoRoom) -> str:
    if isinstance(error, OSError) and not disk.is_full(error):
        return error.strerror or type(error).__name__
    return str(NoRoom())


def _claim(seen: Seen, stem: str, batch_id: str) -> InboxClaim:
    device, inode, mtime_ns, size = seen.identity
    return InboxClaim(
        device=device,
        inode=inode,
        mtime_ns=mtime_ns,
        size=size,
        uid=seen.uid,
        name=seen.name,
        stem=stem,
        batch_id=batch_id,
    )


def _first_line(path: Path) -> tuple[int, bytes]:
    """The first line that is not blank, and its number."""
    with path.open("rb") as file:
        for number, (_, line) in enumerate(lines(file), 1):
            if text := line.removeprefix(BOM).strip():
                return number, text
    return 1, b""
