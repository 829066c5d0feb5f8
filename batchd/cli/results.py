"""Where results go: to standard output, or to a file that appears whole or not at all.

A file that exists is never overwritten unless that was asked for. What is being downloaded has a
hidden name of its own beside the target; the rename (or the link, which refuses an existing name)
is the last step.
"""

import os
import signal
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click

from batchd.cli.client import Client
from batchd.cli.errors import NOT_FOUND, CommandFailed, Refused
from batchd.cli.objects import Batch
from batchd.cli.progress import Display
from batchd.cli.show import printable
from batchd.cli.waiting import patiently

# What ends a command without a word otherwise.
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)

target_type = click.Path(path_type=Path, allow_dash=True, readable=False)


class Target(NamedTuple):
    """A file to write, or standard output (``-``)."""

    path: Path
    force: bool = False
    appends: bool = False

    @property
    def is_stdout(self) -> bool:
        return str(self.path) == "-"

    @property
    def is_device(self) -> bool:
        """``/dev/null``, a pipe: written to where it stands, never replaced."""
        return self.path.exists() and not self.path.is_file() and not self.path.is_dir()

    def check(self) -> None:
        """Say now what would go wrong later."""
        if self.is_stdout or self.is_device:
            return
        parent = self.path.resolve().parent
        if self.path.is_dir():
            raise CommandFailed(f"{self.path} is a directory; name a file to write to")
        if self.path.exists() and not self.force and not self.appends:
            raise CommandFailed(
                f"{self.path} exists already: name another file, or overwrite it with --force"
            )
        if not parent.is_dir():
            raise CommandFailed(f"{self.path} cannot be written: there is no directory {parent}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise CommandFailed(f"{self.path} cannot be written: no permission in {parent}")

    def write(self, pieces: Iterable[bytes]) -> None:
        """All of the pieces; a file of ours has all or none of them, however this ends."""
        try:
            if self.is_stdout:
                _copy(pieces, sys.stdout.buffer)
            elif self.is_device:
                with self.path.open("wb") as out:
                    _copy(pieces, out)
            else:
                with _ended_in_order():
                    (self._append if self.appends else self._write_whole)(pieces)
        except OSError as error:
            if self.is_stdout and isinstance(error, BrokenPipeError):
                raise
            name = "standard output" if self.is_stdout else self.path
            raise CommandFailed(f"{name} cannot be written: {error.strerror}") from None

    @contextmanager
    def growing(self) -> "Generator[BinaryIO | FileIO]":
        """To write to as lines come, where others can see them."""
        if self.is_stdout:
            yield sys.stdout.buffer
            return
        mode = "ab" if self.appends else "wb" if self.force or self.is_device else "xb"
        try:
            out = FileIO(self.path, mode)
        except OSError as error:
            raise CommandFailed(f"{self.path} cannot be written: {error.strerror}") from None
        with out:
            yield out

    @property
    def is_ours(self) -> bool:
        """Whether it is a file in which nothing but results stands."""
        return not self.is_stdout and not self.is_device

    def clear(self) -> None:
        """There is nothing to write: let no older file pass for it."""
        if self.force and not self.appends and self.path.is_file():
            self.path.unlink()

    def remove_empty(self) -> None:
        """Remove a file that ``growing`` made and that nothing was written to."""
        if self.is_ours and not self.appends and self.path.stat().st_size == 0:
            self.path.unlink()

    def _append(self, pieces: Iterable[bytes]) -> None:
        """All of the pieces, or none."""
        with self.path.open("ab", buffering=0) as out:
            before = os.fstat(out.fileno()).st_size
            try:
                for piece in pieces:
                    left = piece
                    while left:
                        left = left[out.write(left) :]
                os.fsync(out.fileno())
            except BaseException:
                os.ftruncate(out.fileno(), before)
                raise

    def _write_whole(self, pieces: Iterable[bytes]) -> None:
        final = self.path.resolve()
        partial = final.with_name(f".batchd-{os.urandom(8).hex()}.part")
        try:
            with partial.open("xb") as out:
                _copy(pieces, out)
                os.fsync(out.fileno())
            if self.force:
                partial.replace(final)
            else:
                _rename_to_new(partial, final)
        finally:
            partial.unlink(missing_ok=True)


def _copy(pieces: Iterable[bytes], out: BinaryIO) -> None:
    out.writelines(pieces)
    out.flush()


def _rename_to_new(partial: Path, final: Path) -> None:
    try:
        final.hardlink_to(partial)
    except FileExistsError:
        raise _appeared(final) from None
    except OSError:  # a file system without links
        if final.exists():
            raise _appeared(final) from None
        partial.rename(final)


def _appeared(final: Path) -> CommandFailed:
    return CommandFailed(
        f"{final} appeared meanwhile and was left alone: fetch the results to another file"
    )


@contextmanager
def _ended_in_order() -> Generator[None]:
    """What ends the process at once otherwise passes through ``finally``, as Ctrl-C does."""
    ending = [number for number in _ENDINGS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def has_twice(targets: Iterable[Target]) -> bool:
    """Whether one would overwrite another. A terminal or a device may be several at once."""
    places = [target.path.resolve() for target in targets if not target.is_device]
    return len(set(places)) < len(places)


class Fetched(NamedTuple):
    """What was written, and what kept the rest from it."""

    written: Sequence[Target] = ()
    fault: CommandFailed | None = None


class Targets(NamedTuple):
    """Where the two files of a batch go; None where one is not wanted."""

    output: Target | None
    errors: Target | None

    @classmethod
    def at(
        cls, output: Path | None, errors: Path | None, *, force: bool, appends: bool = False
    ) -> "Targets":
        return cls(
            Target(output, force, appends) if output else None,
            Target(errors, force, appends) if errors else None,
        )

    @property
    def wanted(self) -> list[Target]:
        return [target for target in (self.output, self.errors) if target]

    def check(self) -> None:
        for target in self.wanted:
            target.check()
        self.check_apart()

    def check_apart(self) -> None:
        """A usage error unless they go to two places."""
        if has_twice(self.wanted):
            raise click.UsageError("the output and the errors cannot go to the same place")

    def fetch(self, client: Client, batches: Sequence[Batch]) -> list[Target]:
        """Download what there is to where it is wanted, and return what was written.

        Results of several batches are joined.
        """
        return list(self._fetching(client, batches, None))

    def fetched(self, client: Client, batches: Sequence[Batch], display: Display) -> Fetched:
        """The same, but a daemon that is away is waited for, and a fault is returned."""
        written: list[Target] = []
        try:
            for target in self._fetching(client, batches, display):
                written.append(target)  # noqa: PERF402 - what is there when it breaks off, too
        except CommandFailed as fault:
            return Fetched(written, fault)
        return Fetched(written)

    def _fetching(
        self, client: Client, batches: Sequence[Batch], display: Display | None
    ) -> Iterator[Target]:
        for file_ids, target in (
            ([batch["output_file_id"] for batch in batches], self.output),
            ([batch["error_file_id"] for batch in batches], self.errors),
        ):
            there = [file_id for file_id in file_ids if file_id]
            if target and there:
                _download(client, there, target, display)
                yield target
            elif target:
                target.clear()

    def told(self, written: Sequence[Target]) -> list[str]:
        """What was written where, in words."""
        names = ((self.output, "answers"), (self.errors, "failed lines"))
        return [
            f"{name}: {printable(str(target.path))}"
            for target, name in names
            if target in written and target and not target.is_stdout
        ]


def _download(
    client: Client, file_ids: Sequence[str], target: Target, display: Display | None
) -> None:
    def download() -> None:
        target.write(piece for file_id in file_ids for piece in _content(client, file_id))

    if display and target.is_ours:  # what others have read already cannot be taken back
        patiently(download, display)
    else:
        download()


def _content(client: Client, file_id: str) -> Iterator[bytes]:
    try:
        yield from client.download(file_id)
    except Refused as error:
        if error.status != NOT_FOUND:
            raise
        raise CommandFailed(f"the results in {file_id} were deleted or have expired") from None
