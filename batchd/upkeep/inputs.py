"""What an unfinished batch holds: its input, as it was uploaded, and the index of its requests.

The index can be told from the input, so the two are read together and each entry is held against
the line that it should be. What counts as a request line is the validator's rule: a line that is
more than white space, without a byte order mark and without its line end.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterator

from batchd.findings import DamageKind, Finding
from batchd.jsonl import BOM, ENTRY_SIZE, entries
from batchd.model import BatchRecord, FileRecord
from batchd.spool import Spool
from batchd.upkeep.steps import Step, Stepwise, opened, pieces

Span = tuple[int, int]


class Spans:
    """Where the request lines of an input are: offset and length. Fed piece by piece."""

    def __init__(self) -> None:
        self._offset = 0
        self._size = 0  # of the line as far as it has come
        self._line_end = 0  # how many bytes of that may be its line end
        self._blank = True

    def feed(self, data: bytes) -> list[Span]:
        """The lines that end in ``data``."""
        if self._offset == 0 and self._size == 0 and data.startswith(BOM):
            self._offset, data = len(BOM), data[len(BOM) :]
        found: list[Span] = []
        for part in io.BytesIO(data).readlines():
            self._add(part)
            if part.endswith(b"\n"):
                found += self.end()
        return found

    def end(self) -> list[Span]:
        """The line that has come so far, if it is one, is over."""
        span = (self._offset, self._size - self._line_end)
        is_line = not self._blank
        self._offset += self._size
        self._size, self._line_end, self._blank = 0, 0, True
        return [span] if is_line else []

    def _add(self, part: bytes) -> None:
        text = part.rstrip(b"\r\n")
        self._line_end = len(part) - len(text) + (0 if text else self._line_end)
        self._size += len(part)
        self._blank = self._blank and part.isspace()


def sizes(spool: Spool, record: BatchRecord, upload: FileRecord | None) -> list[Finding]:
    """What the sizes say: of the input as uploaded, and of an index with an entry a request."""
    findings: list[Finding] = []
    held, index = (spool.disk.size(path(record.id)) for path in (spool.input, spool.index))
    if held is None:
        findings.append(_finding(DamageKind.INPUT_MISSING, record))
    elif upload is not None and held != upload.bytes:
        findings.append(_finding(DamageKind.INPUT_SIZE, record, expected=upload.bytes, found=held))
    expected = ENTRY_SIZE * record.counts.total
    if index is None:
        findings.append(_finding(DamageKind.INDEX_MISSING, record))
    elif index != expected:
        findings.append(_finding(DamageKind.INDEX_SIZE, record, expected=expected, found=index))
    return findings


def look(spool: Spool, record: BatchRecord, upload: FileRecord | None) -> Stepwise[list[Finding]]:
    """The input's checksum, and the index against the input. Their sizes are right."""
    digest, spans = hashlib.sha256(), Spans()
    with (
        opened(spool.input(record.id)) as file,
        contextlib.closing(entries(spool.index(record.id))) as indexed,
    ):
        compared = _Compared(indexed)
        for data in pieces(file):
            digest.update(data)
            yield Step(bytes=len(data), lines=compared.add(spans.feed(data)))
        compared.add(spans.end())
    if upload is not None and upload.sha256 not in {None, digest.hexdigest()}:
        return [_finding(DamageKind.INPUT_CHANGED, record)]
    if compared.bad or compared.number != record.counts.total:
        return [
            Finding(
                kind=DamageKind.INDEX_DAMAGED,
                path=f"batches/{record.id}/index",
                batch=record.id,
                count=compared.bad,
                line=compared.first,
            )
        ]
    return []


class _Compared:
    """An index, held against the lines that it should name."""

    def __init__(self, indexed: Iterator[Span]) -> None:
        self._indexed = indexed
        self.number = 0
        self.bad = 0
        self.first = 0

    def add(self, spans: list[Span]) -> int:
        """How many lines that were."""
        for span in spans:
            self.number += 1
            if next(self._indexed, None) != span:
                self.first = self.first or self.number
                self.bad += 1
        return len(spans)


def _finding(
    kind: DamageKind, record: BatchRecord, *, expected: int | None = None, found: int | None = None
) -> Finding:
    name = "input" if kind.name.startswith("INPUT") else "index"
    path = f"batches/{record.id}/{name}"
    return Finding(kind=kind, path=path, batch=record.id, expected=expected, found=found)
