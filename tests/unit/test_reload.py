"""A changed configuration, taken while the daemon runs: all of it or nothing."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from batchd.api.auth import Keys
from batchd.bell import Bell
from batchd.config import BackendConfig, Config, parse
from batchd.errors import ConfigError, Unauthorized
from batchd.reload import Reloader, changes
from tests.support.fakes import FakeCaller, pool_of
from tests.support.waiting import until

ONE = '[[backends]]\nname = "a"\nbase_url = "http://a/v1"\n'
TWO = ONE + '[[backends]]\nname = "b"\nbase_url = "http://b/v1"\n'


def key_line(key: str) -> str:
    return f"anna sha256:{hashlib.sha256(key.encode()).hexdigest()}\n"


class Reloading:
    """A reloader that reads ``text``, and what it has done."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.bell = Bell()
        self.said: list[str] = []
        self.logged: list[str] = []
        self.loads = 0
        self.pool = pool_of({"a": FakeCaller(), "b": FakeCaller()})
        config = parse(text, "config.toml")
        self.keys = Keys(None)
        self.reloader = Reloader(
            config,
            self._load,
            bell=self.bell,
            pool=self.pool,
            keys=self.keys,
            configure_log=lambda fresh: self.logged.append(fresh.logging.level),
            say=self.said.append,
        )
        self._first = config

    def _load(self) -> Config:
        self.loads += 1
        return parse(self.text, "config.toml")

    async def open(self) -> None:
        await self.pool.replace(self._first.backends)

    async def take(self, text: str) -> None:
        self.text = text
        await self.reloader.reload()

    @property
    def backends(self) -> list[BackendConfig]:
        return [backend.config for backend in self.pool.backends]

    @property
    def names(self) -> list[str]:
        return [config.name for config in self.backends]


@pytest.fixture
async def it() -> Reloading:
    found = Reloading(ONE)
    await found.open()
    return found


def waiting_for_start(caplog: pytest.LogCaptureFixture) -> str:
    [*_, last] = [record for record in caplog.records if record.message == "config_reloaded"]
    return str(vars(last)["at_next_start"])


async def test_backends_keys_and_the_log_are_swapped(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(key_line("old"))
    path.chmod(0o640)
    it = Reloading(f"{ONE}[auth]\nkeys_file = '{path}'")
    await it.open()
    it.keys.replace(await asyncio.to_thread(Keys.read, path))
    assert it.keys.owner("Bearer old") == "anna"
    path.write_text(key_line("new"))
    await it.take(f"[logging]\nlevel = 'debug'\n{TWO}weight = 2\n[auth]\nkeys_file = '{path}'")
    assert it.names == ["a", "b"]
    assert it.backends[1].weight == 2
    assert it.logged == ["debug"]
    assert it.keys.owner("Bearer new") == "anna"
    with pytest.raises(Unauthorized):
        it.keys.owner("Bearer old")
    assert it.said == ["configuration reloaded"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (TWO + "[server]\nlisten = ['127.0.0.1:8401']", "server.listen cannot be changed"),
        (TWO + "[storage]\ndirectory = '/elsewhere'", "storage.directory cannot be changed"),
        ("local = true", "local cannot be changed"),
        (TWO + "colour = 3", "colour"),
        (TWO + "[", "not valid TOML"),
        (TWO + "[auth]\nkeys_file = '/no/such'", "auth.keys_file /no/such cannot be read"),
        ("", r"no model server is configured"),
    ],
)
async def test_what_is_wrong_or_cannot_change_is_refused_and_nothing_is_swapped(
    it: Reloading, text: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    await it.take("[logging]\nlevel = 'debug'\n" + text if "local" not in text else text)
    assert it.names == ["a"]
    assert it.logged == []
    assert it.keys.owner(None) == "local"
    [said] = it.said
    assert said.startswith("the changed configuration was refused, the old one stays: ")
    assert named in said
    [refused] = [record for record in caplog.records if record.message == "config_refused"]
    assert named in vars(refused)["reason"]
    await it.take(TWO)
    assert it.names == ["a", "b"]


async def test_a_backend_that_cannot_be_opened_changes_nothing(
    it: Reloading, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def refuse(_: object) -> None:
        raise ConfigError("backend b: the api_key_file cannot be read")

    path = tmp_path / "keys"
    path.write_text(key_line("new"))
    path.chmod(0o640)
    monkeypatch.setattr(it.pool, "replace", refuse)
    await it.take(f"[logging]\nlevel = 'debug'\n{TWO}[auth]\nkeys_file = '{path}'")
    assert it.logged == []
    assert it.keys.owner(None) == "local"
    assert "backend b" in it.said[0]


async def test_what_waits_for_the_next_start_is_named_for_as_long_as_it_waits(
    it: Reloading, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    changed = "[server]\ndrain = 3\n[batches]\nmax_requests = 7\n[inbox]\nsettle = 3\n" + TWO
    await it.take(changed)
    assert waiting_for_start(caplog) == "server.drain, batches.max_requests, inbox.settle"
    await it.take("[server]\ndrain = 3\n" + TWO)
    assert waiting_for_start(caplog) == "server.drain"
    await it.take(ONE)
    assert waiting_for_start(caplog) == "nothing"


async def test_it_reloads_when_rung_until_it_is_told_to_stop(it: Reloading) -> None:
    stop = asyncio.Event()
    it.text = TWO
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(it.reloader.run(stop))
        it.bell.ring()
        await until(lambda: it.names == ["a", "b"])
        it.text = ONE
        it.bell.ring()
        await until(lambda: it.names == ["a"])
        stop.set()
        it.bell.ring()
    assert it.loads == 2


async def test_a_time_without_a_ring_is_no_reason_to_reload(
    it: Reloading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.reload._LOOK_AGAIN", 0.001)
    stop, waits = asyncio.Event(), 0

    class CountingBell(Bell):
        async def wait(self, *, at_most: float) -> bool:
            nonlocal waits
            waits += 1
            return await super().wait(at_most=at_most)

    monkeypatch.setattr(it.bell, "wait", CountingBell().wait)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(it.reloader.run(stop))
        await until(lambda: waits >= 3)
        stop.set()
    assert it.loads == 0


def test_changes_are_named_with_their_section() -> None:
    old = parse(ONE, "x")
    assert changes(old, old) == []
    new = parse("[server]\ndrain = 3\nmax_uploads = 2\n[logging]\nformat = 'json'\n" + TWO, "x")
    assert changes(old, new) == ["server.max_uploads", "server.drain", "backends", "logging.format"]
