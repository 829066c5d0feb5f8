"""How much each user may have on the way at once, and what waits because it is more. Pure.

On the way is what was taken and is not delivered yet. What is beyond a user's share waits in the
inbox, in the order in which it came, and holds up nobody else's.
"""

from collections.abc import Mapping, Sequence

import msgspec

from batchd.inbox import refusals
from batchd.inbox.settling import Arrival, Seen
from batchd.store.inbox import Share

_NAMED = 20


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """``waiting.uid-N.json``. ``names`` are the first of so many ``files``."""

    uid: int
    files: int
    names: list[str]
    message: str
    what_to_do: str

    def encode(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"


def mark_of_user(uid: int) -> bytes:
    """How a user's report begins."""
    return f'{{"uid":{uid},'.encode()


class Shares:
    """The two bounds, the same for every user; 0 is none."""

    def __init__(self, max_files: int, max_bytes: int) -> None:
        self._max_files = max_files
        self._max_bytes = max_bytes

    def check(self, seen: Seen) -> None:
        """``Refused`` if this file could never be taken."""
        if 0 < self._max_bytes < seen.size:
            raise refusals.over_share(seen.size, self._max_bytes)

    def divide(
        self, arrivals: Sequence[Arrival], taken: Mapping[int, Share]
    ) -> tuple[list[Arrival], list[Arrival]]:
        """What may be taken now, and what has to wait, each in the order given."""
        shares = dict(taken)
        held: set[int] = set()
        now: list[Arrival] = []
        later: list[Arrival] = []
        for arrival in arrivals:
            seen = arrival.seen
            if not self._is_counted(seen):
                now.append(arrival)
                continue
            share = shares.get(seen.uid, Share())
            wanted = Share(share.files + 1, share.bytes + seen.size)
            # Whoever has one file waiting does not have a smaller one pass it.
            if seen.uid in held or self._is_beyond(wanted):
                held.add(seen.uid)
                later.append(arrival)
            else:
                shares[seen.uid] = wanted
                now.append(arrival)
        return now, later

    def reports(self, waiting: Sequence[Arrival]) -> dict[int, bytes]:
        """For each user of whom something waits, what to tell them."""
        names: dict[int, list[str]] = {}
        for arrival in waiting:
            names.setdefault(arrival.seen.uid, []).append(arrival.seen.name)
        return {uid: self._report(uid, found) for uid, found in names.items()}

    def _report(self, uid: int, names: Sequence[str]) -> bytes:
        return Waiting(
            uid=uid,
            files=len(names),
            names=[refusals.shown(name) for name in names[:_NAMED]],
            message=f"Of one user at most {self._bounds()} are on the way at once.",
            what_to_do="Nothing: they are taken as the results of earlier ones are delivered.",
        ).encode()

    def _bounds(self) -> str:
        bounds = ((self._max_files, "files"), (self._max_bytes, "bytes"))
        return " and ".join(f"{most} {what}" for most, what in bounds if most)

    def _is_counted(self, seen: Seen) -> bool:
        """What will be rejected has no share."""
        return seen.is_regular and not 0 < self._max_bytes < seen.size

    def _is_beyond(self, share: Share) -> bool:
        return 0 < self._max_files < share.files or 0 < self._max_bytes < share.bytes
