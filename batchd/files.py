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

import contextlib
import errno
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from pathlib import Path

import aiofiles

from batchd import ids
from batchd.damage import Damage
from batchd.disk import is_full
from batchd.errors import FileCorrupt, InvalidRequest, NoRoom, TooLarge
from batchd.findings import DamageKind, Finding, batch_of, wrong_size
from batchd.model import FileRecord, Purpose
from batchd.room import Room
from batchd.spool import Spool
from batchd.store import files as table
from batchd.store.database import Database
from batchd.upload import Upload, clean_filename, starts_with_json
from batchd.wire import params

_INVALID_FORMAT = "Invalid file format for Batch API. Must be .jsonl"
_NOT_UTF8 = "Invalid file for Batch API. Must be utf-8 encoded"
_BATCH_OF_EXPIRED = 100
_ASKED_AT_ONCE = 1000
_LONGEST_KEPT = 30 * 86400  # for an outbox, seconds after the expiry
_PIECE = 1 << 20
# What a disk says of bytes that it cannot give out; trying again is of no use.
_UNREADABLE = frozenset({errno.EIO, errno.ESTALE, errno.EBADMSG, errno.EUCLEAN})


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
        self._patience = 0

    @property
    def room(self) -> Room:
        """The room on the disk that they are on."""
        return self._room

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
        if not await self._spool.disk.run(starts_with_json, upload.path):
            raise InvalidRequest(_INVALID_FORMAT)

    async def get(self, owner: str, file_id: str) -> FileRecord:
        """``NotFound`` if unknown, deleted, expired or another's: all the same to a client."""
        return await self._get(owner, file_id, int(self._now()))

    async def _get(self, owner: str, file_id: str, now: int) -> FileRecord:
        record = None
        if ids.is_file_id(file_id):
            record = await table.get(self._database, owner, file_id, now)
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
        return await self._find_bytes(owner, file_id, self._now)

    async def find_kept_bytes(self, owner: str, file_id: str) -> tuple[FileRecord, Path]:
        """As ``find_bytes``, though the file may have expired: until it is removed."""
        return await self._find_bytes(owner, file_id, lambda: 0)

    async def _find_bytes(
        self, owner: str, file_id: str, now: Callable[[], float]
    ) -> tuple[FileRecord, Path]:
        record = await self._get(owner, file_id, int(now()))
        path = self._spool.file(file_id)
        wrong = wrong_size(record, await self._spool.disk.run(self._spool.disk.size, path))
        if wrong is not None:
            await self._get(owner, file_id, int(now()))  # it may have gone in between
            raise self._corrupt(wrong)
        return record, path

    async def check_readable(self, owner: str, file_id: str) -> None:
        """As ``get``, and read the bytes to their end; ``FileCorrupt`` if the disk can't."""
        record = await self.get(owner, file_id)
        try:
            await self._spool.disk.run(self._read_through, self._spool.file(file_id))
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            finding = Finding(
                kind=DamageKind.UNREADABLE,
                path=f"files/{file_id}",
                file=file_id,
                batch=batch_of(record),
                reason=error.strerror,
            )
            raise self._corrupt(finding) from error

    def _read_through(self, path: Path) -> None:
        with self._spool.disk.open_read(path) as file:
            while file.read(_PIECE):
                pass

    def _corrupt(self, finding: Finding) -> FileCorrupt:
        """Say what is damaged; the error for who asked for it."""
        self._damage.tell(finding)
        return FileCorrupt(
            f"The bytes of file {finding.file} are damaged: it {finding.what}. Run `batchd fsck` "
            "where batchd runs: it says what is damaged and what can be done."
        )

    async def delete(self, owner: str, file_id: str) -> None:
        """``NotFound`` as in ``get``. A batch that has begun keeps its own hold on the bytes."""
        now = int(self._now())
        if not ids.is_file_id(file_id) or not await self._database.write(
            lambda tx: table.delete(tx, owner, file_id, now)
        ):
            raise params.no_such_file(file_id)
        await self._remove_bytes(file_id)

    def keep_undelivered(self) -> None:
        """There is an outbox: what is to go there may stay when it has expired, if not for ever."""
        self._patience = _LONGEST_KEPT

    async def has_expired(self) -> bool:
        """Whether there is anything for ``remove_expired`` to remove."""
        return bool(await self._expired(1))

    async def remove_expired(self) -> int:
        """Remove what has passed its ``expires_at``; how many files that were.

        Results that are still to be delivered to an outbox stay until they are, for a while.
        """
        removed = 0
        while found := await self._expired(_BATCH_OF_EXPIRED):
            for file_id in found:
                await self._bury(file_id)
            removed += len(found)
        return removed

    async def _expired(self, limit: int) -> list[str]:
        now = int(self._now())
        return await table.expired(self._database, now, limit, patience=self._patience)

    async def _bury(self, file_id: str) -> None:
        now = int(self._now())
        await self._database.write(lambda tx: table.bury(tx, file_id, now))
        await self._remove_bytes(file_id)

    async def _remove_bytes(self, file_id: str) -> None:
        await self._spool.disk.run(self._spool.discard, file_id)

    async def orphans(self, names: Sequence[str]) -> AsyncGenerator[str]:
        """Those of these names of bytes that neither a live row nor an unfinished batch has."""
        for begin in range(0, len(names), _ASKED_AT_ONCE):
            some = names[begin : begin + _ASKED_AT_ONCE]
            asked = [name for name in some if ids.is_file_id(name)]
            owned = await table.owned(self._database, asked)
            for name in some:
                if name not in owned:
                    yield name


@contextlib.contextmanager
def _no_room_when_full() -> Generator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise NoRoom from error
        raise


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
