"""Progress is asked for at every look, and the last word is kept for readers of old rows."""

from batchd.model import Counts, Progress, TroubledLine
from batchd.progress import LiveProgress


def test_a_source_is_asked_at_every_look() -> None:
    live, done = LiveProgress(), 0
    live.follow("a", lambda: Progress(Counts(5, done)))
    assert live.of("a") == Progress(Counts(5, 0))
    done = 3
    assert live.of("a") == Progress(Counts(5, 3))
    assert live.of("b") is None


def test_the_last_word_is_kept_for_a_while() -> None:
    live = LiveProgress()
    for number in range(300):
        name = f"batch_{number}"
        live.ends_with(name, Progress(Counts(number)))
        live.forget_later(name)
    assert live.of("batch_299") == Progress(Counts(299))
    assert live.of("batch_44") == Progress(Counts(44))
    assert live.of("batch_43") is None


async def test_whoever_runs_batches_tells_which_lines_are_in_trouble() -> None:
    live = LiveProgress()
    assert await live.troubles("a", 5) == ([], False)
    line = TroubledLine(
        line=3,
        custom_id="c",
        attempts=1,
        faults=1,
        last_failure="timeout",
        backend=None,
        next_attempt_in=None,
    )

    async def troubles(batch_id: str, limit: int) -> tuple[list[TroubledLine], bool]:
        return [line] * limit, batch_id == "a"

    live.ask_for_troubles(troubles)
    assert await live.troubles("a", 2) == ([line, line], True)
    assert await live.troubles("b", 1) == ([line], False)
