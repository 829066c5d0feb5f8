"""``batchd run`` killed at each step of handing its results over, and run again.

The child dies before its nth call of the system that changes a name or syncs one, for every n, by
``_exit``: nothing is tidied up behind it. Then another life hands over what is not there yet.
"""

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from batchd.disk import Disk
from batchd.ids import batch_tag
from batchd.model import BatchRecord, Counts, Reply, RequestLine
from batchd.oneshot.handover import Target, Targets, deliver
from batchd.oneshot.place import Begun, locked
from batchd.spool import Spool
from batchd.states import BatchStatus
from batchd.wire.lines import reply_line

STEPS = ("link", "unlink", "rename", "replace", "rmdir", "mkdir", "fsync", "fchmod")
DIED, DONE = 99, 0
MOST_STEPS = 60
RECORD = BatchRecord(
    id="batch_" + "0" * 24 + "0123abcd",
    owner="local",
    status=BatchStatus.COMPLETED,
    endpoint="/v1/embeddings",
    input_file_id="file-in",
    completion_window="24h",
    output_expires_after=0,
    created_at=0,
    expires_at=0,
    counts=Counts(3, 2, 1),
    output_file_id="file-out",
    error_file_id="file-err",
)


def result(index: int, status_code: int) -> bytes:
    reply = Reply(status_code=status_code, request_id="req", body=b"{}")
    line = RequestLine(index, f"line {index}", "m", b"{}")
    return reply_line(batch_tag(RECORD.id), line, reply)


OUTPUT = result(0, 200) + result(2, 200)
ERRORS = result(1, 400)


class NoLinks(Disk):
    """As if the results were on another filesystem than the state."""

    def link_or_copy(self, source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        self._copy(source, target)
        self.sync_directory(target.parent)


class HandOver:
    """A run that has ended, in its state directory; ``live`` is one life that hands it over."""

    def __init__(self, folder: Path, disk: Disk, *, force: bool, in_order: bool) -> None:
        folder.mkdir()
        self.output, self.errors = folder / "out.jsonl", folder / "out.errors.jsonl"
        self.state = folder / "out.jsonl.batchd"
        self.folder = folder
        self._disk = disk
        self._in_order = in_order
        self._targets = Targets(
            Target(path=self.output, mode=0o644, force=force),
            Target(path=self.errors, mode=0o644, force=force),
        )
        if force:
            self.output.write_text("an older one\n")
        with locked(self.state, disk) as place:
            (self.state / "files").mkdir()
            (self.state / "files" / "file-out").write_bytes(result(2, 200) + result(0, 200))
            if in_order is False:
                (self.state / "files" / "file-out").write_bytes(OUTPUT)
            (self.state / "files" / "file-err").write_bytes(ERRORS)
            word = Begun(batch_id=RECORD.id, input_file_id="", input="", sha256="", endpoint="")
            place.begin(word)

    def live(self) -> None:
        """As ``batchd run`` does once its batch has ended."""
        with locked(self.state, self._disk) as place:
            if place.begun() is None:
                place.settle("", "", "", force=False)
                return
            spool = Spool(self.state, self._disk)
            deliver(place, spool, RECORD, self._targets, in_order=self._in_order)
            place.end()

    def whole(self) -> bool:
        return self.output.read_bytes() == OUTPUT and self.errors.read_bytes() == ERRORS


def dies_at(nth: int, work: Callable[[], None]) -> bool:
    """Do ``work`` in a child that dies before its nth step; whether it came so far."""
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in {DIED, DONE}
        return code == DIED
    left = [nth]

    def step(call: Callable[..., Any], *args: object, **kwargs: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            os._exit(DIED)
        return call(*args, **kwargs)

    try:
        for name in STEPS:
            call = cast("Callable[..., Any]", getattr(os, name))
            setattr(os, name, functools.partial(step, call))
        work()
        os._exit(DONE)
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    ("disk", "force", "in_order"),
    [
        pytest.param(Disk(), False, False, id="links"),
        pytest.param(Disk(), True, True, id="links, over an older file, in order"),
        pytest.param(NoLinks(), False, True, id="copies, in order"),
        pytest.param(NoLinks(), True, False, id="copies, over an older file"),
    ],
)
def test_a_kill_at_any_step_of_the_handing_over_leaves_whole_files_or_none(
    tmp_path: Path, disk: Disk, *, force: bool, in_order: bool
) -> None:
    nth = 1
    while True:
        over = HandOver(tmp_path / f"life-{nth}", disk, force=force, in_order=in_order)
        died = dies_at(nth, over.live)
        if over.errors.exists():
            assert over.errors.read_bytes() == ERRORS
        if over.output.exists():
            assert over.output.read_bytes() in {OUTPUT, b"an older one\n"}
        was_whole = over.output.exists() and over.errors.exists() and over.whole()
        over.live()
        assert over.whole()
        assert {path.name for path in over.folder.iterdir()} == {"out.jsonl", "out.errors.jsonl"}
        if not died:
            assert was_whole
            break
        nth += 1
        assert nth < MOST_STEPS
        shutil.rmtree(over.folder)
    assert nth > 15
