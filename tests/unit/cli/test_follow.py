import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import BytesIO, FileIO
from pathlib import Path

import pytest

from batchd.cli.client import Client, Results
from batchd.cli.follow import Follower, Sink, whole_lines
from batchd.cli.http import Http
from batchd.cli.progress import PlainDisplay
from tests.unit.cli.fake_api import FakeApi, FakeResults

ASKED = {"endpoint": "/v1/embeddings", "input_file_id": "file-1", "completion_window": "24h"}
LINES = [b'{"custom_id":"%d","text":"%b"}\n' % (n, b"x" * n) for n in range(40)]


class Clock:
    """Each sleep is a step of the story: more results, and at last the end of the batch."""

    def __init__(self, results: FakeResults, lines: list[bytes]) -> None:
        self._results = results
        self._left = list(lines)

    def monotonic(self) -> float:
        return 0

    def sleep(self, seconds: float) -> None:
        assert seconds <= 1
        self._results.lines["completed"] += self._left[:10]
        del self._left[:10]
        self._results.more = bool(self._left)


@pytest.fixture
def results(api: FakeApi) -> FakeResults:
    batch_id = api.add_batch(ASKED)["id"]
    api.results[batch_id] = FakeResults([], [b'{"custom_id":"bad"}\n'], more=True)
    return api.results[batch_id]


@pytest.fixture
def follower(url: str) -> Follower:
    return Follower(Client(Http(url)), "batch_1", after=None, with_input=False)


def display() -> PlainDisplay:
    return PlainDisplay({}, list[str]().append)


class Memory(BytesIO):
    def fileno(self) -> int:
        raise OSError


def test_each_line_is_written_once_until_the_end(results: FakeResults, follower: Follower) -> None:
    out, err = Memory(), Memory()
    sinks = [Sink("completed", out, is_ours=False), Sink("failed", err, is_ours=False)]
    follower.follow(sinks, display(), shows=False, clock=Clock(results, LINES))
    assert out.getvalue() == b"".join(LINES)
    assert err.getvalue() == b'{"custom_id":"bad"}\n'
    assert (follower.cursor, follower.lines, follower.has_more) == ("40-1", 41, False)


def test_an_answer_that_breaks_off_is_not_written_twice(
    api: FakeApi, results: FakeResults, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.cli.waiting._LONGEST_PAUSE", 0.01)
    api.cut_downloads = 3
    out = Memory()
    sinks = [Sink("completed", out, is_ours=False)]
    follower.follow(sinks, display(), shows=False, clock=Clock(results, LINES))
    assert out.getvalue() == b"".join(LINES)
    assert api.cut_downloads == 0


class Interrupted(Clock):
    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_between_two_looks_leaves_an_exact_cursor(
    results: FakeResults, follower: Follower
) -> None:
    before = signal.getsignal(signal.SIGINT)
    results.lines["completed"] += LINES[:3]
    out = Memory()
    with pytest.raises(KeyboardInterrupt):
        follower.follow(
            [Sink("completed", out, is_ours=False)],
            display(),
            shows=False,
            clock=Interrupted(results, LINES[3:]),
        )
    assert out.getvalue() == b"".join(LINES[:3])
    assert (follower.cursor, follower.is_exact) == ("3-0", True)
    assert signal.getsignal(signal.SIGINT) is before


class Interrupting(Memory):
    """Presses Ctrl-C while it is written to."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] - narrower is enough here
        written = super().write(data)
        for _ in range(self._times):
            os.kill(os.getpid(), signal.SIGINT)
        return written


@pytest.mark.parametrize(("times", "cursor", "is_exact"), [(1, "3-0", True), (2, None, False)])
def test_ctrl_c_while_lines_are_written_waits_once_for_the_last(
    results: FakeResults, follower: Follower, times: int, cursor: str | None, *, is_exact: bool
) -> None:
    results.lines["completed"] += LINES[:3]
    out = Interrupting(times)
    with pytest.raises(KeyboardInterrupt):
        follower.follow([Sink("completed", out, is_ours=False)], display(), shows=False)
    assert out.getvalue() == b"".join(LINES[:3])
    assert (follower.cursor, follower.is_exact) == (cursor, is_exact)


class InterruptedClient(Client):
    """Ctrl-C is pressed as an answer has been written and its connection is being closed."""

    @contextmanager
    def results(
        self, batch_id: str, status: str, *, after: str | None = None, with_input: bool = False
    ) -> Generator[Results]:
        with super().results(batch_id, status, after=after, with_input=with_input) as found:
            yield found
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_right_after_the_last_line_leaves_a_cursor_that_knows_of_it(
    results: FakeResults, url: str
) -> None:
    results.lines["completed"] += LINES[:3]
    follower = Follower(InterruptedClient(Http(url)), "batch_1", after=None, with_input=False)
    out = Memory()
    with pytest.raises(KeyboardInterrupt):
        follower.follow([Sink("completed", out, is_ours=False)], display(), shows=False)
    assert out.getvalue() == b"".join(LINES[:3])
    assert (follower.cursor, follower.is_exact) == ("3-0", True)


class Full(FileIO):
    """A disk that has room for one line more."""

    def write(self, data: bytes, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] - narrower is enough here
        if self.tell() > 20:
            raise OSError(28, "No space left on device")
        return super().write(data[:30])


def test_a_file_that_cannot_grow_is_cut_back_to_the_cursor(
    results: FakeResults, follower: Follower, tmp_path: Path
) -> None:
    results.lines["completed"] += LINES[:3]
    with Full(tmp_path / "out", "wb") as out, pytest.raises(OSError, match="No space"):
        follower.follow([Sink("completed", out, is_ours=True)], display(), shows=False)
    assert (tmp_path / "out").read_bytes() == b""
    assert follower.is_exact


def test_blocks_end_with_lines_wherever_the_pieces_end() -> None:
    def pieces(size: int) -> Iterator[bytes]:
        text = b"".join(LINES)
        return (text[at : at + size] for at in range(0, len(text), size))

    for size in (1, 7, 64, 10_000):
        blocks = list(whole_lines(pieces(size)))
        assert b"".join(blocks) == b"".join(LINES)
        assert all(block.endswith(b"\n") for block in blocks)
