"""The inbox under strangers: everything that a dropped file can be, while the daemon is killed.

Two other users drop good files, with options and without, some of them dated after what fits into
64 bits, and every trap of the table; the copies of some are deleted through the API as soon as they
can be seen there. The daemon runs as a user of its own and is killed again and again between
pick-up and delivery. Each good file must be one batch with one set of results, each bad one a
report, and nothing else touched.
"""

import hashlib
import json
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.checker import Account, check
from tests.support.jobs import backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.model_settings import Settings
from tests.support.waiting import wait_until
from tests.system import strangers
from tests.system.strangers import ANNA, EVE, Deleter, User

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(strangers.missing() is not None, reason=str(strangers.missing())),
]

SEED = int(os.environ.get("INBOX_SEED", "5"))
KILLS = 10
SLOTS = 8
LINES = 12
MOST = 1 << 20
SHARE = 6
SIDECAR = 'priority = 2\nmetadata = {{ of = "{name}" }}\n'
UNDELIVERED = "SELECT 1 FROM inbox_claim WHERE delivered_at IS NULL"
SHADOW = Path("/etc/shadow")
KEY = "key-of-anna"
AFTER_SQLITE = 10_413_792_000  # the year 2300, in nanoseconds more than 64 bits hold
# Copies that their owner deletes: each is one batch all the same, which may fail for it.
DELETED = [f"deleted-{number}.jsonl" for number in range(KILLS)]

TRAPS = {
    "link.jsonl": "not_a_file",
    "pipe.jsonl": "not_a_file",
    "socket.jsonl": "not_a_file",
    "directory.jsonl": "not_a_file",
    "hard.jsonl": "hard_link",
    "unreadable.jsonl": "unreadable",
    "large.jsonl": "file_too_large",
    "growing.jsonl": "file_too_large",
    "garbage.jsonl": "invalid_file",
    "two words.jsonl": "invalid_name",
    "two\nlines.jsonl": "invalid_name",
    "\udcff\udcfe.jsonl": "invalid_name",
    "unknown.jsonl": "invalid_sidecar",
    "side-link.jsonl": "invalid_sidecar",
}
SAFE_NAMES = {
    "two words.jsonl": "two_words",
    "two\nlines.jsonl": "two_lines",
    "\udcff\udcfe.jsonl": "_xff_xfe",
}


class Good(msgspec.Struct):
    """A file of which a batch must come."""

    name: str
    text: str
    owner: str
    has_sidecar: bool

    @property
    def stem(self) -> str:
        return self.name.removesuffix(".jsonl")


class Stage:
    """The daemon, its inbox, and those who drop files."""

    def __init__(self, place: Path, model: ModelProcess, batchd: BatchdProcess) -> None:
        self.inbox = place / "inbox"
        self.secret = place / "secret"
        self.model = model
        self.batchd = batchd
        self.chance = random.Random(SEED)  # noqa: S311 - when to kill
        self.good: list[Good] = []
        self.amid = 0  # batches that a kill met between pick-up and delivery
        self.replaced = {name: request_lines(2, prefix=name).decode() for name in ("old", "new")}

    def drop(
        self, user: User, name: str, *, in_pieces: bool = False, dated: Collection[str] = ()
    ) -> None:
        """``dated``: which of ``date`` (the file's) and ``sidecar_date`` is in the year 2300."""
        stem = name.removesuffix(".jsonl")
        text = request_lines(LINES, prefix=stem).decode()
        owner = "anna" if user.uid == ANNA else f"uid-{user.uid}"
        has_sidecar = bool(dated) or (not in_pieces and self.chance.random() < 0.5)
        self.good.append(Good(name, text, owner, has_sidecar))
        sidecar = SIDECAR.format(name=name) if has_sidecar else None
        if in_pieces:
            assert user.do("in pieces", name, text=text, pause=0.05) == "done"
        else:
            dates = dict.fromkeys(dated, AFTER_SQLITE)
            assert user.do("good", name, text=text, sidecar=sidecar, **dates) == "done"

    def status(self, stem: str) -> dict[str, Any]:
        path = self.inbox / "outbox" / f"{stem}.status.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    def report(self, name: str) -> dict[str, Any]:
        stem = SAFE_NAMES.get(name, name.removesuffix(".jsonl"))
        path = self.inbox / "rejected" / f"{stem}.error.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    def rows(self, statement: str) -> list[Any]:
        database = self.batchd.state / "batchd.db"
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(statement).fetchall()

    def kill_at_some_moment(self) -> None:
        """Mostly while files are taken and brought, sometimes as soon as it listens."""
        end = time.monotonic() + self.chance.choice([0.0, 0.1, 0.3, 0.6])
        seen = self.batchd.log_text().count("inbox_taken")
        wait_until(
            lambda: (
                time.monotonic() >= end
                or self.batchd.log_text().count("inbox_taken") > seen + self.chance.randrange(3)
            )
        )
        self.batchd.kill()
        self.amid += len(self.rows(UNDELIVERED))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with (
        tempfile.TemporaryDirectory(prefix="batchd-inbox-") as base,
        ModelProcess(tmp_path, settings=Settings(delay=0.03)) as model,
    ):
        place = Path(base)
        place.chmod(0o755)
        strangers.make_inbox(place / "inbox")
        (place / "secret").write_bytes(request_lines(1, prefix="secret"))
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        (place / "keys").write_text(f"anna sha256:{digest} uid={ANNA}\n")
        settings: dict[str, object] = {
            "server": {"max_upload_size": MOST},
            "backends": backends(model.base_url, max_in_flight=SLOTS),
            "inbox": {
                "directory": str(place / "inbox"),
                "settle": "100ms",
                "rescan_every": "1s",
                "max_files_per_user": SHARE,
            },
            "auth": {"keys_file": str(place / "keys"), "unix_owners": True},
        }
        batchd = strangers.daemon(place / "batchd", settings)
        stage = Stage(place, model, batchd)
        try:
            yield stage
        finally:
            batchd.kill()


def set_traps(stage: Stage, user: User) -> None:
    """Every row of the table, and options that are traps."""
    text = request_lines(3, prefix="trap").decode()
    assert user.do("link", "link.jsonl", target=str(SHADOW)) == "done"
    assert user.do("pipe", "pipe.jsonl") == "done"
    assert user.do("socket", "socket.jsonl") == "done"
    assert user.do("directory", "directory.jsonl") == "done"
    assert user.do("hard link", "hard.jsonl", text=text) == "done"
    assert user.do("unreadable", "unreadable.jsonl", text=text) == "done"
    assert user.do("good", "large.jsonl", text="x" * (MOST + 1)) == "done"
    piece = "x" * (MOST // 8) + "\n"
    assert user.do("in pieces", "growing.jsonl", text=piece * 12, pause=0.05) == "done"
    for name in ("garbage.jsonl", "two words.jsonl", "two\nlines.jsonl", "\udcff\udcfe.jsonl"):
        assert user.do("good", name, text="hello" if name == "garbage.jsonl" else text) == "done"
    assert user.do("good", "unknown.jsonl", text=text, sidecar="prio = 1") == "done"
    assert user.do("link", "side-link.toml", target=str(SHADOW)) == "done"
    assert user.do("good", "side-link.jsonl", text=text) == "done"
    # Where the kernel allows it, the name of another's file is a second name, too.
    found = user.do("link to another's", "another.jsonl", target=str(stage.secret))
    assert found in {"done", "PermissionError"}


def check_good(stage: Stage, good: Good) -> int:
    """One batch, one set of results, both files in ``done/``; how many lines were sent twice."""
    outbox, done = stage.inbox / "outbox", stage.inbox / "done"
    errors = outbox / f"{good.stem}.errors.jsonl"
    batch = stage.status(good.stem)
    account = Account(
        input=good.text.encode(),
        output=(outbox / f"{good.stem}.output.jsonl").read_bytes(),
        errors=errors.read_bytes() if errors.exists() else None,
        batch=batch,
    )
    summary = check(account, log=stage.model.events, resent_allowed=KILLS * 2 * SLOTS)
    assert (summary.total, summary.output_lines) == (LINES, LINES)
    assert (done / good.name).read_text() == good.text
    assert (done / f"{good.stem}.toml").exists() == good.has_sidecar
    assert batch["metadata"] == ({"of": good.name} if good.has_sidecar else None)
    assert batch["batchd"]["priority"] == (2 if good.has_sidecar else 0)
    return summary.resent


def check_replaced(stage: Stage) -> int:
    """What lay there at a look became a batch, what came later another; how many these are."""
    seen: list[str] = []
    for path in (stage.inbox / "done").glob("replaced*.jsonl"):
        [stem] = [name for name, text in stage.replaced.items() if text == path.read_text()]
        seen.append(stem)
    assert len(seen) == len(set(seen)), "a file was taken twice"
    assert "new" in seen
    claimed = stage.rows("SELECT name FROM inbox_claim WHERE name = 'replaced.jsonl'")
    assert len(claimed) == len(seen)
    return len(seen)


def play(stage: Stage, anna: User, eve: User) -> None:
    """All is dropped, while the daemon is killed and started again."""
    for kill in range(KILLS):
        text = request_lines(1, prefix=f"deleted-{kill}").decode()
        assert anna.do("good", DELETED[kill], text=text) == "done"
        stage.drop(anna, f"anna-{kill}.jsonl")
        stage.drop(eve, f"eve-{kill}.jsonl", in_pieces=kill % 4 == 1)
        if kill == 1:
            set_traps(stage, eve)
        if kill == 2:
            stage.drop(eve, "date.jsonl", dated=["date"])
            stage.drop(eve, "sidecar-date.jsonl", dated=["sidecar_date"])
        if kill == KILLS // 2:
            replace(stage, anna, eve)
        stage.kill_at_some_moment()
        if kill % 3 == 0:
            stage.drop(eve, f"eve-down-{kill}.jsonl")
        stage.batchd.start()


def replace(stage: Stage, anna: User, eve: User) -> None:
    """A file is put in the place of another, which may have been taken; nobody else may do so."""
    assert anna.do("good", "replaced.jsonl", text=stage.replaced["old"]) == "done"
    stolen = eve.do("try to replace", "stolen.jsonl", victim="replaced.jsonl")
    assert stolen in {"PermissionError", "FileNotFoundError"}
    assert anna.do("good", "replaced.jsonl", text=stage.replaced["new"]) == "done"


def wait_for_the_end(stage: Stage) -> None:
    wait_until(
        lambda: all(stage.status(good.stem).get("status") == "completed" for good in stage.good),
        within=40,
    )
    ends = {"completed", "failed"}
    wait_until(
        lambda: all(
            stage.status(name.removesuffix(".jsonl")).get("status") in ends for name in DELETED
        ),
        within=20,
    )
    wait_until(lambda: all(stage.report(name) for name in TRAPS), within=10)
    # A directory is reported and stays.
    wait_until(lambda: all(path.is_dir() for path in stage.inbox.glob("*.jsonl")))
    wait_until(lambda: not stage.rows(UNDELIVERED), within=20)


def check_each_is_one_batch(stage: Stage) -> int:
    """Of each good file, and of no other; how many batches these are."""
    pieces = check_replaced(stage)
    claims = stage.rows("SELECT name, count(*) FROM inbox_claim GROUP BY name")
    assert dict(claims) == {
        **{good.name: 1 for good in stage.good},
        **dict.fromkeys(DELETED, 1),
        "replaced.jsonl": pieces,
    }
    owners = dict(stage.rows("SELECT id, owner FROM batch WHERE source = 'inbox'"))
    assert len(owners) == len(stage.good) + len(DELETED) + pieces
    assert all(owners[stage.status(good.stem)["id"]] == good.owner for good in stage.good)
    assert stage.rows("SELECT count(*) FROM inbox_sidecar") == [(0,)]
    return len(owners)


def check_nothing_else_is_there(stage: Stage) -> None:
    kinds = ("output.jsonl", "status.json")
    results = {f"{good.stem}.{kind}" for good in stage.good for kind in kinds}
    found = {path.name for path in (stage.inbox / "outbox").iterdir()}
    others = found - results
    assert all(name.startswith(("replaced.", "deleted-")) for name in others), others
    assert results <= found


def state_of(path: Path) -> tuple[int, int, bytes]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, path.read_bytes()


def test_strangers_files_while_the_daemon_is_killed(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    before = [state_of(path) for path in (SHADOW, stage.secret)]
    stage.batchd.start()
    with User(ANNA, stage.inbox) as anna, User(EVE, stage.inbox) as eve:
        with Deleter(stage.batchd.port, KEY, "deleted-") as deleter:
            play(stage, anna, eve)
            wait_for_the_end(stage)
        results = stage.inbox / "outbox" / f"{stage.good[0].stem}.output.jsonl"
        assert anna.do("read", target=str(results)) == "done"
    resent = sum(check_good(stage, good) for good in stage.good)
    assert {name: stage.report(name)["code"] for name in TRAPS} == TRAPS
    batches = check_each_is_one_batch(stage)
    check_nothing_else_is_there(stage)
    assert before == [state_of(path) for path in (SHADOW, stage.secret)]
    assert "batchd_died" not in stage.batchd.log_text()
    assert stage.batchd.exit_code is None
    waits = stage.batchd.log_text().count("inbox_share_used")
    with capsys.disabled():
        print(  # noqa: T201 - the figures are for people
            f"\n{len(stage.good)} good files and {len(TRAPS)} traps of 2 users, {KILLS} kills, "
            f"{stage.amid} times a batch was between pick-up and delivery: "
            f"{batches} batches, {len(stage.good) * LINES} lines once each, {resent} sent twice, "
            f"{deleter.deleted} copies deleted, {waits} waits for a share, "
            f"{time.monotonic() - began:.1f} s (seed {SEED})"
        )
