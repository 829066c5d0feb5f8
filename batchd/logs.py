"""What a log record looks like when it leaves the process.

Owns the formats and the redaction. Does not know who logs or what: callers use plain ``logging``
with a constant event name as the message and the facts in ``extra``. A record of another library
is shown as ``logger: message``.

Invariants: every text of a record has passed through ``redact`` before a format sees it; a record
is one line, and each line of its traceback carries the priority of the record; no text in it can
break a line or move the cursor of a terminal.
"""

import json
import logging
import math
import os
import re
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Self, TextIO

import msgspec

Fact = str | float | bool | None

HIDDEN = "[redacted]"
# The journal cuts a line at 48 KiB, and what follows the cut has lost its priority.
LONGEST_TEXT = 4000

_NOT_FACTS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_RESERVED = frozenset({"at", "level", "event", "traceback"})

_SECRET_NAME = re.compile(r"(?i)(?:^|[_-])(?:key|token|secret|password|authorization|cookie)$")
_SECRETS = (
    # The headers inside the repr of an HTTP library's error, as far as the line goes.
    (re.compile(r"<(?:CI)?MultiDict(?:Proxy)?\(.*\)>"), "<headers [redacted]>"),
    # A header and its value: as sent, in a dict, in JSON, or as a pair of bytes.
    (
        re.compile(
            r"""((?:authorization|api[-_]?key|cookie)\\*['"]?\s*[:=,]\s*b?\\*['"]?)[^'"\\\r\n]+""",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), rf"\1{HIDDEN}"),
    # A repr spells a line break with a letter, which then stands in front of the key.
    (re.compile(r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))((?:sk|bd)-)[\w-]+"), rf"\1{HIDDEN}"),
    (re.compile(r"""(?i)((?:key|token|secret|password)=)[^\s&'"]+"""), rf"\1{HIDDEN}"),
    (re.compile(r"(://)[^/\s@]+@"), rf"\1{HIDDEN}@"),
)


def configure(level: str, style: str, stream: TextIO, *, journal_stream: str | None = None) -> None:
    """Send every record of ``level`` and above to ``stream``, and to nothing else.

    ``journal_stream`` is the value of ``JOURNAL_STREAM``; it decides what ``auto`` means.
    """
    if style == "auto":
        style = "journal" if _is_journal(stream, journal_stream) else "plain"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(_STYLES[style]))
    logging.basicConfig(force=True, level=level.upper(), handlers=[handler])
    # It would log what it could not parse: pieces of requests, and so prompts and keys.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL + 1)


def redact(text: str) -> str:
    """``text`` without the keys, headers and passwords that may have got into it."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class Entry(msgspec.Struct, frozen=True):
    """A log record without secrets, which a format only has to spell."""

    created: float
    level: int
    level_name: str
    event: str
    facts: dict[str, Fact]
    trace: tuple[str, ...]

    @classmethod
    def of(cls, record: logging.LogRecord) -> Self:
        ours = record.name.partition(".")[0] == "batchd"
        message = record.getMessage()
        return cls(
            created=record.created,
            level=record.levelno,
            level_name=record.levelname,
            event=_clean(message if ours else f"{record.name}: {message}"),
            facts={
                name: HIDDEN if _SECRET_NAME.search(name) else _fact(value)
                for name, value in vars(record).items()
                if name not in _NOT_FACTS
            },
            trace=tuple(_trace(record)),
        )


def _journal(entry: Entry) -> str:
    return "\n".join(f"<{_priority(entry.level)}>{line}" for line in (_line(entry), *entry.trace))


def _plain(entry: Entry) -> str:
    at = datetime.fromtimestamp(entry.created, UTC).astimezone()
    head = f"{at:%Y-%m-%d %H:%M:%S} {entry.level_name} {_line(entry)}"
    return "\n".join((head, *entry.trace))


def _json(entry: Entry) -> str:
    at = datetime.fromtimestamp(entry.created, UTC).isoformat(timespec="milliseconds")
    fields: dict[str, object] = {"at": at, "level": entry.level_name.lower(), "event": entry.event}
    for name, value in entry.facts.items():
        fields[f"{name}_" if name in _RESERVED else name] = value
    if entry.trace:
        fields["traceback"] = "\n".join(entry.trace)
    return json.dumps(fields)


_STYLES: dict[str, Callable[[Entry], str]] = {"journal": _journal, "plain": _plain, "json": _json}


class _Formatter(logging.Formatter):
    def __init__(self, spell: Callable[[Entry], str]) -> None:
        super().__init__()
        self._spell = spell

    def format(self, record: logging.LogRecord) -> str:
        return self._spell(Entry.of(record))


def _is_journal(stream: TextIO, journal_stream: str | None) -> bool:
    # Programs started by a service inherit the variable, and may have been given other streams.
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def _priority(level: int) -> int:
    """syslog's number for a level: 2 critical, 3 error, 4 warning, 6 info, 7 debug."""
    if level >= logging.WARNING:
        return 2 if level >= logging.CRITICAL else 3 if level >= logging.ERROR else 4
    return 6 if level >= logging.INFO else 7


def _line(entry: Entry) -> str:
    facts = (f"{name}={_value(value)}" for name, value in entry.facts.items())
    return " ".join((_printable(entry.event), *facts))


def _value(value: Fact) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    if value and value.isprintable() and not re.search(r"""[\s"'=\\]""", value):
        return value
    quoted = value.replace("\\", r"\\").replace('"', r"\"")
    return f'"{_printable(quoted)}"'


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def _fact(value: object) -> Fact:
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case bytes() | bytearray():
            # Bytes are bodies, and bodies are private.
            return f"<{len(value)} bytes>"
        case BaseException():
            return _clean(f"{type(value).__name__}: {value}")
        case _:
            return _clean(str(value))


def _trace(record: logging.LogRecord) -> Iterator[str]:
    lines: list[str] = []
    if record.exc_info and record.exc_info[1]:
        lines += traceback.format_exception(record.exc_info[1])
    if record.stack_info:
        lines.append(record.stack_info)
    for line in redact("".join(lines)).splitlines():
        yield _printable(_cut(line))


def _clean(text: str) -> str:
    return _cut(redact(text))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
