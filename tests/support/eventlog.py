"""What a model server was really sent: one event at each arrival and at each end.

Every event is written to the file at once, with no buffer of our own, so that the log tells the
truth whichever process is killed. A reader takes whole lines only.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``in_flight`` is how many requests were unanswered right after this event."""

    t: float  # seconds since the epoch
    event: Literal["start", "end", "abort"]
    nonce: str
    nth: int  # how often this nonce has been seen, counting from 1
    in_flight: int
    connection: int
    path: str = ""
    step: str = "ok"  # what the script asked for
    status: int = 0  # 0: no status line was ever sent
    usable: bool = False  # the end was a whole 2xx with a JSON object
    crc: int = 0  # CRC32 of the body as it arrived


_decode = msgspec.json.Decoder(Event).decode


class EventLog:
    """Appends to a file, or keeps the events in memory when there is none."""

    def __init__(self, path: Path | None) -> None:
        self._kept: list[Event] = []
        self._encode = msgspec.json.Encoder().encode
        self._path = path
        self._file = (
            None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        )

    def add(self, event: Event) -> None:
        if self._file is None:
            self._kept.append(event)
        else:
            os.write(self._file, self._encode(event) + b"\n")

    def events(self) -> list[Event]:
        return list(self._kept) if self._path is None else read_log(self._path)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_log(path: Path) -> list[Event]:
    """Every whole line; a last line that is still being written is left out."""
    return [_decode(line) for line in path.read_bytes().split(b"\n")[:-1]]


def most_in_flight(events: Iterable[Event]) -> int:
    return max((event.in_flight for event in events), default=0)


def sent(events: Sequence[Event]) -> dict[str, int]:
    """How often each nonce was sent."""
    times: dict[str, int] = {}
    for event in events:
        if event.event == "start":
            times[event.nonce] = times.get(event.nonce, 0) + 1
    return times
