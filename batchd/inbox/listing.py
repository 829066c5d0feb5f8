"""What a look at the inbox finds, in bounded memory. Blocks.

Of each user only so many names are kept in mind, so that nobody uses up the memory or hides the
files of others; and of all users so many, since one person may be many of them (the subordinate
uids of containers). Those of whom there is more have the same number each.
"""

import msgspec

from batchd.inbox.folder import Folder
from batchd.inbox.settling import Seen

OURS = ("done", "rejected", "outbox")

_MOST_OF_USER = 20_000  # of a name more than 1 KB is remembered
_MOST = 200_000
_NAMED = 20


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What was dropped.

    ``unseen`` are names that could not be looked at (the first of them), and why; ``crowded`` the
    users of whom there is more than is listed; ``is_still`` if no name came or went meanwhile.
    """

    seen: dict[str, Seen]
    unseen: dict[str, str]
    crowded: frozenset[int]
    is_still: bool

    @property
    def is_complete(self) -> bool:
        """Whether what is not listed is not there, under whatever name."""
        return self.is_still and not self.unseen and not self.crowded


class _Kept:
    """The names that are kept in mind, by user."""

    def __init__(self) -> None:
        self._of_user: dict[int, dict[str, Seen]] = {}
        self._most_of_user = _MOST_OF_USER
        self._count = 0
        self.crowded: set[int] = set()

    def add(self, seen: Seen) -> None:
        names = self._of_user.setdefault(seen.uid, {})
        names[seen.name] = seen
        self._count += 1
        self._shorten(seen.uid)
        while self._count > _MOST:
            if self._most_of_user == 1:
                self._drop(seen.uid)
                return
            self._most_of_user //= 2
            for uid in self._of_user:
                self._shorten(uid)

    def all(self) -> dict[str, Seen]:
        return {name: seen for names in self._of_user.values() for name, seen in names.items()}

    def _shorten(self, uid: int) -> None:
        while len(self._of_user[uid]) > self._most_of_user:
            self._drop(uid)

    def _drop(self, uid: int) -> None:
        self._of_user[uid].popitem()
        self._count -= 1
        self.crowded.add(uid)


def listing_of(inbox: Folder) -> Listing:
    """What was dropped: all but what is ours, and what its writer marks as unfinished."""
    before = inbox.status().st_mtime_ns
    kept = _Kept()
    unseen: dict[str, str] = {}
    for name in filter(is_dropped, inbox.names()):
        try:
            seen = inbox.look(name)
        except OSError as error:  # another's mount, or a disk that is away for a moment
            if len(unseen) < _NAMED:
                unseen[name] = error.strerror or type(error).__name__
            continue
        if seen is not None and not inbox.is_placeholder(seen):
            kept.add(seen)
    return Listing(
        seen=kept.all(),
        unseen=unseen,
        crowded=frozenset(kept.crowded),
        is_still=inbox.status().st_mtime_ns == before,
    )


def is_dropped(name: str) -> bool:
    """Whether it is neither ours nor marked as unfinished by its writer."""
    return bool(name) and name[0] != "." and not name.endswith(".tmp") and name not in OURS
