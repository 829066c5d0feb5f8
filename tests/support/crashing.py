"""batchd that dies where it is told to, as a test drives it; ``crash_point`` is what then runs."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from tests.support.batchd_process import BatchdProcess
from tests.support.waiting import wait_until

DIRECTORY = "CRASH_POINTS"  # the environment variable that names the directory of orders


class Orders:
    """Where to die, and where that happened: files, so that both sides see the same."""

    def __init__(self, directory: Path) -> None:
        self._order = directory / "order"
        self._mark = directory / "died"
        self._end = directory / "ended"
        self._reached = 0

    def give(self, point: str, nth: int) -> None:
        """Die at this point, the ``nth`` time that a process reaches it from now on."""
        draft = self._order.with_suffix(".new")
        draft.write_text(f"{nth} {point}")
        draft.rename(self._order)

    def applies(self, point: str) -> bool:
        """Whether to die at this point, now."""
        try:
            nth, _, wanted = self._order.read_text().partition(" ")
        except FileNotFoundError:
            return False
        self._reached += wanted == point
        return wanted == point and self._reached >= int(nth)

    def mark(self) -> None:
        """The order is about to be obeyed."""
        self._order.rename(self._mark)

    def note_end(self, code: int) -> None:
        draft = self._end.with_suffix(".new")
        draft.write_text(str(code))
        draft.rename(self._end)

    def has_ended(self) -> bool:
        return self._end.exists()

    def take_end(self) -> tuple[int, str | None]:
        """How the process ended, and at which point if it was an order."""
        code = int(self._end.read_text())
        self._end.unlink()
        if not self._mark.exists():
            return code, None
        point = self._mark.read_text().partition(" ")[2]
        self._mark.unlink()
        return code, point


class CrashingBatchd(BatchdProcess):
    """``pid`` is the parent's, which outlives the process that dies."""

    def __init__(
        self, directory: Path, *, backend: str, settings: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(
            directory,
            backend=backend,
            settings=settings,
            environment={DIRECTORY: str(directory)},
            program=("-m", "tests.support.crash_point"),
        )
        self._orders = Orders(directory)

    def die_at(self, point: str, *, nth: int = 1) -> None:
        self._orders.give(point, nth)

    @property
    def has_died(self) -> bool:
        return self._orders.has_ended()

    def death(self) -> tuple[int, str | None]:
        """The exit code and the point of a process that has died; only once."""
        return self._orders.take_end()

    def live_again(self) -> None:
        """Let the next process be born; waits for nothing."""
        os.kill(self.pid, signal.SIGUSR1)

    def wait_until_ready(self) -> None:
        wait_until(lambda: self._healthz() == 200, within=10)
