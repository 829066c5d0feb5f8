import os
import signal
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from batchd.cli.errors import CommandFailed
from batchd.cli.results import Target, Targets


def breaking() -> Iterator[bytes]:
    yield b"half"
    raise CommandFailed("broke off")


def test_a_download_that_breaks_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed):
        Target(tmp_path / "out").write(breaking())
    assert list(tmp_path.iterdir()) == []


def test_a_broken_download_does_not_touch_the_older_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with pytest.raises(CommandFailed):
        Target(out, force=True).write(breaking())
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    target = Target(out)
    target.check()
    out.write_bytes(b"mine")
    with pytest.raises(CommandFailed, match="appeared meanwhile"):
        target.write([b"new"])
    assert out.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_system_without_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    Target(tmp_path / "out").write([b"new"])
    assert (tmp_path / "out").read_bytes() == b"new"


def test_without_links_too_a_file_that_appears_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    out = tmp_path / "out"
    out.write_bytes(b"mine")
    with pytest.raises(CommandFailed, match="appeared meanwhile"):
        Target(out).write([b"new"])
    assert out.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("appends", [False, True])
def test_a_signal_that_ends_it_leaves_nothing_half_written(
    tmp_path: Path, number: signal.Signals, *, appends: bool
) -> None:
    def ended() -> Iterator[bytes]:
        yield b"half"
        os.kill(os.getpid(), number)
        yield b"more"

    out = tmp_path / "out"
    if appends:
        out.write_bytes(b"old\n")
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt):
            Target(out, appends=appends).write(ended())
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert list(tmp_path.iterdir()) == ([out] if appends else [])
    assert not appends or out.read_bytes() == b"old\n"


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    def hung_up() -> Iterator[bytes]:
        os.kill(os.getpid(), signal.SIGHUP)
        yield b"all"

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Target(tmp_path / "out").write(hung_up())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "out").read_bytes() == b"all"


def test_the_two_files_are_never_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("out")
    for errors in (tmp_path / "out", Path("link")):
        with pytest.raises(click.UsageError, match="the same place"):
            Targets.at(Path("out"), errors, force=True).check()


def test_the_two_may_go_to_one_terminal(tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/dev/null")
    (tmp_path / "stderr").symlink_to("/dev/null")
    Targets.at(tmp_path / "stdout", tmp_path / "stderr", force=False).check()
    with pytest.raises(click.UsageError, match="the same place"):
        Targets.at(Path("-"), Path("-"), force=False).check()


def test_a_pipe_or_device_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    target = Target(pipe)
    target.check()
    target.write([b"one ", b"two"])
    assert os.read(reader, 100) == b"one two"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("real")
    Target(link, force=True).write([b"new"])
    assert link.is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [(".", "is a directory"), ("none/out", "there is no directory"), ("old", "exists already")],
)
def test_what_would_go_wrong_later_is_said_now(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "old").touch()
    with pytest.raises(CommandFailed, match=sentence):
        Target(tmp_path / name).check()


def test_a_full_disk_is_one_sentence() -> None:
    with pytest.raises(CommandFailed, match="/dev/full cannot be written: No space left"):
        Target(Path("/dev/full")).write([b"x" * 100_000])


def test_appending_adds_all_or_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    target = Target(out, appends=True)
    target.write([b"one\n"])
    with pytest.raises(CommandFailed, match="broke off"):
        target.write(breaking())
    target.check()
    target.write([b"two\n", b"three\n"])
    assert out.read_bytes() == b"one\ntwo\nthree\n"


def test_a_growing_file_never_replaces_another(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Target(out).growing() as file:
        file.write(b"one\n")
        assert out.read_bytes() == b"one\n"
    with (
        pytest.raises(CommandFailed, match="cannot be written: File exists"),
        Target(out).growing(),
    ):
        pass
    with Target(out, force=True).growing():
        pass
    Target(out).remove_empty()
    assert not out.exists()
