"""Bars on a terminal, by rich. Imported only where there is one."""

import sys
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from batchd.cli.objects import Batch, done, is_finished, notes, paused_at
from batchd.cli.progress import Track
from batchd.cli.show import counts, printable, status_word

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

_FRAMES_PER_SECOND = 8
_NARROW = 60


def _console() -> Console:
    return Console(file=sys.stderr, highlight=False)


class LiveDisplay:
    """A bar and a line of figures for each batch, as wide as the terminal, drawn in place."""

    def __init__(self, labels: "Mapping[str, str]", console: Console | None = None) -> None:
        self._tracks = {batch_id: Track(label) for batch_id, label in labels.items()}
        self._console = console or _console()
        self._live = Live(
            console=self._console,
            get_renderable=self.draw,
            refresh_per_second=_FRAMES_PER_SECOND,
            transient=True,
            # Standard output may be a file: what is printed there must get there.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, batch: Batch, now: float) -> None:
        if is_finished(batch):
            self._tracks.pop(batch["id"], None)
        else:
            self._tracks[batch["id"]].update(batch, now)

    def say(self, text: str) -> None:
        self._console.print(Text(printable(text)))

    @contextmanager
    def aside(self) -> "Generator[None]":
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def draw(self) -> Group:
        # The loop that waits replaces tracks meanwhile, in another thread: draw a copy.
        known = [(track, track.batch) for track in list(self._tracks.values())]
        return Group(*(row for track, batch in known if batch for row in self._rows(track, batch)))

    def _rows(self, track: Track, batch: Batch) -> "Iterator[Table | Text | Padding]":
        yield self._bar(track, batch)
        if batch["request_counts"]["total"]:
            yield _line(f"  {counts(batch)}{track.speed()}")
        for note in notes(batch):
            yield Padding(Text(printable(note), style="yellow"), (0, 0, 0, 2))

    def _bar(self, track: Track, batch: Batch) -> Table:
        total = batch["request_counts"]["total"]
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(no_wrap=True, overflow="ellipsis", max_width=self._console.width // 3)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(
            total=total or None, completed=done(batch), pulse=not total, complete_style="cyan"
        )
        row.add_row(
            Text(printable(track.label)),
            Text(status_word(batch), style="yellow" if paused_at(batch) else "cyan"),
            bar if self._console.width >= _NARROW or total else "",
            f"{100 * done(batch) // total} %" if total else "",
        )
        return row


def _line(text: str) -> Text:
    return Text(printable(text), no_wrap=True, overflow="ellipsis")


def upload_bar(name: str, size: int) -> "AbstractContextManager[Callable[[int], None]]":
    """A bar for an upload; the caller tells it the size of each piece that was sent."""

    @contextmanager
    def showing() -> "Generator[Callable[[int], None]]":
        progress = Progress(
            TextColumn("uploading {task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=_console(),
            transient=True,
        )
        with progress:
            task = progress.add_task(printable(name), total=size)
            yield lambda sent: progress.advance(task, sent)

    return showing()
