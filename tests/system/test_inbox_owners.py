"""A key, a client of the Unix socket and a dropped file of one Unix user are one owner."""

import hashlib
import http.client
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.jobs import backends, request_lines
from tests.support.model_process import ModelProcess
from tests.support.waiting import wait_until
from tests.system import strangers
from tests.system.strangers import ANNA, BATCHD, EVE, USERS, User

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(60),
    pytest.mark.skipif(strangers.missing() is not None, reason=str(strangers.missing())),
]

KEY = "key-of-anna"


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="batchd-owners-") as base:
        place = Path(base)
        place.chmod(0o755)
        strangers.make_inbox(place / "inbox")
        # As the documents say: whatever is made in it is for the group.
        (place / "socket").mkdir()
        os.chown(place / "socket", BATCHD, USERS)
        (place / "socket").chmod(0o2750)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        (place / "keys").write_text(f"anna sha256:{digest} uid={ANNA}\n")
        yield place


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ModelProcess]:
    with ModelProcess(tmp_path) as model:
        yield model


@pytest.fixture
def batchd(place: Path, model: ModelProcess) -> Iterator[BatchdProcess]:
    batchd = strangers.daemon(
        place / "batchd",
        {
            "backends": backends(model.base_url),
            "inbox": {
                "directory": str(place / "inbox"),
                "settle": "100ms",
                "rescan_every": "1s",
                "max_files_per_user": 2,
            },
            "auth": {"keys_file": str(place / "keys"), "unix_owners": True},
        },
    )
    with batchd:
        listen = [f"127.0.0.1:{batchd.port}", f"unix:{place}/socket/batchd.sock"]
        text = batchd.config.read_text().replace(json.dumps(listen[:1]), json.dumps(listen))
        batchd.config.write_text(text)
        batchd.restart()
        yield batchd


def listed_by_key(batchd: BatchdProcess) -> list[str]:
    with closing(http.client.HTTPConnection("127.0.0.1", batchd.port)) as connection:
        connection.request("GET", "/v1/batches", headers={"Authorization": f"Bearer {KEY}"})
        return [batch["id"] for batch in json.load(connection.getresponse())["data"]]


def test_a_key_a_peer_and_a_dropped_file_are_one_owner(batchd: BatchdProcess, place: Path) -> None:
    socket = str(place / "socket/batchd.sock")
    statuses = [place / f"inbox/outbox/{name}.status.json" for name in ("annas", "eves")]
    with User(ANNA, place / "inbox") as anna, User(EVE, place / "inbox") as eve:
        text = request_lines(2).decode()
        assert anna.do("good", "annas.jsonl", text=text) == "done"
        assert eve.do("good", "eves.jsonl", text=text) == "done"
        wait_until(lambda: all(status.exists() for status in statuses), within=15)
        annas, eves = (json.loads(status.read_bytes())["id"] for status in statuses)
        assert anna.do("ask", target=socket) == annas
        assert eve.do("ask", target=socket) == eves
        assert listed_by_key(batchd) == [annas]
        # The names of users change at a reload, for dropped files as for all else.
        keys = place / "keys"
        keys.write_text(keys.read_text().replace("anna ", "bert "))
        os.kill(batchd.pid, 1)
        wait_until(lambda: "config_reloaded" in batchd.log_text())
        assert anna.do("good", "berts.jsonl", text=text) == "done"
        wait_until((place / "inbox/done/berts.jsonl").exists, within=15)
        berts = json.loads((place / "inbox/outbox/berts.status.json").read_bytes())["id"]
        assert anna.do("ask", target=socket) == berts
        assert listed_by_key(batchd) == [berts]


def test_one_users_sidecar_says_nothing_of_anothers_file(
    batchd: BatchdProcess, place: Path
) -> None:
    text = request_lines(2).decode()
    with User(ANNA, place / "inbox") as anna, User(EVE, place / "inbox") as eve:
        assert eve.do("put", "annas.toml", text="priority = 9\n") == "done"
        assert anna.do("put", "annas.toml", text="priority = 1\n") == "PermissionError"
        assert anna.do("put", "annas.jsonl", text=text) == "done"
        status = place / "inbox/outbox/annas.status.json"
        wait_until(status.exists, within=15)
    assert json.loads(status.read_bytes())["batchd"]["priority"] == 0
    assert (place / "inbox/annas.toml").stat().st_uid == EVE
    assert batchd.exit_code is None


def test_one_users_waiting_files_do_not_delay_anothers(
    batchd: BatchdProcess, model: ModelProcess, place: Path
) -> None:
    inbox, text = place / "inbox", request_lines(2).decode()
    model.set(delay=600)
    told = inbox / f"outbox/waiting.uid-{EVE}.json"
    with User(ANNA, inbox) as anna, User(EVE, inbox) as eve:
        for number in range(6):
            assert eve.do("put", f"eve-{number}.jsonl", text=text) == "done"
        wait_until(lambda: told.exists() and json.loads(told.read_bytes())["files"] == 4, within=15)
        assert eve.do("read", target=str(told)) == "done"
        assert anna.do("put", "annas.jsonl", text=text) == "done"
        wait_until((inbox / "outbox/annas.status.json").exists, within=15)
        model.set(delay=0)
        batchd.restart()
        wait_until(lambda: len(list((inbox / "done").iterdir())) == 7, within=20)
        wait_until(lambda: not told.exists())
    assert batchd.log_text().count("inbox_share_used") <= 2, "once in each life"
