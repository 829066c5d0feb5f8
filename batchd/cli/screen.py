"""What is seen of ``batchd run`` while it runs. It decides nothing of what is done.

A terminal may go while a run goes on: where it cannot be shown, nothing is shown from then on.
"""

import contextlib
import time
from collections.abc import Callable
from typing import cast

import msgspec

from batchd.cli.objects import Batch, done
from batchd.cli.progress import Display, make_display
from batchd.cli.show import duration, lines
from batchd.oneshot.job import Standing


class Screen:
    """What is seen of a run while it runs."""

    def __init__(self, name: str, *, goes_on: bool, drain: float) -> None:
        self._name = name
        self._goes_on = goes_on
        self._drain = drain
        self._display: Display | None = None
        self._is_seen = True
        self._open = contextlib.ExitStack()

    def show(self, standing: Standing) -> None:
        self._while_seen(lambda: self._show(batch_of(standing)))

    def stopping(self) -> None:
        self._while_seen(self._say_that_it_stops)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._open.close()

    def _while_seen(self, step: Callable[[], None]) -> None:
        try:
            if self._is_seen:
                step()
        except OSError:
            self._is_seen = False

    def _show(self, batch: Batch) -> None:
        if self._display is None:
            self._display = self._open.enter_context(make_display({batch["id"]: self._name}))
            if self._goes_on and done(batch):
                self._display.say(f"{self._name}: going on, {so_far(batch)}")
        self._display.update(batch, time.monotonic())

    def _say_that_it_stops(self) -> None:
        if self._display is not None:
            self._display.say(
                f"Stopping: what is in flight may take {duration(self._drain)} to finish. A second "
                "Ctrl-C leaves at once."
            )


def batch_of(standing: Standing) -> Batch:
    """The Batch object, as the API has it."""
    return cast("Batch", msgspec.to_builtins(standing.batch))


def so_far(batch: Batch) -> str:
    """How many of its lines are done, in words."""
    total = batch["request_counts"]["total"]
    if not total:
        return "its lines are being looked at"
    return f"{done(batch):,} of {lines(total)} are done"
