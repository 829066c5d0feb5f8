"""Judges a whole input file: one pass over its lines, the index written on the way, then the order.

Runs in a thread, in slices, so that the loop is not held up. Memory is bounded by the longest line
and by the cap on errors, however many lines there are; only the order takes some bytes a line while
it is made (``gathering``). Any fault means that nothing is sent.
"""

import contextlib
import threading
import time
from collections.abc import Container
from pathlib import Path

import msgspec

from batchd.engine.duplicates import Duplicates, confirmed
from batchd.engine.linecheck import Checked, LineChecker, shown
from batchd.gathering import Gathering
from batchd.grouping import Order, write_order
from batchd.jsonl import BOM, IndexedLines, IndexWriter, lines
from batchd.model import LineError
from batchd.wire import lines as lines_of

MAX_ERRORS = 100
MAX_MODELS = 1000  # of a batch; each has a queue of its own while it runs
_SLICE = 128  # lines between two pauses
_SLICE_BYTES = 1 << 18
_PAUSE = 0.0001  # seconds; long enough for the loop's thread to take over

_EMPTY_FILE = "The input file is empty. Please ensure that the batch contains at least one request."
_TOO_MANY_MODELS = (
    "The requests of the input file name too many different models: a batch may have up to 1000."
)


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """The batch's own files: the input is read, the others are made of it."""

    input: Path
    index: Path
    order: Path
    scratch: Path


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a file must keep to, and in which order its lines are to go out."""

    endpoint: str
    max_requests: int
    max_embedding_inputs: int
    mixed_models: bool
    order: Order = "prefix"


class Verdict(msgspec.Struct, frozen=True):
    """What an inspection found. ``model``: the one model of all lines, None if there are more."""

    total: int
    model: str | None
    errors: list[LineError]


class Stopped(Exception):
    """The inspection was told to stop."""


class Inspection:
    """The inspection of one file. ``judge`` blocks; ``stop`` ends it from outside."""

    def __init__(self, places: Places, rules: Rules, models: Container[str] | None) -> None:
        self._places = places
        self._rules = rules
        self._checker = LineChecker(rules.endpoint, models, signs=rules.order == "prefix")
        self._duplicates = Duplicates(places.scratch)
        self._errors: list[LineError] = []
        self._models: set[str] = set()
        self._first_model: str | None = None
        self._inputs = 0
        self._count = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def judge(self) -> Verdict:
        """Read the file once. When this returns without errors, index and order are on disk.

        ``Stopped`` if told to stop, ``OSError`` if the disk fails.
        """
        index = IndexWriter(self._places.index)
        gathering = Gathering(self._places.order.parent, self._pause)
        with contextlib.closing(gathering):
            try:
                self._pass(index, gathering)
            finally:
                index.close()
            errors = sorted([*self._errors, *self._duplicate_errors()], key=_line_no)
            errors = [*self._file_errors(), *errors][:MAX_ERRORS]
            if not errors:
                write_order(gathering, self._places.order)
        model = self._first_model if len(self._models) == 1 else None
        return Verdict(self._count, model, errors)

    def _pass(self, index: IndexWriter, gathering: Gathering) -> None:
        since_pause = 0
        with self._places.input.open("rb") as file:
            for line_no, (offset, line) in enumerate(lines(file), start=1):
                text = line.removeprefix(BOM) if offset == 0 else line
                if not text.isspace() and text:
                    skipped = len(line) - len(text)
                    checked = self._line(text, line_no)
                    index.add(offset + skipped, len(text.rstrip(b"\r\n")), checked.signature)
                    if checked.model is not None:
                        gathering.add(checked.model, checked.signature)
                    if self._count > self._rules.max_requests:
                        return
                since_pause += 1 + len(line) * _SLICE // _SLICE_BYTES
                if since_pause >= _SLICE:
                    since_pause = 0
                    self._pause()

    def _pause(self) -> None:
        if self._stopped.is_set():
            raise Stopped
        time.sleep(_PAUSE)

    def _line(self, text: bytes, line_no: int) -> Checked:
        checked = self._checker.check(text, line_no)
        if checked.custom_id is not None:
            self._duplicates.add(checked.custom_id, self._count, line_no)
        self._count += 1
        self._inputs += checked.inputs
        errors = checked.errors or self._model_errors(checked, line_no)
        if errors and len(self._errors) < MAX_ERRORS:
            self._errors.extend(errors)
        return checked

    def _model_errors(self, checked: Checked, line_no: int) -> list[LineError]:
        model = checked.model
        if model is None or model == self._first_model:
            return []
        if self._first_model is None:
            self._first_model = model
            self._models.add(model)
            return []
        if len(self._models) <= MAX_MODELS:
            self._models.add(model)
        if self._rules.mixed_models:
            return []
        text = (
            f"The model '{shown(model)}' for this request does not match the rest of the batch. "
            "Each batch must contain requests for a single model."
        )
        return [LineError("mismatched_model", text, "body.model", line_no)]

    def _file_errors(self) -> list[LineError]:
        """Faults of the file as a whole; they have no line."""
        rules = self._rules
        if self._count == 0:
            return [LineError("empty_file", _EMPTY_FILE)]
        errors: list[LineError] = []
        if self._count > rules.max_requests:
            text = f"The input file has more than {rules.max_requests} requests, the most allowed."
            errors.append(LineError("too_many_tasks", text))
        if self._inputs > rules.max_embedding_inputs:
            text = (
                f"The input file has {self._inputs} embedding inputs; at most "
                f"{rules.max_embedding_inputs} are allowed in one batch."
            )
            errors.append(LineError("too_many_tasks", text, "body.input"))
        if len(self._models) > MAX_MODELS:
            errors.append(LineError("invalid_request", _TOO_MANY_MODELS, "body.model"))
        return errors

    def _duplicate_errors(self) -> list[LineError]:
        suspects = self._duplicates.suspects(MAX_ERRORS)
        if not suspects:
            return []
        indexed = IndexedLines(self._places.input, self._places.index)
        try:
            sure = confirmed(suspects, lambda index: _custom_id(indexed.read(index)))
            return [
                LineError(
                    "duplicate_custom_id",
                    f"The custom_id '{shown(custom_id)}' for this request "
                    "is a duplicate of another request. The custom_id parameter must be unique "
                    "for each request in a batch.",
                    "custom_id",
                    suspect.line_no,
                )
                for suspect, custom_id in sure
            ]
        finally:
            indexed.close()


def _custom_id(line: bytes) -> str | None:
    """The id of a line, faulty ones included; None if a typed look does not find it."""
    try:
        return lines_of.custom_id(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _line_no(error: LineError) -> int:
    return error.line or 0
