"""A file: create, get, list, open, delete. The only module that pairs a row with its bytes.

    state  bytes                     row         left by a crash before   cleaned up by
    F0     -                         -
    F1     incoming/<random>         -           the rename               the sweeper, by age
    F2     files/<id>                -           the INSERT               the sweeper, by age
    F3     files/<id>                live        (acknowledged)
    F4     files/<id>                tombstone   the unlink               the sweeper, by age
    F5     -                         tombstone

An upload walks F0 → F3 (write, fsync, rename, fsync of the directory, INSERT) and is acknowledged
in F3; a delete or an expiry walks F3 → F5 (UPDATE, unlink). Bytes named by a live row are never
modified. The row is the commit in both directions.
"""

import asyncio
import contextlib
import hashlib
import os
from codecs import getincrementaldecoder
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path

import aiofiles
import msgspec

from batchd import ids
from batchd.damage import Damage
from batchd.disk import is_full
from batchd.errors import FileCorrupt, InvalidRequest, NoRoom, TooLarge
from batchd.findings import wrong_size
from batchd.jsonl import BOM, lines
from batchd.model import FileRecord, Purpose
from batchd.room import Room
from batchd.spool import Spool
from batchd.store import files as table
from batchd.store.database import Database
from batchd.wire import params

_INVALID_FORMAT = "Invalid file format for Batch API. Must be .jsonl"
_NOT_UTF8 = "Invalid file for Batch API. Must be utf-8 encoded"
_MAX_FILENAME = 255
_CHECK_ROOM = 4 << 20  # bytes between two looks at the disk
_BATCH_OF_EXPIRED = 100

check_json = msgspec.json.Decoder(msgspec.Raw).decode


class Upload:
    """Bytes on their way into the spool: written to disk as they come, judged at the end."""

    def __init__(
        self,
        path: Path,
        out: "aiofiles.threadpool.binary.AsyncBufferedIOBase",
        check_room: Callable[[], None],
    ) -> None:
        self.path = path
        self.size = 0
        self._out = out
        self._check_room = check_room
        self._checked = 0
        self._sha256 = hashlib.sha256()
        self._decoder = getincrementaldecoder("utf-8")()
        self.is_utf8 = True

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    async def write(self, data: bytes) -> None:
        """Append a piece (best some hundred KiB: each is a hop to a thread)."""
        self.size += len(data)
        await self._out.write(data)
        await asyncio.to_thread(self._look_at, data, final=False)

    async def finish(self) -> None:
        """Make the bytes durable."""
        await self._out.flush()
        await asyncio.to_thread(os.fsync, self._out.fileno())
        await asyncio.to_thread(self._look_at, b"", final=True)

    def _look_at(self, data: bytes, *, final: bool) -> None:
        if self.size - self._checked >= _CHECK_ROOM:
            self._checked = self.size
            self._check_room()
        self._sha256.update(data)
        if self.is_utf8:
            try:
                self._decoder.decode(data, final)
            except UnicodeDecodeError:
                self.is_utf8 = False


class Files:
    """The files of all owners."""

    def __init__(  # noqa: PLR0913 - its parts, its limits, and time and chance from outside
        self,
        database: Database,
        spool: Spool,
        *,
        max_size: int,
        room: Room,
        damage: Damage,
        lifetime: int,
        now: Callable[[], float],
        draw: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._spool = spool
        self._max_size = max_size
        self._room = room
        self._damage = damage
        self._lifetime = lifetime
        self._now = now
        self._draw = draw

    @contextlib.asynccontextmanager
    async def receive(self, expected: int | None = None) -> AsyncGenerator[Upload]:
        """A place for an upload of perhaps ``expected`` bytes; whatever is not created goes."""
        await self._spool.disk.run(self._room.check, expected or 0)
        path = self._spool.incoming(self._draw(16).hex())
        try:
            with _no_room_when_full():
                async with aiofiles.open(path, "xb") as out:
                    yield Upload(path, out, self._room.check)
        finally:
            await self._spool.disk.run(self._spool.disk.remove, path)

    def check_size(self, size: int) -> None:
        """``TooLarge`` if an upload of ``size`` bytes may not come in."""
        if size > self._max_size:
            raise TooLarge(
                f"The file is too large: at most {self._max_size} bytes are accepted.",
                param="file",
            )

    async def create(
        self,
        owner: str,
        upload: Upload,
        *,
        filename: str,
        purpose: str,
        expires_after: int | None,
    ) -> FileRecord:
        """Turn a finished upload into a file; durable when this returns."""
        self.check_size(upload.size)
        await upload.finish()
        kind = _purpose(purpose)
        if kind is Purpose.BATCH:
            await self._check_batch_input(upload)
        now = int(self._now())
        lifetime = self._lifetime if kind is Purpose.BATCH else None
        lifetime = expires_after if expires_after is not None else lifetime
        record = FileRecord(
            id=ids.file_id(self._draw(ids.FILE_ID_BYTES)),
            owner=owner,
            filename=clean_filename(filename),
            purpose=kind,
            bytes=upload.size,
            sha256=upload.sha256,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        await self._spool.disk.run(self._spool.publish, upload.path, record.id)
        await self._database.write(lambda tx: table.insert(tx, record))
        return record

    async def _check_batch_input(self, upload: Upload) -> None:
        if not upload.is_utf8:
            raise InvalidRequest(_NOT_UTF8)
        if not await self._spool.disk.run(_starts_with_json, upload.path):
            raise InvalidRequest(_INVALID_FORMAT)

    async def get(self, owner: str, file_id: str) -> FileRecord:
        """``NotFound`` if unknown, deleted, expired or another's: all the same to a client."""
        record = None
        if ids.is_file_id(file_id):
            record = await table.get(self._database, owner, file_id, int(self._now()))
        if record is None:
            raise params.no_such_file(file_id)
        return record

    async def page(
        self, owner: str, *, purpose: str | None, after: str | None, limit: int, ascending: bool
    ) -> tuple[list[FileRecord], bool]:
        """Up to ``limit`` files behind the cursor ``after``, and whether there are more."""
        seq = None
        if after is not None:
            seq = await table.seq_of(self._database, owner, after)
            if seq is None:
                raise params.unknown_cursor(after)
        found = await table.page(
            self._database,
            owner,
            purpose=purpose,
            after=seq,
            limit=limit + 1,
            ascending=ascending,
            now=int(self._now()),
        )
        return found[:limit], len(found) > limit

    async def find_bytes(self, owner: str, file_id: str) -> tuple[FileRecord, Path]:
        """As ``get``, and where the bytes are; ``FileCorrupt`` if they are not what they were."""
        record = await self.get(owner, file_id)
        path = self._spool.file(file_id)
        wrong = wrong_size(record, await self._spool.disk.run(self._spool.disk.size, path))
        if wrong is not None:
            await self.get(owner, file_id)  # it may have been deleted or have expired in between
            self._damage.tell(wrong)
            raise FileCorrupt(
                f"The bytes of file {file_id} are damaged: it {wrong.what}. Run `batchd fsck` "
                "where batchd runs: it says what is damaged and what can be done."
            )
        return record, path

    async def delete(self, owner: str, file_id: str) -> None:
        """``NotFound`` as in ``get``. A batch that has begun keeps its own hold on the bytes."""
        now = int(self._now())
        if not ids.is_file_id(file_id) or not await self._database.write(
            lambda tx: table.delete(tx, owner, file_id, now)
        ):
            raise params.no_such_file(file_id)
        await self._remove_bytes(file_id)

    async def remove_expired(self) -> int:
        """Remove what has passed its ``expires_at``; how many files that were."""
        removed = 0
        while found := await table.expired(self._database, int(self._now()), _BATCH_OF_EXPIRED):
            for file_id in found:
                await self._bury(file_id)
            removed += len(found)
        return removed

    async def _bury(self, file_id: str) -> None:
        now = int(self._now())
        await self._database.write(lambda tx: table.bury(tx, file_id, now))
        await self._remove_bytes(file_id)

    async def _remove_bytes(self, file_id: str) -> None:
        await self._spool.disk.run(self._spool.discard, file_id)

    async def is_orphan(self, file_id: str) -> bool:
        """Whether no live row names these bytes (a ledger's id is not known here)."""
        return not await table.has_live_row(self._database, file_id)


@contextlib.contextmanager
def _no_room_when_full() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise NoRoom from error
        raise


def clean_filename(name: str) -> str:
    """A client's name for a file as text to show: no path, no control characters, 255 at most."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(letter for letter in base if letter.isprintable())
    return shown[:_MAX_FILENAME] or "upload"


def _purpose(text: str) -> Purpose:
    if text == "evals":
        # In OpenAI's own list below, but strict clients reject a file that has it.
        raise InvalidRequest("Files with purpose 'evals' are of no use here.", param="purpose")
    try:
        purpose = Purpose(text)
    except ValueError:
        purpose = Purpose.BATCH_OUTPUT
    if purpose is Purpose.BATCH_OUTPUT:
        raise InvalidRequest(
            f"'{text}' is not one of ['fine-tune', 'assistants', 'batch', 'user_data', "
            "'vision', 'evals'] - 'purpose'",
            param="purpose",
        )
    return purpose


def _starts_with_json(path: Path) -> bool:
    with path.open("rb") as file:
        for _, line in lines(file):
            text = line.removeprefix(BOM).strip()
            if text:
                try:
                    check_json(text)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    return False
                return True
    return False
