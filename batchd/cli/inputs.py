"""What is to be submitted: files of requests, or standard input, looked at before anything is sent.

Standard input is kept in a temporary file, since its size must be known before it is uploaded.
"""

import json
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import click

from batchd.cli.errors import CommandFailed
from batchd.cli.multipart import open_file

_LONGEST_FIRST_LINE = 64 * 1024**2
_PIECE = 256 * 1024
_SIZE = re.compile(r"([0-9]+) ?([KMG]i?)?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}


def is_stdin(path: Path) -> bool:
    return str(path) == "-"


@contextmanager
def kept_stdin() -> Generator[Path]:
    """Standard input as a file, for as long as it is needed."""
    import tempfile  # noqa: PLC0415 - takes longer to import than most commands run

    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - so it is when it was closed
        raise CommandFailed("standard input is closed: name a file, or send the requests to it")
    if sys.stdin.isatty():
        click.echo("Reading requests from the terminal: one a line, Ctrl-D ends them.", err=True)
    try:
        # Without a buffer: closing it must not fail once more.
        kept = tempfile.NamedTemporaryFile(prefix="batchd-", suffix=".jsonl", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise _not_kept(tempfile.gettempdir(), error) from None
    with kept:
        while piece := _from_stdin():
            try:
                while piece:
                    piece = piece[kept.write(piece) :]
            except OSError as error:
                raise _not_kept(tempfile.gettempdir(), error) from None
        yield Path(kept.name)


def _from_stdin() -> bytes:
    try:
        return sys.stdin.buffer.read(_PIECE)
    except OSError as error:
        raise CommandFailed(f"standard input cannot be read: {error.strerror}") from None


def _not_kept(directory: str, error: OSError) -> CommandFailed:
    return CommandFailed(
        f"standard input cannot be kept in {directory}: {error.strerror}; name a directory with "
        "more room in $TMPDIR"
    )


def endpoint_of(path: Path, endpoint: str | None, name: str = "") -> str:
    """The endpoint that was asked for, else the one that the first line of the input names."""
    name = name or str(path)
    with open_file(path) as file:
        first = next((line for line in _lines(file) if line.strip()), b"")
    if not first:
        raise CommandFailed(f"{name} is empty: a batch needs at least one line")
    if endpoint:
        return endpoint
    try:
        line: object = json.loads(first.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        raise CommandFailed(
            f"the first line of {name} is not JSON: an input has one JSON object on each line"
        ) from None
    if isinstance(line, list):
        raise CommandFailed(
            f"the first line of {name} is a list: an input has one JSON object on each line"
        )
    url = cast("dict[str, object]", line).get("url") if isinstance(line, dict) else None
    if not isinstance(url, str):
        raise CommandFailed(f"the first line of {name} has no url; name the endpoint: --endpoint")
    return url


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(_LONGEST_FIRST_LINE):
        yield line


def parsed_size(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """Bytes: ``50MiB``, ``200 MB`` or a plain number."""
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    count = int(found[1]) * _UNITS[(found[2] or "").upper()] if found else 0
    if not count:
        raise click.BadParameter("write a size as 50MiB, 200MB or a number of bytes")
    return count
