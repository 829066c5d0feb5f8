"""Result files in the order of the input.

A result line carries the index of its request line in its id. One pass over the file notes where
each line is (12 bytes a request line, in memory), a second one copies them in order. The copy is
derived: a crash leaves a part of it, which is written anew.
"""

import os
from array import array
from pathlib import Path

from batchd.errors import FileCorrupt
from batchd.jsonl import line_groups, pread
from batchd.oneshot.place import RunRefused
from batchd.wire.lines import check_result_lines

_PIECE = 1 << 20


def write_ordered(source: Path, target: Path, tag: bytes, total: int) -> None:
    """Copy the result file ``source`` of a batch of ``total`` lines to ``target``, in order."""
    try:
        _write(source, target, tag, total)
    except OSError as error:
        raise RunRefused(
            f"the results cannot be put in order in {target.parent}: {error.strerror}; nothing is "
            "lost: run the same command again when that is mended"
        ) from None


def _write(source: Path, target: Path, tag: bytes, total: int) -> None:
    offsets, lengths = _spans(source, tag, total)
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with target.open("wb") as out:
            pending = bytearray()
            for index in range(total):
                if lengths[index]:
                    pending += pread(descriptor, lengths[index], offsets[index])
                if len(pending) >= _PIECE:
                    out.write(pending)
                    pending.clear()
            out.write(pending)
            out.flush()
            os.fsync(out.fileno())
    finally:
        os.close(descriptor)


def _spans(source: Path, tag: bytes, total: int) -> "tuple[array[int], array[int]]":
    """Where each request line's result is, and how long; 0 where there is none."""
    offsets, lengths = array("Q", bytes(8 * total)), array("I", bytes(4 * total))
    with source.open("rb") as file:
        for offset, group in line_groups(file):
            at = offset
            for line, index in zip(group, check_result_lines(tag, group), strict=True):
                if index is None or index >= total:
                    raise FileCorrupt(f"a result in {source} is damaged")
                offsets[index], lengths[index] = at, len(line)
                at += len(line)
    return offsets, lengths
