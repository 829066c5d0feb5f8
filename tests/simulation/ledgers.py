"""A batch's result files for simulations: realistic lines, and what any bytes must be read back as.

``expect`` is a second, slower reading of what a ledger is: a line counts if it is, byte for byte,
one that was written, stands whole in its file, and is the first of its index over both files. It
knows neither checksums nor offsets within a line; it knows the lines.
"""

import itertools
import random
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from batchd.ledger import Bitmap, Recovered, Tally, recover
from batchd.model import (
    NO_USAGE,
    Failure,
    FailureKind,
    LineFile,
    Reply,
    RequestLine,
    Usage,
)
from batchd.wire.lines import (
    CANCELLED,
    EXPIRED,
    INPUT_LOST,
    failure_line,
    never_run_line,
    one_line,
    reply_line,
)
from tests.simulation.disk import SimDisk

OUTPUT, ERROR = LineFile.OUTPUT, LineFile.ERROR

TAG = b"0a1b2c3d"
# Not a multiple of eight: the bitmap has room for indexes that the batch does not have.
TOTAL = 13

FOLDER = Path("/spool/files")
PATHS = {which: FOLDER / f"file-{which}" for which in LineFile}
DAMAGED_PATHS = {which: path.with_name(path.name + ".damaged") for which, path in PATHS.items()}

# By file, or of one file only; None: there is none.
Files = Mapping[LineFile, bytes | None]
Ends = Mapping[LineFile, int]
NO_ENDS: Ends = dict.fromkeys(LineFile, 0)


class Written(msgspec.Struct, frozen=True):
    """A line that the batch wrote."""

    index: int
    usage: Usage = NO_USAGE
    never_run: bool = False


# -- what was written


def _asked(index: int, custom_id: str) -> RequestLine:
    return RequestLine(index, custom_id, "m", b"{}")


def _answer(content: str, usage: str = "") -> bytes:
    text = f'{{"id":"r","choices":[{{"message":{{"content":"{content}"}}}}]{usage}}}'
    return one_line(text.encode())


_LONG = "The quick brown fox jumps over the lazy dog. " * 30
_USAGE = ',"usage":{"prompt_tokens":21,"completion_tokens":5,"total_tokens":26}'
_DETAILS = (
    ',"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,'
    '"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}'
)

_REPLIES = [  # in the order in which they came
    (4, "line-4", 200, _answer("Yes.", _USAGE), Usage(21, 0, 5, 0, 26)),
    (0, "größe ✓ 東京 \u2028", 200, _answer("Grüße\u2028 \\n aus Köln 🦊"), NO_USAGE),
    (11, "b" * 64, 201, _answer(_LONG, _DETAILS), Usage(9, 4, 3, 2, 12)),
    (2, "", 200, b"{}", NO_USAGE),
    (12, 'quo"te\\', 200, _answer("0A1b2c3d batch_req_", _USAGE), Usage(21, 0, 5, 0, 26)),
    (7, "line-7", 200, _answer("No."), NO_USAGE),
]
_REFUSALS = [
    (10, "line-10", 400, b'{"error":{"message":"no such model","type":"invalid_request_error"}}'),
    (1, "ÄÖ", 500, b'{"error":{"message":"\xc3\xa4","type":"server_error"}}'),
]


def _output() -> dict[bytes, Written]:
    lines: dict[bytes, Written] = {}
    for index, custom_id, status, body, usage in _REPLIES:
        reply = Reply(status_code=status, request_id=f"req_{index}", body=body, usage=usage)
        lines[reply_line(TAG, _asked(index, custom_id), reply)] = Written(index, usage)
    return lines


def _errors() -> dict[bytes, Written]:
    lines: dict[bytes, Written] = {}
    for index, custom_id, status, body in _REFUSALS:
        reply = Reply(status_code=status, request_id=f"req_{index}", body=body)
        lines[reply_line(TAG, _asked(index, custom_id), reply)] = Written(index)
    for index, kind in ((8, FailureKind.TIMEOUT), (5, FailureKind.UNREACHABLE)):
        line = failure_line(TAG, _asked(index, f"line-{index}"), Failure(kind))
        lines[line] = Written(index)
    for index, custom_id, error in (
        (3, "line-3", EXPIRED),
        (9, "ß", CANCELLED),
        (6, "line-6", INPUT_LOST),
    ):
        line = never_run_line(TAG, index, custom_id, error)
        lines[line] = Written(index, never_run=error is not INPUT_LOST)
    return lines


def _second_results() -> dict[bytes, Written]:
    """Other results of lines that have one: what two lives, or two files, may both have written."""
    lines: dict[bytes, Written] = {}
    for index in (4, 10, 3):
        reply = Reply(status_code=200, request_id="req_again", body=_answer("Maybe."))
        lines[reply_line(TAG, _asked(index, f"line-{index}"), reply)] = Written(index)
    for index, usage in ((2, ',"usage":null'), (7, ',"usage":{"prompt_tokens":"?"}')):
        reply = Reply(status_code=200, request_id="req_odd", body=_answer("Odd.", usage))
        lines[reply_line(TAG, _asked(index, f"line-{index}"), reply)] = Written(index)
    for index in (0, 8):
        line = failure_line(TAG, _asked(index, f"line-{index}"), Failure(FailureKind.RESET))
        lines[line] = Written(index)
    return lines


LINES: dict[LineFile, list[bytes]] = {OUTPUT: list(_output()), ERROR: list(_errors())}
SECOND_LINES = list(_second_results())
WHOLE: dict[LineFile, bytes] = {which: b"".join(lines) for which, lines in LINES.items()}
WRITTEN: dict[bytes, Written] = _output() | _errors() | _second_results()


ENDS: dict[LineFile, list[int]] = {
    which: list(itertools.accumulate(map(len, lines), initial=0)) for which, lines in LINES.items()
}


def not_ours() -> list[bytes]:
    """Whole lines, each with its checksum, that this batch cannot have written."""
    reply = Reply(status_code=200, request_id="req_x", body=_answer("Other."))
    tags = [b"0a1b2c3e", b"0A1B2C3D", b"ffffffff"]
    others = [reply_line(tag, _asked(1, "line-1"), reply) for tag in tags]
    beyond = [TOTAL, TOTAL + 1, 16, 1 << 31, (1 << 32) - 1]
    others += [reply_line(TAG, _asked(index, "line-0"), reply) for index in beyond]
    rest = b'","custom_id":"line-1","response":null,"error":null}\n'
    indexes = [b"0000000A", b"-0000001", b"+0000001", b"0000_001", b" 0000001", b"0x000001"]
    others += [_with_checksum(index, rest) for index in [*indexes, b"zzzzzzzz", b"\xff" * 8]]
    rests = [rest.replace(b"custom", b"other"), rest[:-1] + b" \n", rest[:-2] + b"]\n", b"\n"]
    return others + [_with_checksum(b"00000001", rest) for rest in rests]


def _with_checksum(index: bytes, rest: bytes) -> bytes:
    """A line with the right checksum that is none of ours all the same."""
    head = b'{"id":"batch_req_' + TAG + index
    return b"%b%08x%b" % (head, zlib.crc32(rest, zlib.crc32(head)), rest)


# -- what is read back


class Start:
    """One start: what the files that ``known`` names were read back as."""

    def __init__(self, total: int = TOTAL) -> None:
        self.done = Bitmap(total)
        self.tally = Tally()
        self.found: dict[LineFile, Recovered] = {}

    def read(self, disk: SimDisk, known: Ends, *, distrust: bool = False) -> "Start":
        for which, known_end in known.items():
            self.found[which] = recover(
                disk,
                PATHS[which],
                which,
                tag=TAG,
                known_end=known_end,
                distrust=distrust,
                done=self.done,
                tally=self.tally,
            )
        return self

    @property
    def indexes(self) -> set[int]:
        return {index for index in range(self.done.size) if index in self.done}

    def has_done(self, indexes: set[int]) -> bool:
        """Whether these are the lines that are done."""
        return self.done.count == len(indexes) and all(index in self.done for index in indexes)

    @property
    def ends(self) -> dict[LineFile, int]:
        return {which: found.end for which, found in self.found.items()}

    @property
    def sums(self) -> tuple[int, int, int, Usage]:
        tally = self.tally
        return tally.completed, tally.failed, tally.never_run, tally.usage


class Expected:
    """What two files must be read back as, whatever is in them."""

    def __init__(self, files: Files, known: Ends) -> None:
        self.indexes: set[int] = set()
        self.found: dict[LineFile, Recovered] = {}
        self.contents: dict[LineFile, bytes | None] = {}
        self.kept_beside: dict[LineFile, bytes | None] = {}
        self.completed = 0
        self.failed = 0
        self.never_run = 0
        self.usage = NO_USAGE
        for which, data in files.items():
            if data is None:
                self._missing(which, known[which])
            else:
                self._read(which, data, known[which])

    @property
    def sums(self) -> tuple[int, int, int, Usage]:
        return self.completed, self.failed, self.never_run, self.usage

    def _missing(self, which: LineFile, known: int) -> None:
        damaged = known > 0
        self.found[which] = Recovered(0, damaged, 0 if damaged else None)
        self.contents[which] = self.kept_beside[which] = None

    def _read(self, which: LineFile, data: bytes, known: int) -> None:
        kept: list[bytes] = []
        good = 0
        unbroken = True
        # What stands behind the last newline is no line.
        for text in data.split(b"\n")[:-1]:
            line = text + b"\n"
            written = WRITTEN.get(line)
            if written is None or written.index in self.indexes:
                unbroken = False
                continue
            self.indexes.add(written.index)
            self._count(which, written)
            kept.append(line)
            if unbroken:
                good += len(line)
        content = b"".join(kept)
        damaged = good < known
        self.found[which] = Recovered(len(content), damaged, good if damaged else None)
        self.contents[which] = content
        self.kept_beside[which] = data if damaged and good < len(data) else None

    def _count(self, which: LineFile, written: Written) -> None:
        if which is OUTPUT:
            self.completed += 1
            self.usage += written.usage
        elif written.never_run:
            self.never_run += 1
        else:
            self.failed += 1


def disk_with(files: Files, chance: random.Random) -> SimDisk:
    disk = SimDisk(chance)
    if not any(files.values()):
        disk.plant(FOLDER / "other", b"")  # for the directory
    for which, data in files.items():
        if data is not None:
            disk.plant(PATHS[which], data)
    return disk
