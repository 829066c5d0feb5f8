"""The parts of the inbox: what is complete, what is refused, and that nothing is overwritten."""

import asyncio
import errno
import json
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from batchd.errors import ConfigError, InvalidRequest, TooLarge
from batchd.inbox import refusals
from batchd.inbox.directories import Directories, Leaving
from batchd.inbox.folder import Folder
from batchd.inbox.numbering import numbered_from_free
from batchd.inbox.refusals import Refused
from batchd.inbox.settling import Arrival, Seen, Settling, Told
from batchd.inbox.shares import Shares, mark_of_user
from batchd.inbox.statuses import status
from batchd.inbox.watch import listen, watching
from batchd.model import BatchRecord, InboxClaim, LineError
from batchd.states import BatchStatus
from batchd.store.inbox import Share
from tests.support.waiting import until

SEEN = Seen(
    name="a.jsonl",
    mode=stat.S_IFREG | 0o644,
    device=1,
    inode=2,
    links=1,
    uid=0,
    size=3,
    mtime_ns=4,
    ctime_ns=5,
)
LISTING = {"a.jsonl": SEEN}
CLAIM = InboxClaim(
    device=1, inode=2, mtime_ns=3, size=4, uid=0, name="a.jsonl", stem="a", batch_id="batch_1"
)
STATUS = b'{"id":"batch_1","status":"completed"}'
GROWN = {"a.jsonl": msgspec.structs.replace(SEEN, size=9)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


@pytest.fixture
def directories(path: Path) -> Iterator[Directories]:
    with Directories.opened(path) as directories:
        yield directories


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder.at(tmp_path)
    yield folder
    folder.close()


def drop(directories: Directories, path: Path, name: str, text: str = "text") -> Seen:
    (path / name).write_text(text)
    seen = directories.inbox.look(name)
    assert seen is not None
    return seen


def leaving(original: Seen | None, sidecar: Seen | None = None, stem: str = "a") -> Leaving:
    return Leaving(
        stem=stem,
        original=original,
        sidecar=sidecar,
        sidecar_identity=sidecar.identity if sidecar else None,
    )


def blind_to(hidden: str) -> Callable[[Folder, str], Seen | None]:
    """A look that one name cannot be seen with, as a mount of another user."""
    look = Folder.look

    def look_in_vain(folder: Folder, name: str) -> Seen | None:
        if name == hidden:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return look(folder, name)

    return look_in_vain


def names(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


# -- settling


def test_a_file_renamed_into_place_is_complete_at_once() -> None:
    settling = Settling(2, 60)
    [arrival] = settling.look(LISTING, {"a.jsonl": Told.MOVED}, 100)
    assert arrival.certain


def test_a_file_that_was_closed_is_complete_when_it_has_settled() -> None:
    settling = Settling(2, 60)
    assert settling.look(LISTING, {"a.jsonl": Told.CLOSED}, 100) == []
    assert settling.next_due() == 102
    [arrival] = settling.look(LISTING, {}, 102)
    assert arrival.certain


def test_a_file_that_changes_starts_to_settle_anew() -> None:
    settling = Settling(2, 60)
    settling.look(LISTING, {}, 100)
    assert settling.look(GROWN, {}, 102) == []
    assert settling.next_due() == 104


def test_a_file_of_which_nothing_was_told_becomes_certain_only_later() -> None:
    settling = Settling(2, 60)
    settling.look(LISTING, {}, 100)
    assert [arrival.certain for arrival in settling.look(LISTING, {}, 103)] == [False]
    assert settling.certain_at("a.jsonl", 103) == 160
    assert [arrival.certain for arrival in settling.look(LISTING, {}, 160)] == [True]


def test_what_is_postponed_waits_unless_it_changes() -> None:
    settling = Settling(2, 60)
    settling.look(LISTING, {"a.jsonl": Told.MOVED}, 100)
    settling.postpone("a.jsonl")
    assert settling.look(LISTING, {}, 1000) == []
    settling.look(GROWN, {}, 1001)
    assert settling.next_due() == 1003


def test_an_event_during_a_look_is_for_the_next_one() -> None:
    settling = Settling(2, 60)
    told = settling.take_told()
    settling.tell("a.jsonl", Told.MOVED)
    settling.tell("a.jsonl", Told.CLOSED)
    settling.look({}, told, 100)
    assert settling.take_told() == {"a.jsonl": Told.MOVED}


def test_only_so_many_names_are_remembered_until_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batchd.inbox.settling._MOST_TOLD", 2)
    settling = Settling(2, 60)
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        settling.tell(name, Told.CLOSED)
    settling.tell("b.jsonl", Told.MOVED)
    assert settling.take_told() == {"a.jsonl": Told.CLOSED, "b.jsonl": Told.MOVED}
    settling.tell("c.jsonl", Told.MOVED)
    assert settling.take_told() == {"c.jsonl": Told.MOVED}


def test_a_name_that_has_gone_is_forgotten() -> None:
    settling = Settling(2, 60)
    settling.look(LISTING, {}, 100)
    settling.look({}, {}, 101)
    settling.postpone("a.jsonl")
    assert settling.next_due() == float("inf")


def test_users_take_turns() -> None:
    settling = Settling(2, 60)
    listing: dict[str, Seen] = {}
    for at, (name, uid) in enumerate([("a", 1), ("b", 1), ("c", 1), ("d", 2), ("e", 2)]):
        listing[name] = msgspec.structs.replace(SEEN, name=name, uid=uid)
        settling.look(listing, {}, 100 + at)
    found = settling.look(listing, {}, 200)
    assert [arrival.seen.name for arrival in found] == ["a", "d", "b", "e", "c"]


def test_whoever_had_a_turn_is_behind_the_others_at_the_next_look() -> None:
    settling = Settling(2, 60)
    uids = {"a": 1, "b": 1, "c": 1, "d": 2, "e": 3}
    listing = {
        name: msgspec.structs.replace(SEEN, name=name, uid=uid) for name, uid in uids.items()
    }
    settling.look(listing, {}, 100)
    turns: list[str] = []
    for at in range(5):
        arrival = settling.look(listing, {}, 200 + at)[0]
        settling.served(arrival.seen.uid)
        turns.append(arrival.seen.name)
        del listing[arrival.seen.name]
    assert turns == ["a", "d", "e", "b", "c"]


def test_what_was_put_off_may_be_resumed() -> None:
    settling = Settling(2, 60)
    settling.look(LISTING, {}, 100)
    settling.postpone("a.jsonl")
    assert settling.look(LISTING, {}, 200) == []
    settling.resume(["a.jsonl", "unknown.jsonl"])
    assert len(settling.look(LISTING, {}, 200)) == 1


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        ((1 << 64) - 1, -1),
        (10_413_792_000 * 10**9, 10_413_792_000 * 10**9 - (1 << 64)),
        ((1 << 63) - 1, (1 << 63) - 1),
        (-(1 << 63), -(1 << 63)),
        (-(1 << 63) - 1, (1 << 63) - 1),
    ],
)
def test_the_identity_of_any_file_fits_into_sqlites_integers(number: int, kept: int) -> None:
    seen = msgspec.structs.replace(SEEN, device=number, inode=number, mtime_ns=number)
    assert seen.identity == (kept, kept, kept, 3)


# -- hearing


async def test_of_names_that_can_be_no_dropped_files_nothing_is_told(
    folder: Folder, tmp_path: Path
) -> None:
    told: dict[str, Told] = {}
    rings = 0

    def ring() -> None:
        nonlocal rings
        rings += 1

    with watching(folder) as inotify:
        listener = asyncio.create_task(listen(inotify, told.__setitem__, ring))
        for name in (".a.jsonl", "a.tmp", "a.toml", "done", "a.jsonl"):
            (tmp_path / name).write_bytes(b"")
        await until(lambda: "a.jsonl" in told)
        listener.cancel()
    assert told == {"a.jsonl": Told.CLOSED}
    assert rings > 0


async def test_whoever_renames_without_end_does_not_have_the_loop_to_themselves(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.inbox.watch._BURST", 10)
    monkeypatch.setattr("batchd.inbox.watch._PAUSE", 1000)
    told: list[str] = []
    with watching(folder) as inotify:
        file = tmp_path / "0"
        file.touch()
        for number in range(1, 50):
            file = file.rename(tmp_path / str(number))
        listener = asyncio.create_task(
            listen(inotify, lambda name, _: told.append(name), lambda: None)
        )
        await until(lambda: len(told) > 0)
        for _ in range(50):
            await asyncio.sleep(0)
        listener.cancel()
    assert 0 < len(told) <= 10


# -- shares


def arrivals(*sizes: int, uid: int = 1) -> list[Arrival]:
    return [
        Arrival(msgspec.structs.replace(SEEN, name=f"{uid}-{at}", uid=uid, size=size), certain=True)
        for at, size in enumerate(sizes)
    ]


def sizes(found: list[Arrival]) -> list[int]:
    return [arrival.seen.size for arrival in found]


def test_what_is_on_the_way_counts_against_the_share() -> None:
    now, later = Shares(3, 0).divide(arrivals(1, 2, 3), {1: Share(1, 99)})
    assert (sizes(now), sizes(later)) == ([1, 2], [3])
    now, later = Shares(0, 100).divide(arrivals(1, 2, 3), {1: Share(1, 99)})
    assert (sizes(now), sizes(later)) == ([1], [2, 3])


def test_no_bound_is_no_bound() -> None:
    now, later = Shares(0, 0).divide(arrivals(*[1 << 40] * 9), {1: Share(1 << 30, 1 << 60)})
    assert (len(now), later) == (9, [])


def test_one_users_share_is_not_anothers() -> None:
    mixed = arrivals(5, 5, 5) + arrivals(5, 5, uid=2)
    now, later = Shares(1, 0).divide(mixed, {3: Share(9, 9)})
    assert [arrival.seen.name for arrival in now] == ["1-0", "2-0"]
    assert [arrival.seen.name for arrival in later] == ["1-1", "1-2", "2-1"]
    reports = Shares(1, 0).reports(later)
    assert {uid: json.loads(report)["files"] for uid, report in reports.items()} == {1: 2, 2: 1}
    for uid, report in reports.items():
        assert report.startswith(mark_of_user(uid))


def test_a_large_file_that_waits_is_not_passed_by_small_ones() -> None:
    now, later = Shares(0, 100).divide(arrivals(90, 20, 1), {})
    assert (sizes(now), sizes(later)) == ([90], [20, 1])


def test_what_will_be_rejected_needs_no_share() -> None:
    fifo = Arrival(msgspec.structs.replace(SEEN, mode=stat.S_IFIFO, uid=1), certain=True)
    shares = Shares(1, 100)
    now, later = shares.divide([*arrivals(101), fifo, *arrivals(50)], {})
    assert (sizes(now), later) == ([101, 3, 50], [])
    with pytest.raises(Refused, match="101 bytes; a user's files may have 100 at once"):
        shares.check(arrivals(101)[0].seen)
    shares.check(arrivals(100)[0].seen)


# -- refusals


@pytest.mark.parametrize(
    "name", ["a.jsonl", "A-b_c.d.jsonl", "-.jsonl", "0.jsonl.jsonl", "x" * 128 + ".jsonl"]
)
def test_good_names_are_taken_as_they_are(name: str) -> None:
    refusals.check(msgspec.structs.replace(SEEN, name=name))
    assert refusals.safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a b.jsonl", "a_b.jsonl"),
        ("a\nb.jsonl", "a_b.jsonl"),
        ("ä.jsonl", "_.jsonl"),
        (os.fsdecode(b"\xff.jsonl"), "_xff.jsonl"),
        ("notes.txt", "notes.txt"),
        (".jsonl", "jsonl"),
        ("jsonl", "jsonl"),
        ("..", "unnamed"),
        ("x" * 129 + ".jsonl", "x" * 128),
        ("a.JSONL", "a.JSONL"),
    ],
)
def test_bad_names_are_refused_and_made_safe(name: str, safe: str) -> None:
    with pytest.raises(Refused, match="names") as caught:
        refusals.check(msgspec.structs.replace(SEEN, name=name))
    assert refusals.safe_name(name) == safe
    report = json.loads(refusals.refusal_report(name, caught.value))
    assert list(report) == ["file", "code", "message", "line", "what_to_do"]
    assert report["code"] == "invalid_name"


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFIFO, stat.S_IFLNK, stat.S_IFSOCK])
def test_only_ordinary_files_are_taken(kind: int) -> None:
    with pytest.raises(Refused) as caught:
        refusals.check(msgspec.structs.replace(SEEN, mode=kind | 0o644))
    assert caught.value.code == "not_a_file"


def test_a_file_with_a_second_name_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        refusals.check(msgspec.structs.replace(SEEN, links=2))
    assert caught.value.code == "hard_link"


def test_what_an_upload_would_be_told_is_told_in_a_report() -> None:
    assert refusals.unacceptable(TooLarge("big")).code == "file_too_large"
    assert refusals.unacceptable(InvalidRequest("bad")).code == "invalid_file"
    assert refusals.unacceptable(InvalidRequest("bad", code="x")).message == "bad"


def test_a_failed_batch_is_reported_with_each_of_its_faults() -> None:
    claim = InboxClaim(
        device=1, inode=2, mtime_ns=3, size=4, uid=0, name="a.jsonl", stem="a", batch_id="b"
    )
    faults = [LineError("one", "First.", line=3), LineError("two", "Second.", line=9)]
    report = json.loads(refusals.failure_report(claim, faults))
    assert (report["file"], report["code"], report["line"]) == ("a.jsonl", "one", 3)
    assert [(error["line"], error["code"]) for error in report["errors"]] == [
        (3, "one"),
        (9, "two"),
    ]


# -- folders


def test_what_is_published_is_never_overwritten(folder: Folder, tmp_path: Path) -> None:
    assert folder.publish("a", b"one")
    assert folder.publish("a", b"one"), "the same bytes are there already"
    assert not folder.publish("a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


def test_a_link_is_not_followed_by_what_is_published(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("elsewhere")
    assert not folder.publish("a", b"one")
    assert names(tmp_path) == ["a"]


def test_what_a_crash_left_of_publishing_is_replaced(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / ".a.tmp").symlink_to("elsewhere")
    assert folder.publish("a", b"one")
    assert names(tmp_path) == ["a"]


def test_publishing_works_without_hard_links(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert folder.publish("a", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert names(tmp_path) == ["a"]


def test_what_is_moved_never_overwrites(directories: Directories, path: Path) -> None:
    (path / "done" / "a.jsonl").write_text("old")
    directories.move_to_done(leaving(drop(directories, path, "a.jsonl", "new")))
    assert (path / "done" / "a.jsonl").read_text() == "old"
    assert (path / "done" / "a.2.jsonl").read_text() == "new"


def test_a_name_taken_by_a_move_that_a_crash_cut_short_is_used_again(
    directories: Directories, path: Path
) -> None:
    (path / "done" / "a.jsonl").touch(mode=0o000)
    directories.move_to_done(leaving(drop(directories, path, "a.jsonl", "new")))
    assert names(path / "done") == ["a.jsonl"]
    assert (path / "done" / "a.jsonl").read_text() == "new"


def test_a_file_put_in_the_place_of_one_that_was_taken_stays(
    directories: Directories, path: Path
) -> None:
    seen = drop(directories, path, "a.jsonl", "old")
    (path / "b").write_text("another")
    (path / "b").rename(path / "a.jsonl")
    assert not directories.move_to_done(leaving(seen))
    assert (path / "a.jsonl").read_text() == "another"
    assert names(path / "done") == []


def test_a_file_that_was_renamed_has_not_been_moved(directories: Directories, path: Path) -> None:
    seen = drop(directories, path, "a.jsonl")
    (path / "a.jsonl").rename(path / "b.jsonl")
    assert not directories.move_to_done(leaving(seen))
    assert names(path / "done") == []
    renamed = directories.inbox.look("b.jsonl")
    assert directories.move_to_done(leaving(renamed, stem="b"))
    assert names(path / "done") == ["b.jsonl"]


def test_a_file_that_gets_the_name_during_the_move_is_put_back(
    directories: Directories, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = drop(directories, path, "a.jsonl", "old")
    (path / "b").write_text("another")
    adopt = directories.done.adopt

    def late(source: Folder, name: str, new_name: str) -> None:
        (path / "b").rename(path / "a.jsonl")
        adopt(source, name, new_name)

    monkeypatch.setattr(directories.done, "adopt", late)
    assert not directories.move_to_done(leaving(seen))
    assert (path / "a.jsonl").read_text() == "another"
    assert names(path / "done") == []


def test_reports_of_one_name_at_the_same_time_are_each_whole(
    directories: Directories, path: Path
) -> None:
    """Both loops write them, in threads: what is refused, and what could not start."""
    together = threading.Barrier(2)

    def report(who: str) -> None:
        together.wait()
        for number in range(20):
            directories.report("a", f"{who}{number}".encode())

    def reject(who: str) -> None:
        together.wait()
        for number in range(20):
            seen = drop(directories, path, "a")
            directories.reject(seen, "a", f"{who}{number}".encode())

    threads = [threading.Thread(target=work, args=(work.__name__,)) for work in (report, reject)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {f"{who}{number}" for who in ("report", "reject") for number in range(20)}
    found = [file.read_text() for file in (path / "rejected").glob("*.error.json")]
    assert set(found) == wanted
    assert len(found) == len(wanted)


def test_a_rejected_file_lies_beside_its_report(directories: Directories, path: Path) -> None:
    assert directories.reject(drop(directories, path, "a.jsonl"), "a.jsonl", b"why")
    assert directories.reject(drop(directories, path, "a.jsonl"), "a.jsonl", b"why")
    assert directories.reject(drop(directories, path, "notes"), "notes", b"why")
    assert names(path / "rejected") == [
        "a.2.error.json",
        "a.2.jsonl",
        "a.error.json",
        "a.jsonl",
        "notes",
        "notes.error.json",
    ]


def test_a_directory_is_reported_once_and_left(directories: Directories, path: Path) -> None:
    (path / "folder").mkdir()
    seen = directories.inbox.look("folder")
    assert seen is not None
    assert directories.reject(seen, "folder", b"why")
    assert not directories.reject(seen, "folder", b"why")
    assert names(path / "rejected") == ["folder.error.json"]
    assert (path / "folder").is_dir()


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 7, 8, 1000, 1_000_000])
def test_the_next_number_of_a_name_is_found_with_few_questions(taken: int) -> None:
    asked: list[int] = []

    def is_free(name: str) -> bool:
        number = int(name.removeprefix("a").removeprefix(".") or 1)
        asked.append(number)
        return number > taken

    found = numbered_from_free("a", is_free)
    wanted = [f"a.{number}" if number > 1 else "a" for number in range(taken + 1, taken + 4)]
    assert [next(found) for _ in range(3)] == wanted
    assert len(asked) <= 2 * taken.bit_length() + 2


@pytest.mark.parametrize("kind", ["done", "rejected", "report", "outbox"])
def test_a_name_that_always_comes_again_does_not_take_longer_each_time(
    directories: Directories, path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for number in range(1, 500):
        stem = "a" if number == 1 else f"a.{number}"
        (path / "done" / f"{stem}.jsonl").touch()
        (path / "rejected" / f"{stem}.jsonl").touch()
        (path / "rejected" / f"{stem}.error.json").write_text("another")
        (path / "outbox" / f"{stem}.status.json").touch()
    seen = drop(directories, path, "a.jsonl", "new")
    look, looks = Folder.look, 0

    def counted(folder: Folder, name: str) -> Seen | None:
        nonlocal looks
        looks += 1
        return look(folder, name)

    monkeypatch.setattr(Folder, "look", counted)
    match kind:
        case "done":
            directories.move_to_done(leaving(seen))
            assert (path / "done" / "a.500.jsonl").read_text() == "new"
        case "rejected":
            directories.reject(seen, "a.jsonl", b"why")
            assert (path / "rejected" / "a.500.error.json").read_text() == "why"
        case "report":
            directories.report("a", b"why")
            assert (path / "rejected" / "a.500.error.json").read_text() == "why"
        case _:
            assert directories.outbox.free_stem("a", {"a.500", "a.501"}) == "a.502"
    assert looks < 100


def delivered(directories: Directories, claimed: str, results: dict[str, bytes]) -> str:
    claim = msgspec.structs.replace(CLAIM, stem=claimed)
    return directories.deliver(claim, results, STATUS, lambda _place, _more: None)


def test_results_of_one_batch_have_one_stem(directories: Directories, path: Path) -> None:
    (path / "outbox" / "a.errors.jsonl").write_text("of another batch")
    assert directories.outbox.free_stem("a", {"a.2"}) == "a.3"
    results = {"output.jsonl": b"out"}
    assert delivered(directories, "a", results) == "a.2"
    assert delivered(directories, "a.2", results) == "a.2", "a delivery again changes nothing"
    assert names(path / "outbox") == ["a.2.output.jsonl", "a.2.status.json", "a.errors.jsonl"]


def test_a_delivery_cut_short_is_completed_under_the_same_stem(
    directories: Directories, path: Path
) -> None:
    (path / "outbox" / "a.output.jsonl").write_text("out")
    assert delivered(directories, "a", {"output.jsonl": b"out"}) == "a"
    assert names(path / "outbox") == ["a.output.jsonl", "a.status.json"]


def test_a_status_is_replaced_by_later_ones_of_its_batch_only(
    directories: Directories, path: Path
) -> None:
    outbox, file = directories.outbox, path / "outbox" / "a.status.json"
    outbox.announce("a", "batch_1", b'{"id":"batch_1",1}')
    assert outbox.tell("a", "batch_1", b'{"id":"batch_1",2}')
    outbox.announce("a", "batch_1", b'{"id":"batch_1",1}')
    assert file.read_text() == '{"id":"batch_1",2}', "the first word is not the last"
    assert not outbox.tell("a", "batch_12", b'{"id":"batch_12",3}')
    assert file.read_text() == '{"id":"batch_1",2}'
    file.write_bytes(bytes(9))
    assert outbox.tell("a", "batch_1", b'{"id":"batch_1",3}'), "it was blank since a power cut"
    assert file.read_text() == '{"id":"batch_1",3}'
    assert names(path / "outbox") == ["a.status.json"]


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_a_status_replaces_no_trap(directories: Directories, path: Path, kind: str) -> None:
    victim, trap = path / "victim", path / "outbox" / "a.status.json"
    victim.write_text('{"id":"batch_1",')
    match kind:
        case "link":
            trap.symlink_to(victim)
        case "pipe":
            os.mkfifo(trap)
        case _:
            trap.mkdir()
    assert not directories.outbox.tell("a", "batch_1", b'{"id":"batch_1",2}')
    assert victim.read_text() == '{"id":"batch_1",'
    assert delivered(directories, "a", {}) == "a.2"
    assert names(path / "outbox") == ["a.2.status.json", "a.status.json"]


def test_a_status_does_not_stay_behind_when_results_get_another_stem(
    directories: Directories, path: Path
) -> None:
    directories.outbox.announce("a", "batch_1", STATUS)
    (path / "outbox" / "a.output.jsonl").write_text("of somebody else")
    assert delivered(directories, "a", {"output.jsonl": b"out"}) == "a.2"
    assert names(path / "outbox") == ["a.2.output.jsonl", "a.2.status.json", "a.output.jsonl"]


def test_a_batch_object_begins_with_what_a_status_is_known_by() -> None:
    record = BatchRecord(
        id="batch_1",
        owner="local",
        status=BatchStatus.VALIDATING,
        endpoint="/v1/embeddings",
        input_file_id="file-1",
        completion_window="24h",
        output_expires_after=3600,
        created_at=1,
        expires_at=2,
        output_file_id=None,
        error_file_id=None,
    )
    assert status(record).startswith(b'{"id":"batch_1",')


# -- pairs


def pair(directories: Directories, path: Path, name: str = "a") -> tuple[Seen, Seen]:
    sidecar = drop(directories, path, f"{name}.toml", "options")
    return drop(directories, path, f"{name}.jsonl", "requests"), sidecar


def test_a_sidecar_moves_along_under_the_same_number(directories: Directories, path: Path) -> None:
    (path / "done" / "a.toml").write_text("old")
    directories.move_to_done(leaving(*pair(directories, path)))
    directories.move_to_done(leaving(drop(directories, path, "a.jsonl", "alone")))
    assert names(path / "done") == ["a.2.jsonl", "a.2.toml", "a.3.jsonl", "a.toml"]
    assert (path / "done" / "a.2.toml").read_text() == "options"
    assert (path / "done" / "a.3.jsonl").read_text() == "alone"


def test_a_move_cut_short_is_completed_beside_the_sidecar(
    directories: Directories, path: Path
) -> None:
    (path / "done" / "a.jsonl").write_text("old")
    original, sidecar = pair(directories, path)
    directories.move_to_done(leaving(None, sidecar))
    assert names(path / "done") == ["a.2.toml", "a.jsonl"]
    rest = Leaving(stem="a", original=original, sidecar_identity=sidecar.identity)
    directories.move_to_done(rest)
    assert names(path / "done") == ["a.2.jsonl", "a.2.toml", "a.jsonl"]
    assert (path / "done" / "a.2.jsonl").read_text() == "requests"


def test_a_move_cut_short_is_completed_beside_the_sidecar_on_a_renumbered_device(
    directories: Directories, path: Path
) -> None:
    original, sidecar = pair(directories, path)
    directories.move_to_done(leaving(None, sidecar))
    renumbered = (sidecar.device + 1, *sidecar.identity[1:])
    directories.move_to_done(Leaving(stem="a", original=original, sidecar_identity=renumbered))
    assert names(path / "done") == ["a.jsonl", "a.toml"]


def test_a_sidecar_that_came_later_stays(directories: Directories, path: Path) -> None:
    original, sidecar = pair(directories, path)
    (path / "new").write_text("later")
    (path / "new").rename(path / "a.toml")
    directories.move_to_done(leaving(original, sidecar))
    assert names(path / "done") == ["a.jsonl"]
    assert (path / "a.toml").read_text() == "later"


def test_a_rejected_pair_lies_beside_its_report(directories: Directories, path: Path) -> None:
    (path / "rejected" / "a.toml").write_text("of another file")
    original, sidecar = pair(directories, path)
    assert directories.reject(original, "a.jsonl", b"why", sidecar)
    assert names(path / "rejected") == ["a.2.error.json", "a.2.jsonl", "a.2.toml", "a.toml"]


def test_a_directory_in_the_place_of_a_sidecar_stays(directories: Directories, path: Path) -> None:
    (path / "a.toml").mkdir()
    sidecar = directories.inbox.look("a.toml")
    assert directories.reject(drop(directories, path, "a.jsonl"), "a.jsonl", b"why", sidecar)
    assert names(path / "rejected") == ["a.error.json", "a.jsonl"]
    assert (path / "a.toml").is_dir()


def test_a_writer_is_noticed(directories: Directories, path: Path) -> None:
    with (path / "a.jsonl").open("w") as writer:
        dropped = directories.inbox.open("a.jsonl")
        assert dropped.has_writer() is True
        writer.write("x")
    assert dropped.has_writer() is False
    dropped.close()


# -- the directory itself


def test_the_directories_are_made(path: Path) -> None:
    with Directories.opened(path / "deeper") as directories:
        assert names(path / "deeper") == ["done", "outbox", "rejected"]
        assert directories.listing().seen == {}
        assert directories.listing().is_complete
        assert directories.is_current()
        (path / "deeper").rename(path / "elsewhere")
        assert not directories.is_current()


def test_what_is_unfinished_or_ours_is_not_listed(directories: Directories, path: Path) -> None:
    for name in (".a.jsonl", "a.jsonl.tmp", "a.jsonl"):
        (path / name).touch()
    assert list(directories.listing().seen) == ["a.jsonl"]


def test_what_a_crash_left_of_putting_a_file_back_is_not_listed(
    directories: Directories, path: Path
) -> None:
    (path / "a.jsonl").touch(mode=0o000)
    assert directories.listing().seen == {}


def test_a_name_that_cannot_be_looked_at_hides_no_other(
    directories: Directories, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (path / name).touch()
    assert directories.listing().is_complete
    monkeypatch.setattr(Folder, "look", blind_to("a.jsonl"))
    listing = directories.listing()
    assert list(listing.seen) == ["b.jsonl"]
    assert listing.unseen == {"a.jsonl": "Permission denied"}
    assert not listing.is_complete


def test_a_listing_during_which_a_file_is_renamed_is_not_complete(
    directories: Directories, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Folder.look

    def look_late(folder: Folder, name: str) -> Seen | None:
        (path / "a.jsonl").rename(path / "b.jsonl")
        # The clock of a filesystem may be a coarse one.
        os.utime(path, ns=(1, 1))
        return look(folder, name)

    (path / "a.jsonl").touch()
    monkeypatch.setattr(Folder, "look", look_late)
    listing = directories.listing()
    assert listing.seen == {}
    assert not listing.is_complete


def test_of_each_user_only_so_many_names_are_remembered(
    directories: Directories, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.inbox.listing._MOST_OF_USER", 2)
    for name in ("a", "b"):
        (path / name).touch()
    assert directories.listing().is_complete
    (path / "c").touch()
    listing = directories.listing()
    assert len(listing.seen) == 2
    assert listing.crowded == {os.geteuid()}
    assert not listing.is_complete


def test_of_many_users_as_many_names_are_remembered_as_of_one_that_has_few(
    directories: Directories, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the uids of a container has many users."""
    look = Folder.look

    def of_users(folder: Folder, name: str) -> Seen | None:
        seen = look(folder, name)
        uid, _, _ = name.partition("-")
        return msgspec.structs.replace(seen, uid=int(uid)) if seen and uid.isdigit() else seen

    monkeypatch.setattr(Folder, "look", of_users)
    monkeypatch.setattr("batchd.inbox.listing._MOST", 20)
    for uid in range(1, 5):
        for number in range(10):
            (path / f"{uid}-{number}").touch()
    (path / "9-0").touch()
    listing = directories.listing()
    found = Counter(seen.uid for seen in listing.seen.values())
    assert found == {1: 4, 2: 4, 3: 4, 4: 4, 9: 1}
    assert listing.crowded == {1, 2, 3, 4}
    assert not listing.is_complete


def test_of_more_users_than_there_is_room_for_some_wait(
    directories: Directories, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Folder.look

    def of_users(folder: Folder, name: str) -> Seen | None:
        seen = look(folder, name)
        return msgspec.structs.replace(seen, uid=int(name)) if seen and name.isdigit() else seen

    monkeypatch.setattr(Folder, "look", of_users)
    monkeypatch.setattr("batchd.inbox.listing._MOST", 3)
    for uid in range(8):
        (path / str(uid)).touch()
    listing = directories.listing()
    assert len(listing.seen) == 3
    assert listing.crowded == set(range(8)) - {seen.uid for seen in listing.seen.values()}


@pytest.mark.parametrize(
    ("mode", "is_guarded"), [(0o770, False), (0o750, True), (0o1770, True), (0o1777, True)]
)
def test_in_a_directory_of_a_group_only_the_sticky_bit_keeps_our_names(
    directories: Directories, path: Path, mode: int, *, is_guarded: bool
) -> None:
    path.chmod(mode)
    assert directories.is_guarded() is is_guarded


def test_a_planted_outbox_is_refused(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    (path / "outbox").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="outbox is not a directory"), Directories.opened(path):
        pass


def test_a_directory_open_to_everybody_must_be_sticky(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(ConfigError, match=r"chmod \+t"), Directories.opened(path):
        pass
    path.chmod(0o1777)
    with Directories.opened(path):
        pass


def test_a_file_in_the_place_of_the_directory_is_told(path: Path) -> None:
    path.write_text("a file")
    with pytest.raises(ConfigError, match="cannot be used"), Directories.opened(path):
        pass
