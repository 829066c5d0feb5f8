"""Results to where they were asked for: each file whole or not at all, nobody else's overwritten.

A result file is handed over by a second name for the same bytes (a hard link), by way of a hidden
name beside the target; where no link can be made, by a synced copy. The errors go first and the
answers last, then the state: so where the answers are, all is.

    killed before         leaves                           the next run
    the hidden name       nothing                          hands over
    the target's name     a hidden name                    makes it anew, and removes it
    the state goes        one target or both               finds its own bytes there, and goes on
    all of it is gone     a directory without ``run.json``   clears it away
"""

import contextlib
import filecmp
import os
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from batchd import ids
from batchd.disk import Disk, cannot_link
from batchd.model import BatchRecord
from batchd.oneshot.ordering import write_ordered
from batchd.oneshot.place import Place, RunRefused
from batchd.spool import Spool

_PIECE = 1 << 20


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where one of the two files goes; ``path`` is None for standard output.

    ``mode`` is what a new file may be to whom; ``force``: it may replace another.
    """

    path: Path | None
    mode: int
    force: bool = False

    @property
    def is_stream(self) -> bool:
        """Standard output, a device, a pipe: written to where it stands, never replaced."""
        path = self.path
        return path is None or (path.exists() and not path.is_file() and not path.is_dir())

    @property
    def name(self) -> str:
        return "standard output" if self.path is None else str(self.path)

    def check_place(self) -> None:
        """``RunRefused`` if no file can be made there."""
        path = self.path
        if path is None or self.is_stream:
            return
        parent = path.resolve().parent
        if path.is_dir():
            raise RunRefused(f"{path} is a directory; name a file to write to")
        if not parent.is_dir():
            raise RunRefused(f"{path} cannot be written: there is no directory {parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise RunRefused(f"{path} cannot be written: no permission in {parent}")

    def check_free(self) -> None:
        """``RunRefused`` if it would overwrite what it may not."""
        if self.path is not None and self.path.is_file() and not self.force:
            raise RunRefused(
                f"{self.path} exists already: name another file, or overwrite it with --force"
            )

    def clear(self) -> None:
        """There is nothing for it: let no older file pass for this run's."""
        if self.force and self.path is not None and self.path.is_file():
            self.path.unlink()


class Targets(msgspec.Struct, frozen=True):
    """Where the answers go, and where the failed lines."""

    output: Target
    errors: Target

    def check_free(self) -> None:
        self.output.check_free()
        self.errors.check_free()

    def check_outside(self, state: Path) -> None:
        """``RunRefused`` if one of them is in the state, which goes when all is done."""
        for target in (self.output, self.errors):
            if target.path is not None and target.path.resolve().is_relative_to(state.resolve()):
                raise RunRefused(
                    f"{target.path} is in {state}, where the run keeps its state until it is done: "
                    "name another file"
                )


def deliver(
    place: Place, spool: Spool, record: BatchRecord, targets: Targets, *, in_order: bool
) -> None:
    """Hand over the results of a batch that has ended, the errors first. Blocks."""
    made = place.results
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    for target, file_id, name in (
        (targets.errors, record.error_file_id, "errors"),
        (targets.output, record.output_file_id, "output"),
    ):
        source = made / name
        if file_id is None:
            source.touch()
        elif in_order:
            write_ordered(
                spool.file(file_id), source, ids.batch_tag(record.id), record.counts.total
            )
        else:
            source = spool.file(file_id)
        if file_id is None and target is targets.errors:
            target.clear()
        else:
            hand_over(spool.disk, source, target, record.id)


def hand_over(disk: Disk, source: Path, target: Target, tag: str) -> None:
    """Give ``target`` the bytes of ``source``, unless it has them; ``tag`` is this run's own."""
    try:
        if target.is_stream:
            _pour(source, target.path)
        else:
            _publish(disk, source, target, tag)
    except BrokenPipeError:
        if target.path is None:  # or the interpreter would try once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RunRefused(
            f"nobody reads {target.name} any more; nothing is lost: run the same command again"
        ) from None
    except OSError as error:
        raise RunRefused(
            f"{target.name} cannot be written: {error.strerror}; nothing is lost: run the same "
            "command again when that is mended"
        ) from None


def _pour(source: Path, path: Path | None) -> None:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb"))
        out: BinaryIO = sys.stdout.buffer
        if path is not None:
            out = stack.enter_context(path.open("wb"))
        shutil.copyfileobj(file, out, _PIECE)
        out.flush()


def _publish(disk: Disk, source: Path, target: Target, tag: str) -> None:
    assert target.path is not None  # noqa: S101 - a stream, which is not published
    final = target.path.resolve()
    partial = final.with_name(f".{tag}.part")
    try:
        if not _has_bytes_of(final, source):
            _allow(source, target.mode)
            disk.link_or_copy(source, partial)
            _allow(partial, target.mode)
            _name(partial, final, force=target.force)
    finally:
        partial.unlink(missing_ok=True)
    disk.sync_directory(final.parent)


def _has_bytes_of(final: Path, source: Path) -> bool:
    """Whether this was done before: whose the file is does not matter if it holds the same."""
    if not final.is_file():
        return False
    return final.samefile(source) or filecmp.cmp(final, source, shallow=False)


def _allow(path: Path, mode: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(partial: Path, final: Path, *, force: bool) -> None:
    if force:
        partial.replace(final)
        return
    try:
        final.hardlink_to(partial)
    except FileExistsError:
        raise RunRefused(
            f"{final} appeared meanwhile and was left alone: move it away and run the same command "
            "again, or overwrite it with --force; nothing is sent again"
        ) from None
    except OSError as error:
        if not cannot_link(error) or final.exists():
            raise
        partial.rename(final)
