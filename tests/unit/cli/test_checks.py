import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Result, Run
from tests.unit.cli.fake_api import FakeApi

Check = Callable[..., Result]


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def check(offline: Run, tmp_path: Path, url: str) -> Check:
    """Write a configuration and check it; what is not given is as it should be."""

    def run(
        *args: str,
        backend: str = "",
        base_url: str = f"{url}/v1",
        listen: str | None = None,
        storage: Path = tmp_path / "state",
        more: str = "",
    ) -> Result:
        config = tmp_path / "config.toml"
        config.write_text(
            f'[[backends]]\nname = "vllm"\nbase_url = "{base_url}"\n{backend}\n'
            f'[server]\nlisten = ["{listen or free_address()}"]\n'
            f'[storage]\ndirectory = "{storage}"\n{more}'
        )
        return offline("check", "--config", config, *args)

    return run


def test_all_is_well_and_nothing_was_made(check: Check, tmp_path: Path, url: str) -> None:
    result = check()
    assert result.code == 0
    assert f'ok  backend "vllm" at {url}/v1' in result.out
    assert "wrong" not in result.out
    assert not (tmp_path / "state").exists()


def test_a_backend_that_is_away_is_named(check: Check) -> None:
    base_url = f"http://{free_address()}/v1"
    result = check(base_url=base_url)
    assert result.code == 1
    sentence = f'wrong  the backend "vllm" at {base_url} cannot be reached: Connection refused'
    assert sentence in result.out


@pytest.mark.parametrize("host", ["127.0.0.1:80000", "127.0.0.1:8000v1", "a..b"])
def test_a_backend_at_which_no_server_can_be_is_a_wrong_configuration(
    check: Check, host: str
) -> None:
    result = check(base_url=f"http://{host}/v1")
    assert result.code == 78
    assert f"base_url names '{host}', which is no host and port" in result.err


@pytest.mark.parametrize("path", ["über/v1", "a b/v1"])
def test_a_backend_is_asked_under_any_path(check: Check, url: str, path: str) -> None:
    result = check(base_url=f"{url}/{path}")
    assert f'the backend "vllm" at {url}/{path} answered 404 to GET /models' in result.out


def test_every_backend_is_reached(check: Check, url: str) -> None:
    away = f"http://{free_address()}/v1"
    more = "".join(
        f'[[backends]]\nname = "{name}"\nbase_url = "{base_url}"\n'
        for name, base_url in (("spare", away), ("hosted", f"{url}/v1"))
    )
    result = check(more=more)
    assert result.code == 1
    assert [line.split()[0] for line in result.out.splitlines() if 'backend "' in line] == [
        *("ok", "wrong", "ok"),
    ]
    assert f'the backend "spare" at {away} cannot be reached' in result.out
    assert f'ok  backend "hosted" at {url}/v1' in result.out


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "does not accept requests without an API key"),
        (503, "answered 503 to GET /models"),
    ],
)
def test_a_backend_that_refuses_is_named(
    check: Check, api: FakeApi, status: int, sentence: str
) -> None:
    api.refuse("GET /v1/models", status, "no")
    assert sentence in check().out


def test_the_key_of_the_backend_is_sent(
    check: Check, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("THE_KEY", "from-env")
    check(backend=f'api_key_file = "{tmp_path / "key"}"')
    check(backend='api_key_env = "THE_KEY"')
    sent = [headers.get("Authorization") for headers in api.headers]
    assert sent == ["Bearer from-file", "Bearer from-env"]
    api.refuse("GET /v1/models", 401, "no")
    assert "does not accept this API key" in check(backend='api_key_env = "THE_KEY"').out


def test_a_key_that_cannot_be_had_is_said(check: Check, tmp_path: Path) -> None:
    missing = check(backend=f'api_key_file = "{tmp_path / "none"}"')
    assert "has an API key file that cannot be read" in missing.out
    assert "$NOT_SET, which is not set" in check(backend='api_key_env = "NOT_SET"').out
    (tmp_path / "key").write_text("two words")
    spoilt = check(backend=f'api_key_file = "{tmp_path / "key"}"')
    assert "a character that no key has" in spoilt.out


def test_a_storage_directory_that_is_a_file_is_said(check: Check, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is not a directory" in check(storage=tmp_path / "file").out


def test_a_storage_directory_that_may_not_be_written_is_said(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        return False

    monkeypatch.setattr(os, "access", refuse)
    (tmp_path / "old").mkdir()
    assert "old cannot be written" in check(storage=tmp_path / "old").out
    assert "new/deep cannot be made" in check(storage=tmp_path / "new" / "deep").out


@pytest.mark.parametrize(
    ("content", "mode", "fault"),
    [
        ("anna bd-secret\n", 0o600, "line 1: write 'NAME sha256:HEX'"),
        (f"anna sha256:{'0' * 64}\n", 0o666, "is writable by everybody: chmod o-w it"),
        ("  # indented\n", 0o600, "has no key"),
    ],
)
def test_a_keys_file_is_refused_as_the_daemon_would(
    check: Check, tmp_path: Path, content: str, mode: int, fault: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(content)
    keys.chmod(mode)
    result = check(more=f'[auth]\nkeys_file = "{keys}"\n')
    assert result.code == 1
    assert f"wrong  auth.keys_file {keys}" in result.out
    assert fault in result.out


def test_the_other_paths_are_looked_at_too(check: Check, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# none yet\n")
    more = f'[auth]\nkeys_file = "{tmp_path / "keys"}"\n[inbox]\ndirectory = "{tmp_path}"\n'
    result = check(more=more)
    assert "has no key" in result.out
    assert f"ok  inbox directory {tmp_path}" in result.out
    (tmp_path / "keys").unlink()
    assert "cannot be read" in check(more=more).out


def test_an_address_held_by_a_running_batchd_is_fine_and_by_another_is_not(
    check: Check, api: FakeApi, url: str
) -> None:
    assert check(listen=url.removeprefix("http://")).code == 0
    api.refuse("GET /healthz", 404, "no such thing")
    result = check(listen=url.removeprefix("http://"))
    assert result.code == 1
    assert "Address already in use" in result.out
    assert "there is no directory" in check(listen="unix:/nowhere/batchd.sock").out


def test_json_has_each_check(check: Check, offline: Run, tmp_path: Path) -> None:
    good = json.loads(check("--json").out)
    assert good["ok"]
    assert all(each["ok"] and each["message"] is None for each in good["checks"])
    bad = json.loads(check("--json", base_url=f"http://{free_address()}").out)
    assert not bad["ok"]
    assert not bad["checks"][-1]["ok"]
    (tmp_path / "empty.toml").touch()
    empty = offline("check", "--json", "--config", tmp_path / "empty.toml")
    assert empty.code == 78
    assert "no model server is configured" in json.loads(empty.out)["checks"][0]["message"]
