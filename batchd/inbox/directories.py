"""The inbox and the three directories under it: where each file goes, and under which name.

    NAME.jsonl                       dropped
    done/NAME.jsonl                  taken: it is a batch now
    rejected/NAME.jsonl              not taken, with NAME.error.json beside it
    rejected/NAME.error.json         why not, or why its batch could not start
    outbox/NAME.output.jsonl         results, with NAME.errors.jsonl and, last, NAME.status.json

Everything here blocks. Users may write to the inbox only; the other three are batchd's. A name that
is taken gets a number, the same for all the files that belong together: NAME.2.output.jsonl.
"""

import contextlib
import itertools
import os
import stat
from collections.abc import Generator, Mapping
from pathlib import Path

from batchd.errors import ConfigError
from batchd.inbox.folder import Content, Folder, numbered
from batchd.inbox.settling import Seen

DONE, REJECTED, OUTBOX = "done", "rejected", "outbox"
SUFFIX = ".jsonl"
RESULTS = ("output.jsonl", "errors.jsonl", "status.json")

_MODE = 0o750
_OURS = frozenset({DONE, REJECTED, OUTBOX})


class Directories:
    """Open directories; made by ``opened``."""

    def __init__(
        self, path: Path, inbox: Folder, done: Folder, rejected: Folder, outbox: Folder
    ) -> None:
        self._path = path
        self.inbox = inbox
        self.done = done
        self.rejected = rejected
        self.outbox = outbox

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> "Generator[Directories]":
        """The directories at ``path``, made if missing; ``ConfigError`` if they can't be used."""
        with contextlib.ExitStack() as stack:
            try:
                path.mkdir(mode=_MODE, parents=True, exist_ok=True)
                inbox = Folder.at(path.resolve())
                stack.callback(inbox.close)
                _check_inbox(path, inbox)
                folders = [_inner(path, inbox, name, stack) for name in (DONE, REJECTED, OUTBOX)]
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

    def listing(self) -> dict[str, Seen]:
        """What was dropped: all but what is ours, and what its writer marks as unfinished."""
        names = (
            name
            for name in self.inbox.names()
            if not name.startswith(".") and not name.endswith(".tmp") and name not in _OURS
        )
        looks = [self.inbox.look(name) for name in names]
        return {seen.name: seen for seen in looks if seen is not None}

    def move_to_done(self, seen: Seen) -> None:
        """Move a file that has been taken, if it is still the one that was."""
        stem = seen.name.removesuffix(SUFFIX)
        for candidate in numbered(stem):
            if self._moved(seen, self.done, candidate + SUFFIX):
                return

    def reject(self, seen: Seen, safe_name: str, report: bytes) -> bool:
        """Report a refusal and move the file beside the report; False if that had been done.

        A file that cannot be moved is left where it is, with its report in place.
        """
        ending = SUFFIX if safe_name.endswith(SUFFIX) else ""
        for stem in numbered(safe_name.removesuffix(ending)):
            report_name = f"{stem}.error.json"
            if not self.rejected.is_free(stem + ending):
                continue
            if not self.rejected.may_hold(report_name, report):
                continue
            was_there = self.rejected.look(report_name) is not None
            if not self.rejected.publish(report_name, report):
                continue
            # Others may be working in a directory: it stays.
            moved = not seen.is_directory and self._try_move(seen, stem + ending)
            return moved or not was_there
        raise AssertionError("the numbers do not end")

    def report(self, stem: str, report: bytes) -> None:
        """Say why a batch could not start."""
        for candidate in numbered(stem):
            if self.rejected.publish(f"{candidate}.error.json", report):
                return

    def free_stem(self, stem: str, taken: set[str]) -> str:
        """What the results of a file of this name can be called."""
        return next(
            candidate
            for candidate in numbered(stem)
            if candidate not in taken and self._can_deliver(candidate, {})
        )

    def deliver(self, claimed: str, stem: str, results: Mapping[str, Content]) -> str:
        """Put results (by suffix) into the outbox; the stem they got: ``claimed`` if possible.

        What an interrupted delivery has put there is recognized by its bytes.
        """
        for candidate in itertools.chain([claimed], numbered(stem)):
            if not self._can_deliver(candidate, results):
                continue
            # In this order, so that who sees the status sees all there is.
            for suffix in RESULTS:
                if suffix in results:
                    self.outbox.publish(f"{candidate}.{suffix}", results[suffix])
            return candidate
        raise AssertionError("the numbers do not end")

    def _can_deliver(self, stem: str, results: Mapping[str, Content]) -> bool:
        names = ((f"{stem}.{suffix}", results.get(suffix)) for suffix in RESULTS)
        return all(
            self.outbox.look(name) is None
            if content is None
            else self.outbox.may_hold(name, content)
            for name, content in names
        )

    def _try_move(self, seen: Seen, new_name: str) -> bool:
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
