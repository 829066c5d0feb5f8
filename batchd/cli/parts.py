"""Dividing an input that is more than one batch takes, at the ends of lines.

A part is a span of the file, uploaded from where it stands: nothing is copied. Blank lines between
two parts belong to neither. Memory: one line.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from batchd.cli.errors import CommandFailed
from batchd.cli.multipart import Span, Stamp, open_file
from batchd.cli.objects import Limits
from batchd.cli.show import lines, number, size

_EMBEDDINGS = "/v1/embeddings"
# No request line is shorter, and no embedding input: an input this small need not be counted.
_SHORTEST_LINE = 48
_SHORTEST_INPUT = 3


class Most(NamedTuple):
    """How much one batch takes."""

    lines: float = math.inf
    size: float = math.inf
    inputs: float = math.inf

    @classmethod
    def of(cls, limits: Limits | None, lines: int | None, size: int | None) -> "Most":
        """What the daemon takes, or less where that is asked for."""
        told = (
            cls(limits["max_requests"], limits["max_upload_size"], limits["max_embedding_inputs"])
            if limits
            else cls()
        )
        return cls(
            min(told.lines, lines or math.inf), min(told.size, size or math.inf), told.inputs
        )

    def told(self, endpoint: str) -> str:
        """``50,000 lines, 200.0 MiB``."""
        told = [
            lines(int(self.lines)) if self.lines < math.inf else "",
            size(int(self.size)) if self.size < math.inf else "",
        ]
        if endpoint == _EMBEDDINGS and self.inputs < math.inf:
            told.append(f"{number(int(self.inputs))} inputs")
        return ", ".join(text for text in told if text)


class Part(NamedTuple):
    """What becomes one batch. ``before``: how many lines of the file stand before it."""

    span: Span
    before: int
    lines: int


def split(path: Path, endpoint: str, most: Most) -> list[Part]:
    """The parts that one batch takes each; none if it takes the file as it is."""
    if endpoint != _EMBEDDINGS:
        most = most._replace(inputs=math.inf)
    with open_file(path) as file:
        stamp = Stamp.of(file)
        if (
            stamp.size <= most.size
            and stamp.size // _SHORTEST_LINE <= most.lines
            and stamp.size // _SHORTEST_INPUT <= most.inputs
        ):
            return []
        parts = list(_parts(file, path, most))
    return [] if len(parts) == 1 and stamp.size <= most.size else parts


class _Open:
    """The part that grows."""

    def __init__(self, start: int, before: int) -> None:
        self.start = self.end = start
        self.before = before
        self.lines = self.inputs = 0

    def takes(self, end: int, inputs: int, most: Most) -> bool:
        return (
            self.lines + 1 <= most.lines
            and end - self.start <= most.size
            and self.inputs + inputs <= most.inputs
        )

    def add(self, end: int, inputs: int) -> None:
        self.end = end
        self.lines += 1
        self.inputs += inputs

    def closed(self, stamp: Stamp) -> Part:
        return Part(Span(self.start, self.end, stamp), self.before, self.lines)


def _parts(file: BinaryIO, path: Path, most: Most) -> Iterator[Part]:
    stamp, part, offset = Stamp.of(file), None, 0
    for before, line in enumerate(_lines(file, path, most)):
        start, offset = offset, offset + len(line)
        if not line.strip():
            continue
        inputs = _inputs(line) if most.inputs < math.inf else 0
        # A line that alone is too much is the daemon's to refuse, with its number.
        if part and part.lines and not part.takes(offset, inputs, most):
            yield part.closed(stamp)
            part = None
        part = part or _Open(start, before)
        part.add(offset, inputs)
    if part:
        yield part.closed(stamp)


def _lines(file: BinaryIO, path: Path, most: Most) -> Iterator[bytes]:
    longest = sys.maxsize - 1 if most.size == math.inf else int(most.size)
    for before, line in enumerate(iter(lambda: file.readline(longest + 1), b"")):
        if len(line) > longest:
            raise CommandFailed(
                f"line {before + 1} of {path} is longer than {size(longest)}, the most that fits "
                "into one batch"
            )
        yield line


def _inputs(line: bytes) -> int:
    """Embedding inputs of one request: a list counts its length, a list of tokens counts one."""
    try:
        given: object = json.loads(line)["body"]["input"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 1  # not for us to judge
    if not isinstance(given, list):
        return 1
    items = cast("list[object]", given)
    return 1 if items and not isinstance(items[0], str | list) else len(items)
