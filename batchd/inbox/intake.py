"""Takes dropped files: each becomes one batch, or is rejected with a reason.

    state  inbox              spool  rows          left by a crash before  then
    I0     original, sidecar  -      -             the end of the copy     taken again; bytes swept
    I1     original, sidecar  file   file          the batch's INSERT      taken again; file expires
    I2     original, sidecar  file   batch, claim  the first status        told within a second
    I3     original, sidecar  file   batch, claim  the sidecar's move      moved, known by the claim
    I4     original           file   batch, claim  the original's move     moved beside its sidecar
    I5     -                  file   batch, claim  the claim's left_at     only noted

The batch and its claim are one transaction: that is the commit (``submitter``). The claim says what
the original and its sidecar are by device, inode, mtime and size, so that neither under a new name
nor as a new file under the old one are they mistaken. A rejection is committed by its report: what
a crash leaves in the inbox is rejected again, beside the same report.

A claim is closed when the original is seen in ``done/``, or a complete listing of the inbox lacks
it: what was only missed, or renamed just then, is known by its claim at the next look.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from batchd import disk
from batchd.errors import FileCorrupt, NoRoom
from batchd.inbox import refusals, sidecar
from batchd.inbox.directories import SUFFIX, Directories, Leaving
from batchd.inbox.listing import Listing
from batchd.inbox.refusals import Refused
from batchd.inbox.settling import Arrival, Identity, Seen, Settling, Told
from batchd.inbox.shares import Shares
from batchd.inbox.statuses import status
from batchd.inbox.submitter import NotYet, Submitter, Taken
from batchd.store import inbox as table
from batchd.store.database import Database

log = logging.getLogger(__name__)

_RETRY = 5.0  # seconds until a file that could not be taken is tried again
_LONGEST_RETRY = 600.0  # … that failed in a way that nobody foresaw, after ever more of them
# What is taken before somebody else's may have come: so many files, and the one that makes it so
# many bytes.
_PER_LOOK = 32
_BYTES_PER_LOOK = 64 << 20


class Intake:
    """One pass after the other over what is in the inbox."""

    def __init__(
        self,
        database: Database,
        submitter: Submitter,
        settling: Settling,
        shares: Shares,
        *,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._submitter = submitter
        self._settling = settling
        self._shares = shares
        self._now = now
        self._complaints: dict[str, str] = {}
        self._delays: dict[Seen, float] = {}
        self._crowded: set[int] = set()
        self._waiting: Sequence[str] = ()
        self._told_waiting: Mapping[int, bytes] | None = None

    async def look(self, directories: Directories, stop: asyncio.Event) -> float:
        """One pass: take, reject or leave alone what is there. Seconds to rest before the next:
        as many as it took to look, taking apart; more if the directory could not be read."""
        began = self._monotonic()
        told = self._settling.take_told()
        try:
            listing = await asyncio.to_thread(directories.listing)
        except OSError as error:
            self._complain(".", _reason(error))
            return _RETRY
        self._note_unlisted(listing)
        await self._let_claimed_go(directories, listing)
        shares = await table.shares(self._database)
        at = self._monotonic()
        # There may be very many: not on the loop.
        now, later = await asyncio.to_thread(self._sort_out, listing.seen, told, shares, at)
        await self._let_wait(directories, later)
        looked = self._monotonic() - began
        size = 0
        for arrival in now[:_PER_LOOK]:
            if stop.is_set() or size >= _BYTES_PER_LOOK:
                break
            await self._take(directories, arrival, stop)
            self._settling.served(arrival.seen.uid)
            size += arrival.seen.size
        return looked

    def _note_unlisted(self, listing: Listing) -> None:
        """Forget what was of files that have gone; say what cannot be looked at, or is too much."""
        there = listing.seen.keys() | listing.unseen.keys()
        self._complaints = {
            name: reason for name, reason in self._complaints.items() if name in there
        }
        self._delays = {
            seen: delay
            for seen, delay in self._delays.items()
            if listing.seen.get(seen.name) == seen
        }
        for name, reason in listing.unseen.items():
            self._complain(name, reason)
        for uid in listing.crowded - self._crowded:
            log.warning("inbox_crowded", extra={"uid": uid})
        self._crowded |= listing.crowded

    def _sort_out(
        self,
        listing: Mapping[str, Seen],
        told: Mapping[str, Told],
        shares: Mapping[int, table.Share],
        at: float,
    ) -> tuple[list[Arrival], list[Arrival]]:
        """What may be taken now, and what has to wait for its user's share."""
        # A sidecar is nothing by itself: it waits for its file.
        files = {name: seen for name, seen in listing.items() if not refusals.is_sidecar_name(name)}
        self._settling.resume(self._waiting)
        arrivals = self._settling.look(files, told, at)
        now, later = self._shares.divide(arrivals, shares)
        for arrival in later:
            self._settling.postpone(arrival.seen.name)
        self._waiting = [arrival.seen.name for arrival in later]
        return now, later

    async def _let_claimed_go(self, directories: Directories, listing: Listing) -> None:
        """Move what is a batch already; note what its owner has moved."""
        claims = await table.open_claims(self._database)
        if not claims:
            return
        sidecars = await table.sidecars(self._database)
        listed = await asyncio.to_thread(_Listed, listing.seen)
        for claim in claims:
            identity = sidecars.get(claim.batch_id)
            original = listed.find(claim.identity, claim.uid)
            # Its owner may call it otherwise by now.
            name = original.name if original and refusals.is_name(original.name) else claim.name
            leaving = Leaving(
                stem=name.removesuffix(SUFFIX),
                original=original,
                sidecar=listed.find(identity, claim.uid) if identity is not None else None,
                sidecar_identity=identity,
            )
            for seen in (leaving.original, leaving.sidecar):
                if seen is not None:
                    listing.seen.pop(seen.name, None)
            may_close = listing.is_complete or leaving.is_whole
            await self._let_go(directories, claim.batch_id, leaving, may_close=may_close)

    async def _let_go(
        self, directories: Directories, batch_id: str, leaving: Leaving, *, may_close: bool = True
    ) -> None:
        """Move to ``done/`` what is there, and forget its identity unless it may still be here."""
        now = int(self._now())
        try:
            if leaving.original is not None or leaving.sidecar is not None:
                may_close &= await asyncio.to_thread(directories.move_to_done, leaving)
            elif may_close:
                # An earlier life may have moved it, and been killed before that was on disk.
                await asyncio.to_thread(directories.sync_moves)
            if may_close:
                await self._database.write(lambda tx: table.left(tx, batch_id, now))
        except (OSError, NoRoom) as error:
            # The claim stays open, and the next look tries again.
            self._complain(leaving.original.name if leaving.original else batch_id, _reason(error))

    async def _let_wait(self, directories: Directories, later: Sequence[Arrival]) -> None:
        """Leave what is beyond its user's share, and tell that user."""
        reports = self._shares.reports(later)
        if reports == self._told_waiting:
            return
        before = self._told_waiting or {}
        try:
            await asyncio.to_thread(directories.outbox.tell_waiting, reports)
        except OSError as error:
            self._complain(later[0].seen.name if later else "", _reason(error))
            return
        self._told_waiting = reports
        for uid in reports.keys() - before.keys():
            files = sum(arrival.seen.uid == uid for arrival in later)
            log.warning("inbox_share_used", extra={"uid": uid, "files": files})

    async def _take(self, directories: Directories, arrival: Arrival, stop: asyncio.Event) -> None:
        """No dropped file may end the daemon: one that nobody foresaw waits, longer each time."""
        seen = arrival.seen
        try:
            await self._take_or_reject(directories, arrival, stop)
        except Exception:
            log.exception(
                "inbox_failed", extra={"file": refusals.shown(seen.name), "uid": seen.uid}
            )
            before = self._delays.get(seen)
            delay = _RETRY if before is None else min(2 * before, _LONGEST_RETRY)
            self._delays[seen] = delay
            self._settling.postpone(seen.name, self._monotonic() + delay)

    async def _take_or_reject(
        self, directories: Directories, arrival: Arrival, stop: asyncio.Event
    ) -> None:
        seen = arrival.seen
        name = seen.name
        try:
            taken = await self._submitter.submit(directories, arrival, stop)
        except Refused as refused:
            await self._reject(directories, seen, refused)
        except NotYet as later:
            self._settling.postpone(name, later.at or self._monotonic() + _RETRY)
        except (OSError, NoRoom, FileCorrupt) as error:
            self._try_later(name, _reason(error))
        else:
            await self._note(directories, taken)

    async def _note(self, directories: Directories, taken: Taken) -> None:
        """Say that a file is a batch, and let it go."""
        facts = {"file": taken.seen.name, "batch": taken.batch.id, "results": taken.stem}
        log.info("inbox_taken", extra={**facts, "uid": taken.seen.uid, "bytes": taken.bytes})
        try:
            await asyncio.to_thread(
                directories.outbox.announce, taken.stem, taken.batch.id, status(taken.batch)
            )
        except OSError as error:
            self._complain(taken.seen.name, _reason(error))
        leaving = Leaving(
            stem=taken.seen.name.removesuffix(SUFFIX),
            original=taken.seen,
            sidecar=taken.sidecar,
            sidecar_identity=taken.sidecar.identity if taken.sidecar else None,
        )
        await self._let_go(directories, taken.batch.id, leaving)

    async def _reject(self, directories: Directories, seen: Seen, refused: Refused) -> None:
        report = refusals.refusal_report(seen.name, refused)
        try:
            is_news = await asyncio.to_thread(_move_to_rejected, directories, seen, report)
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


class _Listed:
    """What a look has found, by what a claim knows of it."""

    def __init__(self, listing: Mapping[str, Seen]) -> None:
        self._exact = {seen.identity: seen for seen in listing.values()}
        self._elsewhere = {(seen.uid, *seen.identity[1:]): seen for seen in listing.values()}

    def find(self, identity: Identity, uid: int) -> Seen | None:
        """The device is the least of it: after a reboot the same disk may have another number."""
        found = self._exact.get(identity)
        return found or self._elsewhere.get((uid, *identity[1:]))


def _move_to_rejected(directories: Directories, seen: Seen, report: bytes) -> bool:
    """A file and its sidecar; a name that is not taken has none."""
    beside = None
    if refusals.is_name(seen.name):
        stem = seen.name.removesuffix(SUFFIX)
        beside = sidecar.find(directories.inbox, stem, seen.uid)
    return directories.reject(seen, refusals.safe_name(seen.name), report, beside)


def _reason(error: OSError | NoRoom | FileCorrupt) -> str:
    if isinstance(error, FileCorrupt):
        # Not what the error says: it names the copy, and each try makes another.
        return "batchd's copy of it is damaged"
    if isinstance(error, OSError) and not disk.is_full(error):
        return error.strerror or type(error).__name__
    return str(NoRoom())
