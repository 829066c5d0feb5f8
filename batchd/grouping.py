"""The order in which the lines of a batch go out, as a file: groups of lines, one after the other.

``batches/<batch_id>/order`` is there only if it says more than "one group, as in the input":

    magic, total, models, groups, bytes of the model table, CRC32 of the lines     8 s, 5 u32
    CRC32 of what stands before it and of both tables                              u32
    the models: a JSON string and a newline each
    the groups: number of the model, signature, start, count, 1 if a rest group    5 u32 each
    for each position the index of its line                                        u32 each

all little-endian. It can be made anew from the input and the index, so what is damaged is not used.
Everything here blocks and is for threads. What a group is stands in ``gathering``.
"""

import contextlib
import errno
import io
import itertools
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from batchd import prefix
from batchd.gathering import Gathered, Gathering, Group, rest
from batchd.jsonl import IndexedLines, pread

Order = Literal["prefix", "input"]

_MAGIC = b"batchd-1"
_HEAD = struct.Struct("<8s5I")
_CHECKSUM = struct.Struct("<I")
_GROUP = struct.Struct("<5I")
_LINE = 4

_READ_SLICE = 128  # lines that are read and decoded between two pauses
_PIECE = 1 << 18
_LOST = frozenset({errno.EIO, errno.ESTALE})
_decode_name = msgspec.json.Decoder(str).decode


# -- making it


def write_order(gathering: Gathering, path: Path, *, even_if_plain: bool = False) -> None:
    """Write the order durably; or remove it if it says nothing, unless that is wanted too."""
    gathered = gathering.gathered(even_if_plain=even_if_plain)
    if gathered is None:
        path.unlink(missing_ok=True)
    else:
        _write(path, gathered)


def rebuild_order(
    input_path: Path,
    index_path: Path,
    order_path: Path,
    *,
    order: Order,
    pause: Callable[[], None] = rest,
) -> None:
    """Make the file anew, whatever it says. What ``pause`` raises ends it.

    A line that is lost goes with the model of the one before it: it is never sent. ``EOFError`` if
    the lines do not tell the models, ``OSError`` if the disk fails.
    """
    lines = IndexedLines(input_path, index_path)
    new = Gathering(order_path.parent, pause)
    with contextlib.closing(lines), contextlib.closing(new):
        requests = _requests(lines, pause)
        model = next((request.body.model for request in requests if request is not None), None)
        if model is None:
            raise EOFError("no request line can be read")
        for request in _requests(lines, pause):
            signature = 0
            if request is not None:
                model = request.body.model
                if order == "prefix":
                    signature = prefix.signature(request.body, request.url)
            new.add(model, signature)
        if new.has_too_many_models:
            raise EOFError("the request lines have too many models")
        write_order(new, order_path, even_if_plain=True)


def _requests(lines: IndexedLines, pause: Callable[[], None]) -> Iterator[prefix.Request | None]:
    """Each line, None for a lost one."""
    for index in range(len(lines)):
        if index % _READ_SLICE == 0:
            pause()
        try:
            yield prefix.decode(lines.read(index))
        except (EOFError, ValueError, RecursionError):
            yield None
        except OSError as error:
            if error.errno not in _LOST:
                raise
            yield None


def _write(path: Path, gathered: Gathered) -> None:
    numbers = {name: at for at, name in enumerate(dict.fromkeys(g.model for g in gathered.groups))}
    names = b"".join(msgspec.json.encode(name) + b"\n" for name in numbers)
    groups = b"".join(
        _GROUP.pack(numbers[g.model], g.signature, g.start, g.count, g.is_rest)
        for g in gathered.groups
    )
    lines = _little_endian(gathered.lines)
    sizes = len(lines), len(numbers), len(gathered.groups), len(names)
    head = _HEAD.pack(_MAGIC, *sizes, zlib.crc32(lines))
    checksum = zlib.crc32(groups, zlib.crc32(names, zlib.crc32(head)))
    with path.open("wb") as file:
        file.write(head + _CHECKSUM.pack(checksum) + names + groups)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


# -- reading it


class LineOrder:
    """The order of one batch. Holds no descriptor: there may be a thousand of these."""

    def __init__(
        self, groups: list[Group], total: int, path: Path | None = None, at: int = 0
    ) -> None:
        self.groups = groups
        self._total = total
        self._path = path
        self._at = at

    @property
    def is_as_in_input(self) -> bool:
        """Whether positions are indexes: one group, as in the input."""
        return self._path is None

    def read(self, position: int, count: int) -> "array[int]":
        """The indexes of the lines at these positions, as far as there are any.

        ``EOFError`` if they have been lost since the order was opened, ``OSError`` if it is gone.
        """
        end = min(position + count, self._total)
        if self._path is None:
            return array("I", range(position, end))
        size = _LINE * max(0, end - position)
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = pread(descriptor, size, self._at + _LINE * position)
        finally:
            os.close(descriptor)
        if len(data) < size:
            raise EOFError(f"the order ends before position {end}")
        return _little_endian(array("I", data))


def open_order(path: Path, *, total: int, model: str | None) -> LineOrder | None:
    """The order of a batch of ``total`` lines; ``model``: the one of all lines, None for several.

    Without a file, and with a model, it is one group, as in the input. None: what there is cannot
    be used, and ``rebuild_order`` makes it anew. ``OSError`` if it cannot be looked at.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if model is None:
            return None
        return LineOrder([Group(model, 0, 0, total, is_rest=True)], total)
    try:
        return _opened(descriptor, path, total)
    except OSError as error:
        if error.errno not in _LOST:
            raise
        return None
    finally:
        os.close(descriptor)


def _opened(descriptor: int, path: Path, total: int) -> LineOrder | None:
    head = pread(descriptor, _HEAD.size + _CHECKSUM.size, 0)
    if len(head) < _HEAD.size + _CHECKSUM.size:
        return None
    magic, lines, models, groups, names_size, lines_checksum = _HEAD.unpack_from(head)
    tables_size = names_size + _GROUP.size * groups
    at = len(head) + tables_size
    # The size first: a damaged head must not be believed how much there is to read.
    if (magic, lines, at + _LINE * lines) != (_MAGIC, total, os.fstat(descriptor).st_size):
        return None
    tables = pread(descriptor, tables_size, len(head))
    (checksum,) = _CHECKSUM.unpack_from(head, _HEAD.size)
    if zlib.crc32(tables, zlib.crc32(head[: _HEAD.size])) != checksum:
        return None
    if _lines_checksum(descriptor, at) != lines_checksum:
        return None
    found = _groups(tables[:names_size], tables[names_size:], models, total)
    return None if found is None else LineOrder(found, total, path, at)


def _lines_checksum(descriptor: int, at: int) -> int:
    checksum = 0
    while data := pread(descriptor, _PIECE, at):
        checksum = zlib.crc32(data, checksum)
        at += len(data)
    return checksum


def _groups(names: bytes, groups: bytes, models: int, total: int) -> list[Group] | None:
    """The groups, if they are runs of all positions, one behind the other."""
    rows: Iterator[tuple[int, int, int, int, int]] = _GROUP.iter_unpack(groups)
    try:
        of: list[str] = [_decode_name(name) for name in io.BytesIO(names)]
        found = [
            Group(of[number], signature, start, count, is_rest=is_rest == 1)
            for number, signature, start, count, is_rest in rows
        ]
    except (ValueError, IndexError):
        return None
    ends = itertools.accumulate((group.count for group in found), initial=0)
    is_whole = [*(group.start for group in found), total] == list(ends)
    return found if is_whole and len(of) == models else None


def _little_endian(words: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        words.byteswap()
    return words
