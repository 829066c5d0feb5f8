"""The outbox: what comes back of dropped files, each under the stem of its claim.

    STEM.status.json      from the moment a file is a batch, and replaced as that goes on
    STEM.output.jsonl     at its end, with STEM.errors.jsonl, before the status tells of the end
    waiting.uid-N.json    while files of a user wait for their share

Everything here blocks. Nothing is overwritten but a status of the same batch, known by the id that
it begins with. A stem that is taken gets a number, the same for all the files of one batch.
"""

import itertools
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from batchd.inbox.folder import Content, Folder
from batchd.inbox.numbering import numbered, numbered_from_free
from batchd.inbox.shares import mark_of_user
from batchd.model import InboxClaim

RESULTS = ("output.jsonl", "errors.jsonl")
STATUS = "status.json"

CheckRoom = Callable[[Path, int], None]

_WAITING = re.compile(r"waiting\.uid-([0-9]+)\.json")


class Outbox:
    """One folder's names and what they stand for."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        # Whoever writes a status first makes it under a name that is the same for all.
        self._writing = threading.Lock()

    def free_stem(self, stem: str, taken: set[str]) -> str:
        """What the results of a file of this name can be called."""

        def is_free(candidate: str) -> bool:
            names = (f"{candidate}.{suffix}" for suffix in (*RESULTS, STATUS))
            return candidate not in taken and all(self._folder.look(name) is None for name in names)

        return next(numbered_from_free(stem, is_free))

    def announce(self, stem: str, batch_id: str, status: bytes) -> None:
        """The first word of a batch, unless there is a later one."""
        with self._writing:
            if self._folder.look(f"{stem}.{STATUS}") is None:
                self._put(stem, batch_id, status, durable=True)

    def tell(self, stem: str, batch_id: str, status: bytes) -> bool:
        """How a batch goes on; False if something else has the name."""
        with self._writing:
            return self._put(stem, batch_id, status, durable=False)

    def deliver(
        self,
        claim: InboxClaim,
        stem: str,
        results: Mapping[str, Content],
        status: bytes,
        *,
        check_room: CheckRoom,
    ) -> str:
        """Put results (by suffix) and the last status there; the stem they got: the claim's if
        possible, else ``stem`` with a number.

        What an interrupted delivery has put there is recognized; ``check_room`` raises if there is
        no room for the rest.
        """
        claimed, batch_id = claim.stem, claim.batch_id
        mark = _mark_of_batch(batch_id)
        for candidate in itertools.chain([claimed], numbered(stem)):
            if not self._can_hold(candidate, mark, results):
                continue
            # In this order, so that who sees the end of the batch sees all there is.
            named = {
                f"{candidate}.{suffix}": results[suffix] for suffix in RESULTS if suffix in results
            }
            self._require_room(named, check_room)
            for name, content in named.items():
                self._folder.publish(name, content)
            with self._writing:
                self._put(candidate, batch_id, status, durable=True)
            if candidate != claimed:
                self._folder.remove_marked(f"{claimed}.{STATUS}", mark)
            return candidate
        raise AssertionError("the numbers do not end")

    def tell_waiting(self, reports: Mapping[int, bytes]) -> None:
        """What waits, by uid: of others nothing does. Each report begins with its user's mark."""
        for name in list(self._folder.names()):
            match = _WAITING.fullmatch(name)
            if match is not None and int(match[1]) not in reports:
                self._folder.remove_marked(name, mark_of_user(int(match[1])))
        for uid, report in reports.items():
            name = f"waiting.uid-{uid}.json"
            self._folder.replace(name, report, mark_of_user(uid), durable=False)

    def _require_room(self, named: Mapping[str, Content], check_room: CheckRoom) -> None:
        """For all that is not there yet, before any of it is."""
        sizes = [
            content.stat().st_size if isinstance(content, Path) else len(content)
            for name, content in named.items()
            if self._folder.look(name) is None
        ]
        if sizes:
            check_room(self._folder.path, sum(sizes))

    def _put(self, stem: str, batch_id: str, status: bytes, *, durable: bool) -> bool:
        mark = _mark_of_batch(batch_id)
        return self._folder.replace(f"{stem}.{STATUS}", status, mark, durable=durable)

    def _can_hold(self, stem: str, mark: bytes, results: Mapping[str, Content]) -> bool:
        status = f"{stem}.{STATUS}"
        if self._folder.look(status) is not None and not self._folder.is_marked(status, mark):
            return False
        names = ((f"{stem}.{suffix}", results.get(suffix)) for suffix in RESULTS)
        return all(
            self._folder.look(name) is None
            if content is None
            else self._folder.may_hold(name, content)
            for name, content in names
        )


def _mark_of_batch(batch_id: str) -> bytes:
    """How a batch object begins."""
    return f'{{"id":"{batch_id}",'.encode()
