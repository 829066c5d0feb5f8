"""Finds equal ``custom_id``s among millions in bounded memory.

Each id goes as a 64-bit hash, with the place of its line, into one of some buckets on disk; then
one bucket after the other is looked through. Equal hashes are only a suspicion: both lines are
read again and compared.
"""

import heapq
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

_BUCKETS = 64
_FLUSH = 2048
_MASK = (1 << 64) - 1
_PAIR = 2


class Suspect(msgspec.Struct, frozen=True, order=True):
    """A line (number, index) whose id seems to stand in an earlier line already."""

    line_no: int
    index: int
    earlier_index: int


class Duplicates:
    """Collects ids in the order of their lines; the buckets are files under ``scratch``."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._buckets = [array("Q") for _ in range(_BUCKETS)]
        self._on_disk = False

    def add(self, custom_id: str, index: int, line_no: int) -> None:
        hashed = hash(custom_id) & _MASK
        bucket = self._buckets[hashed % _BUCKETS]
        bucket.append(hashed)
        bucket.append(index << 32 | line_no)
        if len(bucket) >= _FLUSH:
            self._flush(hashed % _BUCKETS)

    def suspects(self, at_most: int) -> list[Suspect]:
        """The first suspects by line number."""
        return heapq.nsmallest(at_most, self._all_suspects())

    def _all_suspects(self) -> Iterator[Suspect]:
        for number in range(_BUCKETS):
            first: dict[int, int] = {}
            bucket = self._load(number)
            for at in range(0, len(bucket), _PAIR):
                hashed, place = bucket[at], bucket[at + 1]
                earlier = first.setdefault(hashed, place >> 32)
                if earlier != place >> 32:
                    yield Suspect(place & 0xFFFFFFFF, place >> 32, earlier)

    def _load(self, number: int) -> "array[int]":
        if not self._on_disk:
            return self._buckets[number]
        self._flush(number)
        loaded = array("Q")
        with self._path(number).open("rb") as file:
            loaded.frombytes(file.read())
        return loaded

    def _flush(self, number: int) -> None:
        self._on_disk = True
        self._scratch.mkdir(exist_ok=True)
        with self._path(number).open("ab") as file:
            self._buckets[number].tofile(file)
        del self._buckets[number][:]

    def _path(self, number: int) -> Path:
        return self._scratch / f"custom-ids-{number:02d}"


def confirmed(
    suspects: list[Suspect], custom_id_of: Callable[[int], str | None]
) -> list[tuple[Suspect, str]]:
    """Those whose ids really are equal, with the id. None: this line's id cannot be told."""
    found: list[tuple[Suspect, str]] = []
    for suspect in suspects:
        custom_id = custom_id_of(suspect.index)
        if custom_id is not None and custom_id == custom_id_of(suspect.earlier_index):
            found.append((suspect, custom_id))
    return found
