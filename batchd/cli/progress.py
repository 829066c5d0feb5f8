"""Watching batches: how far they are, how fast, and what a person sees of it meanwhile.

``Pace`` is arithmetic; time is handed in. A ``Display`` is what the waiting loop talks to: here the
one for pipes and logs, in ``live`` the one for terminals (it imports rich, so it is imported late).
Both write to standard error, which leaves standard output to results.
"""

import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, Self

import click

from batchd.cli.objects import Batch, done, is_finished, notes
from batchd.cli.show import counts, duration, printable, status_word

_PACE_SECONDS = 60
_PLAIN_SECONDS = 10


class Pace:
    """How many a second over the last minute: lines, or tokens."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now: float, count: int) -> None:
        self._seen.append((now, count))
        while self._seen[0][0] < now - _PACE_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """0 while unknown."""
        if not self._seen:
            return 0.0
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - start) if end - start >= 1 else 0.0


class Track:
    """One batch under way."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.batch: Batch | None = None
        self.pace, self.token_pace = Pace(), Pace()

    def update(self, batch: Batch, now: float) -> None:
        self.batch = batch
        if batch["request_counts"]["total"]:  # validation says nothing about the pace
            self.pace.note(now, done(batch))
            self.token_pace.note(now, _tokens(batch))

    def speed(self) -> str:
        """``, 12.3/s, 47 s left, 8,000 tokens (90/s)``, or nothing while unknown."""
        rate = self.pace.rate
        if self.batch is None or not rate:
            return ""
        left = self.batch["request_counts"]["total"] - done(self.batch)
        pace = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
        time_left = f", {duration(left / rate)} left" if left > 0 else ""
        tokens = _tokens(self.batch)
        spent = f", {tokens:,} tokens ({self.token_pace.rate:,.0f}/s)" if tokens else ""
        return f", {pace}{time_left}{spent}"


def _tokens(batch: Batch) -> int:
    usage = batch.get("usage")
    return usage["input_tokens"] + usage["output_tokens"] if usage else 0


class Display(Protocol):
    """What is seen while waiting."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, batch: Batch, now: float) -> None:
        """Show where ``batch`` is now."""
        ...

    def say(self, text: str) -> None:
        """Show a sentence that stays."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Leave the terminal to somebody else for a moment."""
        ...


class PlainDisplay:
    """Lines of text: one when something changes, and one in ten seconds of steady progress."""

    def __init__(self, labels: Mapping[str, str], echo: Callable[[str], None]) -> None:
        self._tracks = {batch_id: Track(label) for batch_id, label in labels.items()}
        self._said: dict[str, tuple[object, int, float]] = {}
        self._echo = echo

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, batch: Batch, now: float) -> None:
        track = self._tracks[batch["id"]]
        track.update(batch, now)
        if is_finished(batch):
            return  # whoever waits says how it ended
        news, progress = (status_word(batch), notes(batch)), done(batch)
        said = self._said.get(batch["id"])
        if said and said[0] == news and (said[1] == progress or now < said[2] + _PLAIN_SECONDS):
            return
        self._said[batch["id"]] = (news, progress, now)
        lines = counts(batch) + track.speed() if batch["request_counts"]["total"] else ""
        self.say(f"{track.label}: {status_word(batch)}{' ' if lines else ''}{lines}")
        for note in notes(batch) if not said or said[0] != news else ():
            self.say(f"{track.label}: {note}")

    def say(self, text: str) -> None:
        self._echo(printable(text))

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()


def sentences() -> PlainDisplay:
    """Only what is said, a line each, on standard error."""
    return PlainDisplay({}, lambda text: click.echo(text, err=True))


def make_display(labels: Mapping[str, str]) -> Display:
    """The display that suits standard error, for batches by id with what to call each."""
    if sys.stderr.isatty():
        from batchd.cli.live import LiveDisplay  # noqa: PLC0415 - rich only on a terminal

        return LiveDisplay(labels)
    return PlainDisplay(labels, lambda text: click.echo(text, err=True))
