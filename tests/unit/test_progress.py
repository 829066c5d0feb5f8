"""Progress is asked for at every look, and the last word is kept for readers of old rows."""

from batchd.model import Counts, Progress
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
