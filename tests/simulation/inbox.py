"""The inbox as ``batchd.inbox`` has it, on a directory of the simulated disk.

batchd's are the rows and the transactions; the steps between them are here as the head of
``batchd.inbox.intake`` tells them (I0 to I3), without strangers, traps and names in use. What a
name stands for is believed only once its directory is synced: a kill may have left it in the page
cache alone.
"""

import asyncio
import contextlib

from batchd.batches import Batches
from batchd.errors import NoRoom, NotFound
from batchd.files import Files
from batchd.model import LOCAL_OWNER, BatchRecord, FileRecord, InboxClaim, NewBatch, Purpose
from batchd.patience import patient
from batchd.store import Transaction
from batchd.store import inbox as table
from batchd.store.database import Database
from batchd.wire.objects import BatchObject, encode
from tests.simulation.drops import DONE, DROPPED, ERRORS, OUTBOX, OUTPUT, STATUS, Drop
from tests.simulation.world import World

_LOOK_EVERY = 0.2
_EVER = float("inf")

Identity = tuple[int, int, int, int]


class SimInbox:
    """The inbox of one life."""

    def __init__(self, world: World, database: Database, files: Files, batches: Batches) -> None:
        self._world = world
        self._disk = world.disk
        self._database = database
        self._files = files
        self._batches = batches

    async def run(self, stop: asyncio.Event) -> None:
        """Take and deliver until ``stop``. What cannot be done now is tried again."""
        while not stop.is_set():
            with patient("inbox"), contextlib.suppress(OSError):
                await self._take_all()
            with patient("inbox"), contextlib.suppress(OSError):
                await self._deliver_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY):
                    await stop.wait()

    # -- taking

    async def _take_all(self) -> None:
        listing = await self._disk.run(self._listing)
        for claim in await table.open_claims(self._database):
            await self._let_go(claim.batch_id, listing.pop(claim.identity, None))
        for drop in listing.values():
            await self._take(drop)

    def _listing(self) -> dict[Identity, Drop]:
        names = self._disk.names(DROPPED, _EVER)
        drops = (self._world.drops.by_name[name] for name in names)
        return {drop.identity: drop for drop in drops}

    async def _let_go(self, batch_id: str, drop: Drop | None) -> None:
        disk, now = self._disk, int(self._world.faults.now())
        if drop is None:
            # Moved by a life before, or by its owner: for good only when the directory says so.
            await disk.run(disk.sync_directory, DROPPED)
        else:
            await disk.run(disk.rename, drop.path, DONE / drop.name)
        await self._database.write(lambda tx: table.left(tx, batch_id, now))

    async def _take(self, drop: Drop) -> None:
        data = await self._disk.run(self._read, drop)
        async with self._files.receive(len(data)) as upload:
            await upload.write(data)
            file = await self._files.create(
                LOCAL_OWNER,
                upload,
                filename=drop.name,
                purpose=Purpose.BATCH.value,
                expires_after=None,
            )
        batch = await self._create(drop, file)
        await self._let_go(batch.id, drop)

    def _read(self, drop: Drop) -> bytes:
        with self._disk.open_read(drop.path) as file:
            return file.read()

    async def _create(self, drop: Drop, file: FileRecord) -> BatchRecord:
        """The batch and its claim, in one transaction."""

        async def claim(tx: Transaction, batch: BatchRecord) -> None:
            await table.insert(tx, _claim(drop, batch.id))

        plan = drop.plan
        wish = NewBatch(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            window=plan.window,
            metadata={"number": str(plan.number)},
            output_expires_after=plan.keep,
            priority=plan.priority,
            source="inbox",
        )
        try:
            return await self._batches.create(LOCAL_OWNER, wish, also=claim)
        except (OSError, NoRoom):
            await self._files.delete(LOCAL_OWNER, file.id)
            raise

    # -- delivering

    async def _deliver_all(self) -> None:
        for claim in await table.deliverable(self._database):
            await self._deliver(claim)

    async def _deliver(self, claim: InboxClaim) -> None:
        batch = await self._batches.find(claim.batch_id)
        assert batch is not None
        results = {STATUS: encode(BatchObject.of(batch)) + b"\n"}
        for suffix, file_id in ((OUTPUT, batch.output_file_id), (ERRORS, batch.error_file_id)):
            if file_id is not None:
                with contextlib.suppress(NotFound):
                    _, path = await self._files.find_kept_bytes(batch.owner, file_id)
                    results[suffix] = self._world.disk.files[path]
        await self._disk.run(self._publish, claim.stem, results)
        now = int(self._world.faults.now())
        await self._database.write(lambda tx: table.delivered(tx, batch.id, now))

    def _publish(self, stem: str, results: dict[str, bytes]) -> None:
        """Each under a temporary name first, and synced; what is there already stays."""
        disk = self._disk
        for suffix, content in results.items():
            name = OUTBOX / f"{stem}{suffix}"
            if disk.size(name) is not None:
                if disk.files[name] != content:
                    self._world.wrong(f"{name} is something else already")
                disk.sync_directory(OUTBOX)
                continue
            temporary = OUTBOX / f".{stem}{suffix}.tmp"
            disk.remove(temporary)
            descriptor = disk.open_append(temporary)
            try:
                disk.append(descriptor, content)
                disk.sync(descriptor)
            finally:
                disk.close(descriptor)
            disk.rename(temporary, name)


def _claim(drop: Drop, batch_id: str) -> InboxClaim:
    device, inode, mtime_ns, size = drop.identity
    return InboxClaim(
        device=device,
        inode=inode,
        mtime_ns=mtime_ns,
        size=size,
        uid=0,
        name=drop.name,
        stem=drop.stem,
        batch_id=batch_id,
    )
