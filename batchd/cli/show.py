"""Text for people: tables, durations, sizes, and the objects in words.

Whatever came from a file or from the daemon passes ``printable`` before it reaches a terminal, so
that an escape sequence in a file name or an answer does nothing.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence

import click

from batchd.cli.objects import (
    Backend,
    Batch,
    File,
    Retrying,
    done,
    finished_at,
    is_finished,
    notes,
    parent_id,
    paused_at,
    priority,
    retrying,
)

_COLOURS = {
    "completed": "green",
    "failed": "red",
    "expired": "yellow",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "paused": "yellow",
}
_STATE_COLOURS = {"ok": "green", "waiting": "yellow", "gone": "red"}
_MOST_ERRORS = 20
_MOST_LANES = 20


def page(listed: Sequence[Mapping[str, object]], *, has_more: bool) -> dict[str, object]:
    """A list as the API gives it, over however many requests it came."""
    return {
        "object": "list",
        "data": listed,
        "first_id": listed[0]["id"] if listed else None,
        "last_id": listed[-1]["id"] if listed else None,
        "has_more": has_more,
    }


def echo_json(answer: object) -> None:
    """One JSON text on one line of standard output."""
    click.echo(json.dumps(answer, ensure_ascii=False))


def table_width() -> int | None:
    """How wide a table may be: no limit where it is not a person who reads it."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None


def printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def number(count: int) -> str:
    return f"{count:,}"


def lines(count: int) -> str:
    return "1 line" if count == 1 else f"{count:,} lines"


def duration(seconds: float) -> str:
    """Two units at most: ``47 s``, ``1 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    left = max(0, round(seconds))
    for name, size, small_name, small in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if left >= size:
            rest = left % size // small
            return f"{left // size} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{left} s"


def size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:  # noqa: PLR2004 - what the units mean
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def moment(at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def status_word(batch: Batch) -> str:
    """The status; ``paused`` for one that does not go on."""
    return "paused" if paused_at(batch) else printable(batch["status"])


def status(batch: Batch) -> str:
    """The status in its colour (click drops colours where the output is not a terminal)."""
    word = status_word(batch)
    return click.style(word, fg=_COLOURS.get(word, "cyan"))


def counts(batch: Batch) -> str:
    """``420 of 1,000 lines, 3 failed``."""
    of = batch["request_counts"]
    text = f"{done(batch):,} of {lines(of['total'])}"
    return text + (f", {of['failed']:,} failed" if of["failed"] else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Aligned columns. The last ones are left out where they do not fit into ``width``.

    (Not by rich: to import it costs a third of what a whole `batchd list` may.)
    """
    widths = [
        max(len(click.unstyle(row[column])) for row in [head, *rows]) for column in range(len(head))
    ]
    columns = len(head)
    while width and columns > 1 and sum(widths[:columns]) + 2 * (columns - 1) > width:
        columns -= 1
    return "\n".join(_row(row[:columns], widths) for row in [head, *rows])


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell + " " * (widths[column] - len(click.unstyle(cell)))
        for column, cell in enumerate(cells)
    )
    return "  ".join(padded).rstrip()


def batch_table(batches: Sequence[Batch], now: float, width: int | None) -> str:
    rows = [
        (
            printable(batch["id"]),
            status(batch),
            f"{done(batch):,}/{batch['request_counts']['total']:,}",
            number(batch["request_counts"]["failed"]),
            ago(now - batch["created_at"]),
            printable(batch["endpoint"]),
        )
        for batch in batches
    ]
    return table(("ID", "STATUS", "DONE", "FAILED", "CREATED", "ENDPOINT"), rows, width)


def file_table(files: Sequence[File], now: float, width: int | None) -> str:
    rows = [
        (
            printable(file["id"]),
            printable(file["filename"]),
            size(file["bytes"]),
            printable(file["purpose"]),
            ago(now - file["created_at"]),
        )
        for file in files
    ]
    return table(("ID", "NAME", "SIZE", "PURPOSE", "CREATED"), rows, width)


def backend_table(backends: Sequence[Backend], width: int | None) -> str:
    """A row for each model on each backend, and below what there is to say of one."""
    rows = [row for backend in backends for row in _backend_rows(backend)]
    head = ("NAME", "STATE", "MODEL", "IN FLIGHT", "ANSWERS/S")
    told = [_backend_note(backend, backend["note"]) for backend in backends if backend["note"]]
    return "\n".join([table(head, rows, width), *told])


def _backend_rows(backend: Backend) -> list[tuple[str, ...]]:
    name, state = printable(backend["name"]), printable(backend["state"])
    first = (name, click.style(state, fg=_STATE_COLOURS.get(state)))
    lanes = sorted(backend["lanes"], key=lambda lane: -lane["in_flight"])
    rows = [
        (
            *(("", "") if number else first),
            printable(lane["model"]),
            f"{lane['in_flight']:,}/{lane['limit']:,}",
            f"{lane['throughput']:.1f}",
        )
        for number, lane in enumerate(lanes[:_MOST_LANES])
    ]
    left = len(lanes) - len(rows)
    if left:
        rows.append(("", "", f"… and {left} more", "", ""))
    return rows or [(*first, _listed(backend["models"]), number(backend["in_flight"]), "")]


def _backend_note(backend: Backend, note: str) -> str:
    wait = backend.get("tries_again_in")
    end = f"; trying again in {duration(wait)}" if wait else ""
    return printable(f"{backend['name']}: {note}{end}")


def _listed(models: Sequence[str] | None) -> str:
    """Which models a backend has that was sent nothing yet."""
    if models is None:
        return "not known"
    return printable(models[0]) if len(models) == 1 else f"{len(models):,} models"


def retries(retrying: Retrying) -> str:
    """``12 lines: http_503 10, timeout 2``."""
    kinds = sorted(retrying["kinds"].items(), key=lambda kind: -kind[1])
    return f"{lines(retrying['lines'])}: " + ", ".join(f"{kind} {n:,}" for kind, n in kinds)


def batch_in_full(batch: Batch, now: float, url: str = "") -> str:
    """One batch, a fact on each line; facts that are not there yet are left out.

    ``url``, here and below: the option that a command needs to reach the same daemon.
    """
    ended, expires, usage = finished_at(batch), batch.get("expires_at"), batch.get("usage")
    again, paused, parent = retrying(batch), paused_at(batch), parent_id(batch)
    facts = {
        "done": counts(batch),
        "paused": paused
        and f"since {moment(paused)} ({ago(now - paused)}); "
        f"go on: batchd resume {batch['id']}{url}",
        "parent": parent and f"{parent}, of which it runs lines again",
        "retrying": again and retries(again),
        "priority": str(priority(batch)) if priority(batch) else None,
        "endpoint": batch["endpoint"],
        "model": batch.get("model"),
        "input": batch["input_file_id"],
        "output": batch["output_file_id"],
        "errors": batch["error_file_id"],
        "created": f"{moment(batch['created_at'])} ({ago(now - batch['created_at'])})",
        "ended": moment(ended) if ended else None,
        "expires": moment(expires) if expires and not is_finished(batch) else None,
        "tokens": usage and f"{usage['input_tokens']:,} in, {usage['output_tokens']:,} out",
        "metadata": ", ".join(f"{k}={v}" for k, v in (batch.get("metadata") or {}).items()),
    }
    told = [f"{name:<9} {printable(str(text))}" for name, text in facts.items() if text]
    told += [f"{'note':<9} {printable(note)}" for note in notes(batch)]
    title = f"{printable(batch['id'])} {status(batch)}"
    if paused:
        title += f" ({printable(batch['status'])})"
    return "\n".join([title, *told, *batch_errors(batch, most=None)])


def batch_errors(
    batch: Batch, *, most: int | None = _MOST_ERRORS, lines_before: int = 0, url: str = ""
) -> list[str]:
    """Why the input was not valid, one line for each fault.

    ``lines_before``: how many lines of a file stand before the part that was the input.
    """
    faults = batch["errors"]["data"] if batch["errors"] else []
    shown = [
        (f"line {fault['line'] + lines_before}: " if fault["line"] else "")
        + printable(f"{fault.get('code') or 'error'}: {fault['message']}")
        for fault in faults[:most]
    ]
    left = len(faults) - len(shown)
    return [*shown, f"… and {left} more: batchd show {batch['id']}{url}"] if left else shown


def outcome(batch: Batch, name: str = "", lines_before: int = 0, url: str = "") -> list[str]:
    """How a finished batch ended, in words; ``name`` is what its input is called here."""
    of = batch["request_counts"]
    which = printable(batch["id"] + (f" ({name})" if name else ""))
    if batch["status"] == "failed":
        faults = batch_errors(batch, lines_before=lines_before, url=url)
        return [f"{which} {status(batch)}: its input was not accepted.", *faults]
    text = f"{which} {status(batch)}: {of['completed']:,} of {lines(of['total'])} answered"
    never = of["total"] - done(batch)
    text += f", {of['failed']:,} failed" if of["failed"] else ""
    return [text + (f", {never:,} never ran" if never else "")]


def what_next(batch: Batch, url: str) -> str:
    """How lines that came to nothing are run again; empty where there are none."""
    nothing = batch["request_counts"]["total"] - batch["request_counts"]["completed"]
    if not nothing or batch["status"] == "failed":
        return ""
    which = "the line that was" if nothing == 1 else f"the {lines(nothing)} that were"
    return f"To run {which} not answered again: batchd retry {batch['id']}{url}"


def ago(seconds: float) -> str:
    return f"{duration(seconds)} ago"
