"""The inbox and the three directories under it: where each file goes, and under which name.

    NAME.jsonl                       dropped
    NAME.toml                        its sidecar, if it has one
    done/NAME.jsonl, NAME.toml       taken: they are a batch now
    rejected/NAME.jsonl, NAME.toml   not taken, with NAME.error.json beside them
    rejected/NAME.error.json         why not, or why its batch could not start
    outbox/                          what comes back: see ``outbox``

Everything here blocks. Users may write to the inbox only; the other three are batchd's. A name that
is taken gets a number, the same for all the files that belong together: NAME.2.jsonl, NAME.2.toml.

What a crash leaves of a move is a file that has been moved and one that has not. To ``done/`` the
sidecar goes first: the claim knows both, and the original that stays says that there is more to do.
To ``rejected/`` it goes last, since the original would be taken without it; one that a crash leaves
behind is the sidecar of the next file of its name.
"""

import contextlib
import os
import stat
import threading
from collections.abc import Generator, Mapping
from pathlib import Path

import msgspec

from batchd.errors import ConfigError
from batchd.inbox.folder import Content, Folder
from batchd.inbox.listing import OURS, Listing, listing_of
from batchd.inbox.numbering import numbered, numbered_from_free
from batchd.inbox.outbox import CheckRoom, Outbox
from batchd.inbox.settling import Identity, Seen
from batchd.inbox.sidecar import SIDECAR
from batchd.model import InboxClaim

SUFFIX = ".jsonl"

_MODE = 0o750


class Leaving(msgspec.Struct, frozen=True, kw_only=True):
    """What of a claim is to leave the inbox; None for what has left or never was there.

    ``sidecar_identity`` is that of the sidecar which was read, wherever it is now.
    """

    stem: str
    original: Seen | None
    sidecar: Seen | None = None
    sidecar_identity: Identity | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all that the claim knows was seen: nothing of it can be elsewhere."""
        has_sidecar = self.sidecar is not None or self.sidecar_identity is None
        return self.original is not None and has_sidecar


class Directories:
    """Open directories; made by ``opened``."""

    def __init__(
        self, path: Path, inbox: Folder, done: Folder, rejected: Folder, outbox: Folder
    ) -> None:
        self._path = path
        self.inbox = inbox
        self.done = done
        self.rejected = rejected
        self.outbox = Outbox(outbox)
        # Both loops write reports, and a report is made under a name that is the same for all.
        self._reporting = threading.Lock()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Generator["Directories"]:
        """The directories at ``path``, made if missing; ``ConfigError`` if they can't be used."""
        with contextlib.ExitStack() as stack:
            try:
                path.mkdir(mode=_MODE, parents=True, exist_ok=True)
                inbox = Folder.at(path.resolve())
                stack.callback(inbox.close)
                _check_inbox(path, inbox)
                folders = [_inner(path, inbox, name, stack) for name in OURS]
            except OSError as error:
                raise ConfigError(
                    f"the inbox directory {path} cannot be used: {error.strerror}"
                ) from None
            yield cls(path, inbox, *folders)

    def is_current(self) -> bool:
        """Whether the configured name still is the directory that is open."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        return os.path.samestat(found, self.inbox.status())

    def is_guarded(self) -> bool:
        """Whether only batchd can put something else in the place of the three directories."""
        mode = self.inbox.status().st_mode
        return not mode & stat.S_IWGRP or bool(mode & stat.S_ISVTX)

    def listing(self) -> Listing:
        """What was dropped."""
        return listing_of(self.inbox)

    def move_to_done(self, leaving: Leaving) -> bool:
        """Move a file that has been taken and its sidecar, if they are still those that were.

        False if the file was no longer there: it may have another name by now.
        """

        def may_hold(stem: str) -> bool:
            return self._may_hold_pair(self.done, stem, leaving.sidecar_identity)

        # A sidecar that a life before has moved is to be found, whatever numbers are missing.
        stems = numbered(leaving.stem)
        if leaving.is_whole:
            stems = numbered_from_free(leaving.stem, may_hold)
        for stem in stems:
            if not may_hold(stem):
                continue
            sidecar, original = leaving.sidecar, leaving.original
            if sidecar is not None and not self._moved(sidecar, self.done, stem + SIDECAR):
                continue
            if original is None:
                return True
            if self._moved(original, self.done, stem + SUFFIX):
                found = self.done.look(stem + SUFFIX)
                return found is not None and found.identity == original.identity
        raise AssertionError("the numbers do not end")

    def sync_moves(self) -> None:
        """Have on disk that what was moved to ``done/`` is there, and no longer in the inbox."""
        self.done.sync()
        self.inbox.sync()

    def reject(
        self, seen: Seen, safe_name: str, report: bytes, sidecar: Seen | None = None
    ) -> bool:
        """Report a refusal and move the file beside the report; False if that had been done.

        A file that cannot be moved is left where it is, with its report in place.
        """
        with self._reporting:
            return self._reject(seen, safe_name, report, sidecar)

    def report(self, stem: str, report: bytes) -> None:
        """Say why a batch could not start."""
        with self._reporting:
            for candidate in numbered_from_free(
                stem, lambda name: self.rejected.may_hold(f"{name}.error.json", report)
            ):
                if self.rejected.publish(f"{candidate}.error.json", report):
                    return

    def deliver(
        self,
        claim: InboxClaim,
        results: Mapping[str, Content],
        status: bytes,
        check_room: CheckRoom,
    ) -> str:
        """Put the results of a claim (by suffix) into the outbox; the stem they got."""
        stem = claim.name.removesuffix(SUFFIX)
        return self.outbox.deliver(claim, stem, results, status, check_room=check_room)

    def _reject(self, seen: Seen, safe_name: str, report: bytes, sidecar: Seen | None) -> bool:
        ending = SUFFIX if safe_name.endswith(SUFFIX) else ""

        def may_hold(stem: str) -> bool:
            return self.rejected.is_free(stem + ending) and self._may_hold_pair(self.rejected, stem)

        for stem in numbered_from_free(safe_name.removesuffix(ending), may_hold):
            report_name = f"{stem}.error.json"
            if not may_hold(stem) or not self.rejected.may_hold(report_name, report):
                continue
            was_there = self.rejected.look(report_name) is not None
            if not self.rejected.publish(report_name, report):
                continue
            # Others may be working in a directory: it stays.
            moved = self._try_move(seen, stem + ending)
            if moved and sidecar is not None:
                self._try_move(sidecar, stem + SIDECAR)
            return moved or not was_there
        raise AssertionError("the numbers do not end")

    def _may_hold_pair(self, folder: Folder, stem: str, moved: Identity | None = None) -> bool:
        """Whether both names are free; that of the sidecar may be held by the one ``moved``."""
        if not folder.is_free(stem + SUFFIX):
            return False
        found = folder.look(stem + SIDECAR)
        if found is None or folder.is_placeholder(found):
            return True
        # But for the device, which may have another number after a reboot.
        return moved is not None and found.identity[1:] == moved[1:]

    def _try_move(self, seen: Seen, new_name: str) -> bool:
        if seen.is_directory:
            return False
        try:
            return self._moved(seen, self.rejected, new_name)
        except OSError:
            return False

    def _moved(self, seen: Seen, target: Folder, new_name: str) -> bool:
        """False if ``new_name`` is taken; also True if what was seen has gone."""
        if not self._is_there(seen):
            return True
        try:
            target.adopt(self.inbox, seen.name, new_name)
        except FileExistsError:
            return False
        except FileNotFoundError:
            return True
        moved = target.look(new_name)
        if moved is not None and (moved.device, moved.inode) != (seen.device, seen.inode):
            # Another file got the name in that instant: it has not been looked at yet.
            self._put_back(target, new_name, seen.name)
        return True

    def _is_there(self, seen: Seen) -> bool:
        found = self.inbox.look(seen.name)
        return found is not None and found.identity == seen.identity

    def _put_back(self, source: Folder, name: str, old_name: str) -> None:
        stem = old_name.removesuffix(SUFFIX)
        for candidate in numbered(stem):
            with contextlib.suppress(FileExistsError):
                self.inbox.adopt(source, name, candidate + old_name[len(stem) :])
                return


def _check_inbox(path: Path, inbox: Folder) -> None:
    found = inbox.status()
    ours = os.geteuid() in {0, found.st_uid}
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"the inbox directory {path} cannot be used: Permission denied")
    if found.st_mode & stat.S_ISVTX and not ours:
        # In a sticky directory only its owner may move the files of others.
        raise ConfigError(f"the inbox directory {path} is sticky and not batchd's: chown it")
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise ConfigError(f"the inbox directory {path} is writable by everybody: chmod +t it")


def _inner(path: Path, inbox: Folder, name: str, stack: contextlib.ExitStack) -> Folder:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, _MODE, dir_fd=inbox.descriptor)
        os.fsync(inbox.descriptor)
    try:
        folder = Folder.at(name, inbox)
    except NotADirectoryError:
        # Also what a link is told to be.
        raise ConfigError(f"{path / name} is not a directory: remove it") from None
    stack.callback(folder.close)
    found = folder.status()
    # Who may write to the inbox could have made it first, and would own what goes there.
    if found.st_uid not in {0, os.geteuid()} or found.st_mode & stat.S_IWOTH:
        raise ConfigError(f"{path / name} must be batchd's own, and not writable by everybody")
    return folder
