"""The format of a ledger under exhaustion: every cut, every damaged byte, and many worse things.

Each state is a pair of files as a crash, a disk or a stranger may have left them. The shipped
``recover`` reads it back on a simulated disk, and must find exactly the lines that stand there
whole: none that is damaged, none twice, none left out. Then it is read back once more, as a next
start would, and must find the same.
"""

import functools
import gc
import itertools
import math
import multiprocessing
import os
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import msgspec
import pytest

from batchd.jsonl import line_groups
from batchd.model import LineFile
from tests.simulation.disk import SECTOR, SimDisk
from tests.simulation.ledgers import (
    DAMAGED_PATHS,
    ENDS,
    ERROR,
    FOLDER,
    LINES,
    OUTPUT,
    PATHS,
    SECOND_LINES,
    TAG,
    WHOLE,
    Ends,
    Expected,
    Files,
    Start,
    disk_with,
    not_ours,
)

STATES_AT_LEAST = 30_000
MIXTURES = 3500
SHOWN = 5

HEAD = WHOLE[OUTPUT][: len(b'{"id":"batch_req_')]
FIRST = LINES[OUTPUT][0]
# What may stand where a line should begin, and looks like one.
GARBAGE = [
    b"\n",
    b"\n\n",
    b"}\n",
    b"{}\n",
    b"null\n",
    HEAD,
    HEAD + TAG,
    HEAD + TAG + b"00000001",
    HEAD + TAG + b"0000000100000000",
    HEAD + TAG + b"0000000100000000" + b'","custom_id":',
    HEAD + TAG + b"0000000100000000" + b'","custom_id":"x","response":null,"error":null}\n',
    FIRST[:-1],
    FIRST[:-2] + b"\n",
    FIRST[:-1] + b"\r\n",
    FIRST[:-1] + b" \n",
    b" " + FIRST,
    b"\xef\xbb\xbf" + FIRST,
    FIRST[:-1] + FIRST,
    FIRST.upper(),
    bytes(SECTOR),
    bytes(4096 - 1) + b"\n",
    b"\xff" * 100,
]
ANOTHER_BATCH = {which: data.replace(TAG, b"0a1b2c3e") for which, data in WHOLE.items()}


class State(msgspec.Struct, frozen=True):
    """``label`` says how to make it; ``known`` is what the batch's row says of the ends."""

    label: str
    files: Files
    known: Ends
    distrust: bool = False

    @property
    def where(self) -> str:
        known = ", ".join(map(str, self.known.values()))
        return f"{self.label}, known to {known}{', distrusted' if self.distrust else ''}"


def one_file(label: str, which: LineFile, data: bytes, known: int) -> State:
    return State(f"{label} in the {which} file", {which: data}, {which: known})


# -- one file


def cuts(chance: random.Random) -> Iterator[State]:
    """Every prefix, with ends known to be good below and above the cut."""
    for which, whole in WHOLE.items():
        for cut in range(len(whole) + 1):
            for known in (0, chance.choice(ENDS[which]) if cut % 2 else chance.randrange(cut + 9)):
                yield one_file(f"cut at {cut}", which, whole[:cut], known)


def changed_bytes(chance: random.Random) -> Iterator[State]:
    """Every byte as each of several others: in the other case, a near number, another or none."""
    for which, whole in WHOLE.items():
        for at, byte in enumerate(whole):
            other = (0x0A, 0x00, 0xFF, chance.randrange(0x80, 0xC0))[at % 4]
            values = (byte ^ 0x20, byte ^ 0x01, other if other != byte else 0x7F)
            knowns = (0, len(whole), at, at + 1, chance.randrange(len(whole)))
            for number, value in enumerate(values):
                known = knowns[(at + 2 * number) % 5]
                data = b"%b%c%b" % (whole[:at], value, whole[at + 1 :])
                yield one_file(f"byte {at} as {value:#04x}", which, data, known)


def lost_and_inserted_bytes(chance: random.Random) -> Iterator[State]:
    for which, whole in WHOLE.items():
        for at in range(0, len(whole), 4):
            known = chance.choice([0, len(whole)])
            yield one_file(f"byte {at} gone", which, whole[:at] + whole[at + 1 :], known)
            data = whole[:at] + whole[at : at + 1] + whole[at:]
            yield one_file(f"byte {at} twice", which, data, known)


def tails(chance: random.Random) -> Iterator[State]:
    """Garbage behind every whole line, alone and with a good line behind it; and behind any cut."""
    for which, whole in WHOLE.items():
        for (number, end), tail in itertools.product(enumerate(ENDS[which]), GARBAGE):
            again = LINES[which][number] if number < len(LINES[which]) else SECOND_LINES[0]
            for more in (b"", b"\n", again, b"\n" + again):
                known = chance.choice([0, end, len(whole)])
                yield one_file(
                    f"{end} B, {tail!r}, {more!r}", which, whole[:end] + tail + more, known
                )
        for cut in range(len(whole)):
            tail = chance.choice(GARBAGE)
            known = chance.choice(ENDS[which])
            yield one_file(f"{cut} B, {tail!r}", which, whole[:cut] + tail, known)


def sectors(chance: random.Random) -> Iterator[State]:
    """Every single sector, in every way in which it can be wrong."""
    for which, whole in WHOLE.items():
        for start, (name, sector) in itertools.product(range(0, len(whole), SECTOR), SECTOR_FAULTS):
            for known in (0, start, len(whole), chance.randint(0, len(whole))):
                data = bytearray(whole)
                sector(data, start, which, chance)
                yield one_file(f"sector at {start} {name}", which, bytes(data), known)


# -- faults of a sector


def zeroed(data: bytearray, start: int, _which: LineFile, _chance: random.Random) -> None:
    data[start : start + SECTOR] = bytes(len(data[start : start + SECTOR]))


def dropped(data: bytearray, start: int, _which: LineFile, _chance: random.Random) -> None:
    del data[start : start + SECTOR]


def of_another_batch(data: bytearray, start: int, which: LineFile, _chance: random.Random) -> None:
    data[start : start + SECTOR] = ANOTHER_BATCH[which][start : start + SECTOR]


def of_the_other_file(data: bytearray, start: int, which: LineFile, _chance: random.Random) -> None:
    other = WHOLE[ERROR if which is OUTPUT else OUTPUT]
    data[start : start + SECTOR] = other[start : start + SECTOR]


def of_an_older_file(data: bytearray, start: int, which: LineFile, chance: random.Random) -> None:
    """The same lines once stood elsewhere: whole ones may be in it."""
    old = WHOLE[which]
    at = chance.randrange(len(old))
    data[start : start + SECTOR] = old[at : at + SECTOR]


def inserted(data: bytearray, start: int, which: LineFile, chance: random.Random) -> None:
    old = WHOLE[which]
    at = chance.randrange(len(old))
    data[start:start] = old[at : at + SECTOR]


SectorFault = Callable[[bytearray, int, LineFile, random.Random], None]
SECTOR_FAULTS: list[tuple[str, SectorFault]] = [
    (fault.__name__, fault)
    for fault in (
        zeroed,
        dropped,
        of_another_batch,
        of_the_other_file,
        of_an_older_file,
        inserted,
    )
]


# -- two files


def lines_put_in(chance: random.Random) -> Iterator[State]:
    """At every place: a line that stands elsewhere too, or one that cannot be this batch's."""
    extras = [*LINES[OUTPUT], *LINES[ERROR], *SECOND_LINES, *not_ours()]
    for which in LineFile:
        for end, (number, extra) in itertools.product(ENDS[which], enumerate(extras)):
            data = WHOLE[which]
            files: Files = {**WHOLE, which: data[:end] + extra + data[end:]}
            known = {each: chance.choice([0, len(WHOLE[each])]) for each in LineFile}
            yield State(f"extra {number} at {end} of the {which} file", files, known)


def missing(_chance: random.Random) -> Iterator[State]:
    sides: list[bytes | None] = [None, b""]
    for output, error in itertools.product([*sides, WHOLE[OUTPUT]], [*sides, WHOLE[ERROR]]):
        for known, distrust in itertools.product((0, 1, 10_000), (False, True)):
            yield State(
                f"{output is None, output, error is None, error}",
                {OUTPUT: output, ERROR: error},
                dict.fromkeys(LineFile, known),
                distrust,
            )


def mixtures(chance: random.Random) -> Iterator[State]:
    """Both files at once: lines in any order, from anywhere, then up to four faults."""
    for number in range(MIXTURES):
        known: dict[LineFile, int] = {}
        files: dict[LineFile, bytes | None] = {}
        for which in LineFile:
            data = _any_lines(which, chance)
            for _ in range(chance.randrange(5)):
                _any_fault(data, which, chance)
            files[which] = None if chance.random() < 0.02 else bytes(data)
            known[which] = chance.choice([0, len(data), chance.randint(0, len(data))])
        yield State(f"mixture {number}", files, known, chance.random() < 0.2)


def _any_lines(which: LineFile, chance: random.Random) -> bytearray:
    if chance.random() < 0.5:
        return bytearray(WHOLE[which])
    pool = LINES[which] * 3 + SECOND_LINES + not_ours() + GARBAGE
    return bytearray(b"".join(chance.choices(pool, k=chance.randrange(12))))


def _any_fault(data: bytearray, which: LineFile, chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    kind = chance.randrange(6)
    if kind == 0:
        del data[at:]
    elif kind == 1:
        data[at : at + 1] = bytes([chance.randrange(256)])
    elif kind == 2:
        data += chance.choice(GARBAGE)
    elif kind == 3:
        del data[at : at + chance.randrange(300)]
    else:
        fault = chance.choice(SECTOR_FAULTS)[1]
        # Any subset of sectors.
        for start in range(0, len(data), SECTOR):
            if chance.random() < 0.3:
                fault(data, start, which, chance)


# -- what must hold


def fault_of(state: State, chance: random.Random) -> str | None:
    """What recovery did wrong, if it did."""
    disk = disk_with(state.files, chance)
    expected = Expected(state.files, state.known)
    first = Start().read(disk, state.known, distrust=state.distrust)
    fault = difference(disk, first, expected)
    if fault is not None:
        return f"first start: {fault}"
    # The row may still say what it said: that must not cost the damaged file that was kept.
    known = state.known if chance.random() < 0.5 else first.ends
    again = Expected(expected.contents, known)
    again.kept_beside = expected.kept_beside
    fault = difference(disk, Start().read(disk, known), again)
    return None if fault is None else f"next start with {known}: {fault}"


def difference(disk: SimDisk, start: Start, expected: Expected) -> str | None:
    if start.found != expected.found:
        return f"found {start.found} and not {expected.found}"
    if not start.has_done(expected.indexes):
        return f"done are {start.indexes} and not {expected.indexes}"
    if start.sums != expected.sums:
        return f"the sums are {start.sums} and not {expected.sums}"
    return difference_on_disk(disk, expected)


def difference_on_disk(disk: SimDisk, expected: Expected) -> str | None:
    contents = {
        paths[which]: data
        for paths, found in ((PATHS, expected.contents), (DAMAGED_PATHS, expected.kept_beside))
        for which, data in found.items()
        if data is not None
    }
    for path, data in contents.items():
        for bytes_of in (disk.files, disk.durable):
            if bytes_of.get(path) != data:
                return f"{path.name} holds {bytes_of.get(path)!r} and not {data!r}"
    names = set(disk.names(FOLDER, math.inf)) - {"other"}
    if names != {path.name for path in contents}:
        return f"there are {names} and not {sorted(contents)}"
    return f"{disk.open_descriptors} descriptors are open" if disk.open_descriptors else None


FAMILIES: list[Callable[[random.Random], Iterator[State]]] = [
    cuts,
    changed_bytes,
    lost_and_inserted_bytes,
    tails,
    sectors,
    lines_put_in,
    missing,
    mixtures,
]


class Tried:
    """Tries states, counts them by family, and keeps what was wrong."""

    def __init__(self, seed: int, part: str = "") -> None:
        self.seed = seed
        self.chance = random.Random(f"{seed} {part}")  # noqa: S311 - which states
        self.counts: dict[str, int] = {}
        self.faults: list[str] = []

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def family(self, name: str, states: Iterable[State]) -> None:
        for state in states:
            self.counts[name] = number = self.counts.get(name, 0) + 1
            try:
                fault = fault_of(state, self.chance)
            except Exception as error:  # noqa: BLE001 - whatever it is, a start must not end in it
                fault = repr(error)
            if fault is not None:
                self.faults.append(f"{name} {number}: {state.where}: {fault}")

    def check(self) -> None:
        assert not self.faults, f"FORMAT_SEED={self.seed}\n" + "\n".join(self.faults[:SHOWN])


def drawn_seed() -> int:
    seed = int(os.environ.get("FORMAT_SEED") or secrets.randbelow(1 << 32))
    print(f"FORMAT_SEED={seed}")  # noqa: T201 - to see the same states again
    return seed


def tried_family(number: int, seed: int) -> Tried:
    """All states of one family, in a process of its own or not."""
    family = FAMILIES[number]
    tried = Tried(seed, family.__name__)
    gc.disable()
    try:
        tried.family(family.__name__, family(tried.chance))
    finally:
        gc.enable()
    return tried


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_whatever_stands_in_a_ledger_exactly_its_whole_lines_are_read_back() -> None:
    tried = Tried(drawn_seed())
    began = time.perf_counter()
    largest_first = sorted(range(len(FAMILIES)), key=lambda at: FAMILIES[at] is not changed_bytes)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(tried_family, largest_first, itertools.repeat(tried.seed)):
            tried.counts |= part.counts
            tried.faults += part.faults
    print(  # noqa: T201 - to read
        f"format: {tried.total:,} cut states in {time.perf_counter() - began:.1f} s, "
        f"{len(tried.faults)} violations "
        f"({', '.join(f'{name} {count:,}' for name, count in tried.counts.items())})"
    )
    tried.check()
    assert tried.total >= STATES_AT_LEAST


@pytest.mark.parametrize("piece", [1, 100, SECTOR, 2000])
def test_it_is_the_same_in_pieces_of_any_size(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real ledger is longer than what is read and copied of it at once."""
    in_pieces = functools.partial(line_groups, piece=piece)
    monkeypatch.setattr("batchd.ledger.line_groups", in_pieces)
    monkeypatch.setattr("batchd.ledger._COPY_GROUP", piece)
    tried = Tried(drawn_seed())
    tried.family("mixtures", itertools.islice(mixtures(tried.chance), 200))
    tried.family("sectors", sectors(tried.chance))
    tried.check()
