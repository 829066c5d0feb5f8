from typing import Any, cast

from rich.console import Console

from batchd.cli.live import LiveDisplay
from batchd.cli.objects import Batch
from batchd.cli.progress import Pace, PlainDisplay


def batch(status: str, done: int, total: int = 100, notes: tuple[str, ...] = ()) -> Batch:
    counts = {"total": total, "completed": done, "failed": 0}
    found: dict[str, Any] = {
        "id": "batch_1",
        "status": status,
        "request_counts": counts,
        "batchd": {"notes": list(notes)},
    }
    return cast("Batch", found)


def test_the_pace_is_that_of_the_last_minute() -> None:
    pace = Pace()
    assert pace.rate == 0
    pace.note(0, 0)
    assert pace.rate == 0
    pace.note(100, 1000)
    pace.note(110, 1020)
    assert pace.rate == 2


def test_plain_progress_says_what_changes_and_now_and_then_how_far_it_is() -> None:
    said: list[str] = []
    display = PlainDisplay({"batch_1": "in.jsonl"}, said.append)
    display.update(batch("validating", 0, total=0), 0)
    display.update(batch("validating", 0, total=0), 1)
    display.update(batch("in_progress", 0), 2)
    display.update(batch("in_progress", 20), 4)
    display.update(batch("in_progress", 50), 12)
    display.update(batch("in_progress", 50), 30)
    display.update(batch("in_progress", 50, notes=("the backend is away",)), 32)
    display.update(batch("completed", 100), 40)
    assert said == [
        "in.jsonl: validating",
        "in.jsonl: in_progress 0 of 100 lines",
        "in.jsonl: in_progress 50 of 100 lines, 5.0/s, 10 s left",
        "in.jsonl: in_progress 50 of 100 lines, 1.7/s, 30 s left",
        "in.jsonl: the backend is away",
    ]


CONSOLE = Console(force_terminal=False)


def drawn(display: LiveDisplay, width: int) -> list[str]:
    CONSOLE.width = width
    with CONSOLE.capture() as captured:
        CONSOLE.print(display.draw())
    return captured.get().splitlines()


def test_a_bar_fits_into_the_terminal_at_any_width() -> None:
    display = LiveDisplay({"batch_1": "a-rather-long-name-of-an-input-file.jsonl"}, CONSOLE)
    for each in (batch("validating", 0, total=0), batch("in_progress", 42, notes=("note " * 40,))):
        display.update(each, 1)
        for width in (20, 44, 80, 200):
            rows = drawn(display, width)
            assert all(len(row) <= width for row in rows)
            told = "".join(rows).count("note")
            assert told == (40 if each["status"] == "in_progress" else 0)
    assert "42 %" in drawn(display, 80)[0]


def test_a_finished_batch_leaves_the_display() -> None:
    display = LiveDisplay({"batch_1": "in.jsonl"}, CONSOLE)
    display.update(batch("in_progress", 42), 1)
    display.update(batch("completed", 100), 2)
    assert "".join(drawn(display, 80)).strip() == ""
