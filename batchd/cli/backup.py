"""``batchd backup``: a copy of the storage directory, taken beside the daemon."""

import os
import sys
import time
from pathlib import Path

import click

from batchd.cli.options import with_config, with_json
from batchd.cli.show import echo_json, number, printable, size

_REDRAW = 0.2  # seconds
_CLEAR = "\r\x1b[K"


@click.command()
@click.argument("target", metavar="DIR", type=click.Path(path_type=Path))
@with_config
@click.option(
    "--directory",
    "storage",
    type=click.Path(path_type=Path, readable=False),
    metavar="STORAGE",
    help="The storage directory. Default: the one that the configuration names.",
)
@with_json
def backup(target: Path, config_file: Path | None, storage: Path | None, *, as_json: bool) -> None:
    """Copy the storage directory to DIR, while the daemon runs or not.

    DIR must not be there yet. A daemon that is started on it finishes the batches that were
    running. On the same filesystem files are linked, and take no room.
    """
    from batchd import config  # noqa: PLC0415 - imports more than any client command needs
    from batchd.upkeep.backup import TargetRefused, back_up  # noqa: PLC0415 - as above

    if storage is None:
        storage = config.load(config_file, os.environ).storage.directory
    began = time.monotonic()
    try:
        with _Progress() as progress:
            report = back_up(storage, target, progress.tell)
    except TargetRefused as error:
        raise click.UsageError(printable(str(error))) from None
    seconds = round(time.monotonic() - began, 3)
    if report.replaced:
        _say(f"{report.replaced}, left by a backup that was broken off, was removed")
    if report.missing:
        _say(f"{len(report.missing)} files were not there, the first is {report.missing[0]}")
    if as_json:
        echo_json(
            {
                "storage": str(storage),
                "backup": str(target),
                "linked": report.linked,
                "linked_bytes": report.linked_bytes,
                "copied": report.copied,
                "copied_bytes": report.copied_bytes,
                "unfinished_batches": report.unfinished,
                "missing": report.missing,
                "replaced": report.replaced,
                "seconds": seconds,
            }
        )
        return
    click.echo(
        f"backed up {printable(str(storage))} to {printable(str(target))} in {seconds:.1f} s: "
        f"{number(report.linked)} files linked ({size(report.linked_bytes)}), "
        f"{number(report.copied)} copied ({size(report.copied_bytes)}), "
        f"unfinished batches: {number(report.unfinished)}"
    )


def _say(text: str) -> None:
    click.echo(f"batchd: {printable(text)}", err=True)


class _Progress:
    """How many files are done, on one line of a terminal that goes when all are."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._next = time.monotonic() + _REDRAW

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._on:
            click.echo(_CLEAR, nl=False, err=True)

    def tell(self, done: int, of: int) -> None:
        if self._on and time.monotonic() >= self._next:
            self._next = time.monotonic() + _REDRAW
            click.echo(f"{_CLEAR}{number(done)} of {number(of)} files", nl=False, err=True)
