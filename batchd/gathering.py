"""Gathers the lines of a batch into groups: by model, then by the beginning of the prompt.

Lines with one model and one level 1 of the signature (``prefix``) are a group: sorted by level 2,
then as in the input. What is in no group (no signature, alone with it, or its group is not among
the ``MAX_GROUPS`` largest) is its model's rest group, as in the input. Groups stand in the order
of their first lines. A model is never told by a hash: it decides where a line may go.

Blocks, and is for threads: it goes over the lines in slices, with a pause between. It takes 8 bytes
a line of unnamed temporary file, and in memory, at the end, 4 bytes a line, or 12 if a level 2 is
to be sorted by.
"""

import heapq
import itertools
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

MAX_GROUPS = 512  # beside the rest groups; each takes 150 bytes while its batch runs

_COUNTED = 1 << 16  # as many as one model has level 1s: with one model, none is ever dropped
_LEVELS = 1 << 16
_MODEL = ~0xFFFF  # of a key
_SLICE = 1024  # lines between two pauses
_PAUSE = 0.0001  # seconds; long enough for the loop's thread to take over
_IN_MEMORY = 1 << 16
_NAMES_SIZE = 1 << 24  # of all models' names: above 100,000 models of ordinary names
_NAME_SIZE = 100  # of one, beside its letters
_LINE = 8  # in the temporary file: the number of its model, then its signature, in one u64


class Group(msgspec.Struct, frozen=True):
    """A run of positions. ``signature``: the level 1 that its lines share, 0 for a rest group."""

    model: str
    signature: int
    start: int
    count: int
    is_rest: bool


class Gathered(msgspec.Struct, frozen=True):
    """The groups, and for each position the index of its line."""

    groups: list[Group]
    lines: "array[int]"


def rest() -> None:
    """The pause between two slices."""
    time.sleep(_PAUSE)


class Gathering:
    """Takes the model and the signature of each line in turn; ``close`` gives up what it holds.

    ``pause`` is called between slices; what it raises ends the gathering. ``has_too_many_models``:
    not all names were kept, so nothing is to be made of it.
    """

    def __init__(self, folder: Path, pause: Callable[[], None] = rest) -> None:
        self._pause = pause
        self._keys = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - closed by ``close``
            _IN_MEMORY, dir=str(folder)
        )
        self._pending = array("Q")
        self._models: dict[str, int] = {}
        self._names_size = 0
        self._seen = Counter[int]()  # how many lines have a key; not all need be known
        self._total = 0

    def add(self, model: str, signature: int) -> None:
        number = self._models.get(model)
        if number is None:
            number = self._new_model(model)
        self._pending.append(number << 32 | signature)
        self._total += 1
        if len(self._pending) == _SLICE:
            self._flush()

    @property
    def has_too_many_models(self) -> bool:
        return self._names_size > _NAMES_SIZE

    def gathered(self, *, even_if_plain: bool = False) -> Gathered | None:
        """What comes of it; None if that is one group, as in the input, unless asked for."""
        self._flush()
        plan = self._planned()
        if plan.is_plain and not even_if_plain:
            return None
        return Gathered(self._groups(plan), self._distributed(plan))

    def close(self) -> None:
        self._keys.close()

    def _new_model(self, model: str) -> int:
        self._names_size += len(model) + _NAME_SIZE
        if self.has_too_many_models:
            return 0
        return self._models.setdefault(model, len(self._models))

    def _flush(self) -> None:
        self._seen.update(line >> 16 for line in self._pending)
        self._keys.write(self._pending.tobytes())
        del self._pending[:]
        if len(self._seen) > _COUNTED:
            self._forget_small()

    def _forget_small(self) -> None:
        """Forget the smallest until there is room: groups may be missed, no line is."""
        least = 0
        while len(self._seen) > _COUNTED // 2:
            least += 1
            kept = {key: count for key, count in self._seen.items() if count > least}
            self._seen = Counter(kept)

    def _planned(self) -> "_Plan":
        several = (key for key, count in self._seen.items() if count > 1 and key & 0xFFFF)
        plan = _Plan(set(heapq.nlargest(MAX_GROUPS, several, key=self._seen.__getitem__)))
        in_order, last = True, 0
        for group, level in self._places(plan):
            if group == len(plan.counts):
                plan.counts.append(0)
            plan.counts[group] += 1
            plan.levels[level] += 1
            in_order = in_order and level >= last
            last = level
        plan.is_plain = in_order and len(plan.counts) <= 1
        return plan

    def _places(self, plan: "_Plan") -> Iterator[tuple[int, int]]:
        """The group of each line, and what to sort it by there. Numbers groups as they appear."""
        numbers, chosen = plan.numbers, plan.chosen
        self._keys.seek(0)
        while keys := self._keys.read(_LINE * _SLICE):
            for line in array("Q", keys):
                key = line >> 16
                if key in chosen:
                    yield numbers.setdefault(key, len(numbers)), line & 0xFFFF
                else:
                    yield numbers.setdefault(key & _MODEL, len(numbers)), 0
            if len(keys) == _LINE * _SLICE:
                self._pause()

    def _groups(self, plan: "_Plan") -> list[Group]:
        names = list(self._models)
        starts = itertools.accumulate(plan.counts, initial=0)
        return [
            Group(names[key >> 16], (key & 0xFFFF) << 16, start, count, is_rest=not key & 0xFFFF)
            for key, start, count in zip(plan.numbers, starts, plan.counts, strict=False)
        ]

    def _distributed(self, plan: "_Plan") -> "array[int]":
        """The lines by group; within one as they come."""
        ends = list(itertools.accumulate(plan.counts, initial=0))
        lines = array("I", [0]) * self._total
        for item in self._by_level_2(plan):
            group = item >> 32
            lines[ends[group]] = item & 0xFFFFFFFF
            ends[group] += 1
        return lines

    def _by_level_2(self, plan: "_Plan") -> Iterator[int]:
        """Each line, with its group in the high half, by level 2 and then as in the input."""
        if plan.levels[0] == self._total:
            for line, (group, _) in enumerate(self._places(plan)):
                yield group << 32 | line
            return
        ends = list(itertools.accumulate(plan.levels, initial=0))
        items = array("Q", [0]) * self._total
        for line, (group, level) in enumerate(self._places(plan)):
            items[ends[level]] = group << 32 | line
            ends[level] += 1
        for start in range(0, self._total, _SLICE):
            yield from items[start : start + _SLICE]
            if start + _SLICE < self._total:
                self._pause()


class _Plan:
    """Which groups there are. A key: number of the model, then 16 bits of level 1, 0 for a rest."""

    def __init__(self, chosen: set[int]) -> None:
        self.chosen = chosen
        self.numbers: dict[
            int, int
        ] = {}  # of the groups, by key, in the order of their first lines
        self.counts: list[int] = []
        self.levels = array("I", [0]) * _LEVELS  # how many lines have a level 2
        self.is_plain = False
