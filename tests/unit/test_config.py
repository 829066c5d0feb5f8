"""The configuration: every fault is one sentence that names the setting."""

from pathlib import Path

import pytest

from batchd import config
from batchd.config import Config, load, parse
from batchd.errors import ConfigError

BACKEND = '[[backends]]\nbase_url = "http://127.0.0.1:8000/v1"\n'


@pytest.fixture(autouse=True)
def no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "none.toml")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "config.toml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("server = 3", "server"),
        ("colour = 3", "colour"),
        ("[server]\nlisten = 'x'", "server.listen"),
        ("[server]\nlisten = ['x']", "listen"),
        ("[server]\nlisten = ['127.0.0.1:65536']", "listen"),
        ("[server]\nlisten = ['127.0.0.1:http']", "listen"),
        ("[server]\nlisten = ['unix:relative']", "listen"),
        ("[server]\nlisten = ['0.0.0.0:8400']", "auth.keys_file"),
        ("[server]\nlisten = ['127.0.0.1:1', '[::]:1']", "server.listen"),
        ("[server]\nmax_upload_size = '4GiB'", "max_upload_size"),
        ("[server]\nmax_upload_size = 'much'", "max_upload_size"),
        ("[server]\nmax_upload_size = -1", "max_upload_size"),
        ("[server]\nmax_upload_size = true", "max_upload_size"),
        ("[server]\nmax_uploads = 0", "max_uploads"),
        ("[server]\nupload_timeout = '2d'", "retention.orphan_age"),
        ("[server]\ndrain = 'soon'", "server.drain"),
        ("[server]\ndrain = -1", "server.drain"),
        ("[server]\ndrain = true", "server.drain"),
        ("[server]\ndrain = inf", "server.drain"),
        ("[server]\ndrain = nan", "server.drain"),
        ("[storage]\ndirectory = ''", "storage.directory"),
        ("[storage]\ndirectory = 3", "storage.directory"),
        ("[storage]\nmemory = 0", "memory"),
        ("[[backends]]", "base_url"),
        ("[[backends]]\nbase_url = 'localhost:8000'", "base_url"),
        ("[[backends]]\nbase_url = 'http://gpu/v1?version=2'", "base_url must not hold a query"),
        ("[[backends]]\nbase_url = 'http://gpu:80000/v1'", "base_url names 'gpu:80000'"),
        ("[[backends]]\nbase_url = 'http://gpu:8000v1/'", "base_url names 'gpu:8000v1'"),
        ("[[backends]]\nbase_url = 'http://a..b/v1'", "base_url names 'a..b'"),
        (BACKEND + "load_url = 'http://gpu:80000/load'", "load_url names 'gpu:80000'"),
        (BACKEND + "load_url = 'gpu:8000/load'", "load_url must be 'auto' or start with http"),
        (BACKEND + "max_inflight = 3", "max_inflight"),
        (BACKEND + "max_in_flight = 0", "max_in_flight"),
        (BACKEND + "requests_per_minute = -1", "requests_per_minute"),
        (BACKEND + "api_key_file = '/k'\napi_key_env = 'K'", "api_key_file or api_key_env"),
        (BACKEND + "connect_timeout = 0", "connect_timeout"),
        (BACKEND + "first_byte_timeout = 0", "first_byte_timeout"),
        (BACKEND + "idle_timeout = 0", "idle_timeout"),
        (BACKEND + "total_timeout = 0", "total_timeout"),
        (BACKEND + "max_in_flight = 'many'", "max_in_flight"),
        (BACKEND + "requests_per_minute = nan", "requests_per_minute"),
        (BACKEND + "tokens_per_minute = -1", "tokens_per_minute"),
        (BACKEND + "weight = 0", "weight"),
        (BACKEND + "weight = nan", "weight"),
        (BACKEND + "models = []", "models"),
        (BACKEND + "load_url = 'yes'", "load_url"),
        (BACKEND + "polite = 1", "polite"),
        (BACKEND + "polite_floor = -1", "polite_floor"),
        (BACKEND + "polite_hold = 'long'", "polite_hold"),
        (BACKEND + "[[backends.limits]]\nrequests_per_minute = 1", "models"),
        (BACKEND + "[[backends.limits]]\nmodels = []", "models"),
        (BACKEND + "[[backends.limits]]\nmodels = ['m']\ntokens_per_minute = -1", "tokens_per"),
        (BACKEND + "[[backends.limits]]\nmodels = ['m']\nweight = 1", "weight"),
        (BACKEND + BACKEND, "two [[backends]] are called 'backend'"),
        ("local = true\n" + BACKEND, "[[backends]]"),
        ("[retries]\nfault_limit = 0", "fault_limit"),
        ("[batches]\nendpoints = []", "endpoints"),
        ("[batches]\ncompletion_windows = []", "completion_windows"),
        ("[batches]\ncompletion_windows = ['never']", "completion_windows"),
        ("[batches]\ncompletion_windows = ['0s']", "completion_windows"),
        ("[retries]\nrefused_pause = 0", "refused_pause"),
        ("[retries]\nquota_pause = 0", "quota_pause"),
        ("[batches]\norder = 'random'", "batches.order"),
        ("[batches]\nmax_running = -1", "max_running"),
        ("[batches]\nmax_running_per_owner = -1", "max_running_per_owner"),
        ("[batches]\nmax_requests = 0", "max_requests"),
        ("[batches]\nmax_requests = 4294967296", "max_requests"),
        ("[retention]\nsweep_every = 0", "sweep_every"),
        ("[retention]\norphan_age = 1", "retention.orphan_age"),
        ("[logging]\nlevel = 'loud'", "logging.level"),
        ("[logging]\nformat = 'xml'", "logging.format"),
    ],
)
def test_a_fault_names_its_setting(text: str, named: str) -> None:
    sentence = refusal(text)
    assert sentence.startswith("config.toml: ")
    assert named in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("key", ["base_url", "load_url"])
def test_a_password_in_a_url_that_is_refused_is_not_shown(key: str) -> None:
    other = "" if key == "base_url" else 'base_url = "http://gpu/v1"\n'
    sentence = refusal(f'[[backends]]\n{other}{key} = "http://me:secret@gpu:80000/v1"')
    assert key in sentence
    assert "secret" not in sentence


def test_what_is_not_toml_is_said_with_its_place() -> None:
    assert "config.toml is not valid TOML" in refusal("[server\n")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:8400", "unix:/run/batchd.sock"])
def test_it_listens_where_it_is_told(address: str) -> None:
    assert parse(f"[server]\nlisten = ['{address}']", "x").server.listen == (address,)


def test_other_machines_may_come_in_with_a_key() -> None:
    text = "[server]\nlisten = ['0.0.0.0:8400']\n[auth]\nkeys_file = '/etc/keys'"
    assert parse(text, "x").auth.keys_file == Path("/etc/keys")


def test_several_backends_each_with_its_own_settings() -> None:
    text = (
        '[[backends]]\nname = "a"\nbase_url = "http://a/v1"\nmax_in_flight = 8\nweight = 2.5\n'
        '[[backends.limits]]\nmodels = ["big-*"]\ntokens_per_minute = 1e6\n'
        '[[backends.limits]]\nmodels = ["m"]\nrequests_per_minute = 3\n'
        '[[backends]]\nname = "b"\nbase_url = "http://a/v1"\nload_url = "auto"\npolite = true\n'
        'polite_hold = "1m"'
    )
    first, second = parse(text, "x").backends
    assert (first.max_in_flight, first.weight) == (8, 2.5)
    assert [(limit.models, limit.tokens_per_minute) for limit in first.limits] == [
        (("big-*",), 1e6),
        (("m",), 0),
    ]
    assert (second.max_in_flight, second.limits, second.polite_hold) == ("auto", (), 60)


def test_windows_are_told_in_seconds() -> None:
    found = parse("[batches]\ncompletion_windows = ['24h', '30m']", "x").batches.windows
    assert found == {"24h": 86400, "30m": 1800}


def test_something_must_answer() -> None:
    with pytest.raises(ConfigError, match=r"\[\[backends\]\].*local = true"):
        Config().require_backend()
    parse(BACKEND, "x").require_backend()
    parse("local = true", "x").require_backend()


def test_the_file_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, named, asked = (tmp_path / name for name in ("system", "named", "asked"))
    for path, level in ((system, "error"), (named, "warning"), (asked, "debug")):
        path.write_text(f"[logging]\nlevel = '{level}'")
    assert load(None, {}).logging.level == "info"
    monkeypatch.setattr(config, "SYSTEM_FILE", system)
    assert load(None, {"BATCHD_CONFIG": ""}).logging.level == "error"
    assert load(None, {"BATCHD_CONFIG": str(named)}).logging.level == "warning"
    assert load(asked, {"BATCHD_CONFIG": str(named)}).logging.level == "debug"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing, foreign = tmp_path / "missing", tmp_path / "latin1"
    foreign.write_bytes(b"# \xe9")
    for path, reason in ((missing, "No such file"), (foreign, "it is not UTF-8")):
        with pytest.raises(ConfigError, match=f"{path} cannot be read: {reason}"):
            load(path, {})


@pytest.mark.parametrize(
    ("env", "directory"),
    [
        ({"STATE_DIRECTORY": "/s/batchd:/s/more", "XDG_STATE_HOME": "/x"}, Path("/s/batchd")),
        ({"XDG_STATE_HOME": "/x"}, Path("/x/batchd")),
        ({}, Path.home() / ".local/state/batchd"),
    ],
)
def test_who_is_not_root_keeps_state_at_home(
    env: dict[str, str], directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert load(None, env).storage.directory == directory
    chosen = tmp_path / "config.toml"
    chosen.write_text("[storage]\ndirectory = '/elsewhere'")
    assert load(chosen, env).storage.directory == Path("/elsewhere")
    chosen.write_text(f"[storage]\ndirectory = '{config.SYSTEM_DIRECTORY}'")
    assert load(chosen, env).storage.directory == config.SYSTEM_DIRECTORY
    chosen.write_text("[storage]\nreserve = 0")
    assert load(chosen, env).storage.directory == directory
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert load(None, env).storage.directory == config.SYSTEM_DIRECTORY
