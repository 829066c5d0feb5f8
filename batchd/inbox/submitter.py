"""Makes a batch of one dropped file that seems to be complete.

What is dropped may be a trap, and may be changed at any time by who dropped it: it is opened
without following or waiting, copied, and looked at again afterwards; what was copied is all that is
ever used. The batch and its claim are one transaction: that is the commit.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import msgspec

from batchd.batches import Batches
from batchd.config import BatchesConfig
from batchd.errors import BatchdError, InvalidRequest, NotFound
from batchd.files import Files
from batchd.inbox import refusals, sidecar
from batchd.inbox.directories import SUFFIX, Directories
from batchd.inbox.folder import Dropped
from batchd.inbox.settling import Arrival, Identity, Seen, Settling
from batchd.inbox.shares import Shares
from batchd.inbox.sidecar import Options
from batchd.jsonl import BOM, lines
from batchd.model import BatchRecord, FileRecord, InboxClaim, Purpose
from batchd.store import Transaction
from batchd.store import inbox as table
from batchd.store.database import Database

_PIECE = 1 << 19


class NotYet(BatchdError):
    """The file can be taken later, unless it changes at ``at``."""

    def __init__(self, at: float | None = None) -> None:
        super().__init__()
        self.at = at


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is a batch now."""

    seen: Seen
    sidecar: Seen | None
    stem: str
    batch: BatchRecord
    bytes: int


class _FirstLine(msgspec.Struct, frozen=True):
    url: str


_decode = msgspec.json.Decoder(_FirstLine).decode


class Submitter:
    """Takes one file after the other. ``owner_of`` says whose a user's files are."""

    def __init__(  # noqa: PLR0913 - its parts and its rules
        self,
        database: Database,
        files: Files,
        batches: Batches,
        config: BatchesConfig,
        *,
        settling: Settling,
        shares: Shares,
        owner_of: Callable[[int], str],
    ) -> None:
        self._database = database
        self._files = files
        self._batches = batches
        self._config = config
        self._settling = settling
        self._shares = shares
        self._owner_of = owner_of

    async def submit(
        self, directories: Directories, arrival: Arrival, stop: asyncio.Event
    ) -> Taken:
        """The batch of a file. ``Refused`` if there can be none, ``NotYet`` if not now."""
        if not arrival.seen.is_regular:
            raise refusals.not_a_file()
        async with _opened(directories, arrival.seen) as dropped:
            await self._require_complete(dropped, arrival)
            refusals.check(dropped.seen)
            self._shares.check(dropped.seen)
            options, beside = await asyncio.to_thread(self._options, directories, dropped.seen)
            stem = await self._free_stem(directories, dropped.seen.name)
            file = await self._copy(dropped, stop)
            seen = dropped.seen
        try:
            await self._require_same(directories, seen, beside)
            batch = await self._create(file, options, _Origin(seen, beside, stem))
        except Exception:
            # No batch was made of it, and none will be.
            with contextlib.suppress(NotFound):  # its owner was quicker
                await self._files.delete(file.owner, file.id)
            raise
        return Taken(seen=seen, sidecar=beside, stem=stem, batch=batch, bytes=file.bytes)

    async def _require_complete(self, dropped: Dropped, arrival: Arrival) -> None:
        if dropped.seen != arrival.seen:
            raise NotYet(_monotonic())
        has_writer = await asyncio.to_thread(dropped.has_writer)
        if has_writer:
            raise NotYet
        if has_writer is None and not arrival.certain:
            raise NotYet(self._settling.certain_at(arrival.seen.name, _monotonic()))

    async def _require_same(
        self, directories: Directories, seen: Seen, beside: Seen | None
    ) -> None:
        if await asyncio.to_thread(_beside, directories, seen) != beside:
            raise NotYet

    def _options(self, directories: Directories, seen: Seen) -> tuple[Options, Seen | None]:
        """What is asked for beside the file, and the sidecar in which that is."""
        beside = _beside(directories, seen)
        name = beside.name if beside is not None else ""
        text = sidecar.read(directories.inbox, beside) if beside is not None else b""
        if text is None:
            raise NotYet
        return sidecar.options(name, text, self._config), beside

    async def _free_stem(self, directories: Directories, name: str) -> str:
        taken = await table.stems(self._database)
        stem = name.removesuffix(SUFFIX)
        return await asyncio.to_thread(directories.outbox.free_stem, stem, taken)

    async def _copy(self, dropped: Dropped, stop: asyncio.Event) -> FileRecord:
        """The file's bytes as a file of ours, if they did not change meanwhile."""
        try:
            return await self._copy_whole(dropped, stop)
        except InvalidRequest as error:
            raise refusals.unacceptable(error) from error

    async def _copy_whole(self, dropped: Dropped, stop: asyncio.Event) -> FileRecord:
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
                self._owner_of(dropped.seen.uid),
                upload,
                filename=dropped.seen.name,
                purpose=Purpose.BATCH.value,
                expires_after=None,
            )

    async def _create(self, file: FileRecord, options: Options, origin: "_Origin") -> BatchRecord:
        """The batch and its claim, in one transaction."""

        async def claim(tx: Transaction, batch: BatchRecord) -> None:
            await table.insert(tx, origin.claim(batch.id), origin.sidecar_identity)

        wish = msgspec.structs.replace(
            options.wish,
            input_file_id=file.id,
            endpoint=options.endpoint or await self._endpoint(file),
        )
        return await self._batches.create(file.owner, wish, also=claim)

    async def _endpoint(self, file: FileRecord) -> str:
        """What the first request asks for; ``Refused`` unless it is an endpoint of ours."""
        try:
            _, path = await self._files.find_bytes(file.owner, file.id)
        except NotFound:
            # Its owner has found the copy at the API, and deleted it.
            raise NotYet from None
        line_no, line = await asyncio.to_thread(_first_line, path)
        try:
            url = _decode(line).url
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            url = None
        if url not in self._config.endpoints:
            raise refusals.unknown_endpoint(line_no, self._config.endpoints)
        return url


class _Origin(msgspec.Struct, frozen=True):
    """Where a batch comes from, and what its results are called."""

    seen: Seen
    sidecar: Seen | None
    stem: str

    @property
    def sidecar_identity(self) -> Identity | None:
        return self.sidecar.identity if self.sidecar is not None else None

    def claim(self, batch_id: str) -> InboxClaim:
        device, inode, mtime_ns, size = self.seen.identity
        return InboxClaim(
            device=device,
            inode=inode,
            mtime_ns=mtime_ns,
            size=size,
            uid=self.seen.uid,
            name=self.seen.name,
            stem=self.stem,
            batch_id=batch_id,
        )


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


def _beside(directories: Directories, seen: Seen) -> Seen | None:
    return sidecar.find(directories.inbox, seen.name.removesuffix(SUFFIX), seen.uid)


def _first_line(path: Path) -> tuple[int, bytes]:
    """The first line that is not blank, and its number."""
    with path.open("rb") as file:
        for number, (_, line) in enumerate(lines(file), 1):
            if text := line.removeprefix(BOM).strip():
                return number, text
    return 1, b""


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
