"""``batchd fsck``: look a storage directory over and say what is damaged. Changes nothing."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchd.cli.errors import DONE, FAILED
from batchd.cli.options import with_config, with_json
from batchd.cli.show import echo_json, lines, number, printable, size
from batchd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchd.findings import Finding, Note
    from batchd.upkeep.steps import Step

_REDRAW = 0.2  # seconds
_CLEAR = "\r\x1b[K"


@click.command()
@with_config
@click.option(
    "--directory",
    "storage",
    type=click.Path(path_type=Path, readable=False),
    metavar="STORAGE",
    help="The storage directory. Default: the one that the configuration names.",
)
@click.option("--quick", is_flag=True, help="Look at rows and sizes only, at no checksum.")
@with_json
def fsck(config_file: Path | None, storage: Path | None, *, quick: bool, as_json: bool) -> int:
    """Say what is damaged in the storage directory.

    The daemon may run meanwhile, or not; nothing is changed. Exits 0 when nothing is damaged, 1
    when something is, 78 when there is nothing to look at or this user may not.
    """
    from batchd import config  # noqa: PLC0415 - imports more than any client command needs
    from batchd.upkeep import fsck as upkeep  # noqa: PLC0415 - as above

    orphan_age: float = config.RetentionConfig().orphan_age
    if storage is None or config_file is not None:
        loaded = config.load(config_file, os.environ)
        storage, orphan_age = storage or loaded.storage.directory, loaded.retention.orphan_age
    told = _InJson(storage, quick=quick) if as_json else _InWords()
    try:
        told.all(upkeep.fsck(storage, quick=quick, orphan_age=orphan_age, now=time.time))
    except ConfigError as error:
        told.end(error)
        raise
    told.end(None)
    return FAILED if told.count else DONE


class _Told:
    """What was looked at, and how much of it was damaged."""

    def __init__(self) -> None:
        self.files = self.lines = self.bytes = self.count = 0

    def all(self, steps: "Iterable[Step]") -> None:
        for step in steps:
            self.files += step.files
            self.lines += step.lines
            self.bytes += step.bytes
            self.count += len(step.findings)
            for finding in step.findings:
                self.finding(finding)
            for note in step.notes:
                self.note(note)
            self.progress()

    def finding(self, finding: "Finding") -> None:
        """Tell what is damaged."""

    def note(self, note: "Note") -> None:
        """Tell what is not."""

    def progress(self) -> None:
        """Tell how far it has come."""

    def end(self, error: ConfigError | None) -> None:
        """Tell what it came to."""


class _InWords(_Told):
    """A line for each finding as it comes; how far it has come, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._notes = 0
        self._on = sys.stderr.isatty()
        self._next = time.monotonic() + _REDRAW

    def finding(self, finding: "Finding") -> None:
        self._clear()
        mark = click.style("damaged", fg="red")
        click.echo(f"{mark}  {printable(finding.sentence)}")

    def note(self, note: "Note") -> None:  # noqa: ARG002 - counted, and told to machines
        self._notes += 1

    def progress(self) -> None:
        if self._on and time.monotonic() >= self._next:
            self._next = time.monotonic() + _REDRAW
            click.echo(f"{_CLEAR}{self._covered()}", nl=False, err=True)

    def end(self, error: ConfigError | None) -> None:
        self._clear()
        if error is not None:
            return
        verdict = f"{number(self.count)} damaged" if self.count else "nothing is damaged"
        more = f" (--json has {number(self._notes)} notes)" if self._notes else ""
        click.echo(f"checked {self._covered()}: {verdict}{more}")

    def _covered(self) -> str:
        files = "1 file" if self.files == 1 else f"{number(self.files)} files"
        return f"{files}, {lines(self.lines)}, {size(self.bytes)}"

    def _clear(self) -> None:
        if self._on:
            click.echo(_CLEAR, nl=False, err=True)


class _InJson(_Told):
    """One object, always with the same keys."""

    def __init__(self, storage: Path, *, quick: bool) -> None:
        super().__init__()
        self._storage = storage
        self._quick = quick
        self._findings: list[dict[str, object]] = []
        self._notes: list[dict[str, object]] = []

    def finding(self, finding: "Finding") -> None:
        self._findings.append(finding.as_json())

    def note(self, note: "Note") -> None:
        self._notes.append({"kind": note.kind.value, "path": note.path, "bytes": note.bytes})

    def end(self, error: ConfigError | None) -> None:
        echo_json(
            {
                "ok": not self.count and error is None,
                "directory": str(self._storage),
                "quick": self._quick,
                "error": None if error is None else str(error),
                "checked": {"files": self.files, "lines": self.lines, "bytes": self.bytes},
                "findings": self._findings,
                "notes": self._notes,
            }
        )
