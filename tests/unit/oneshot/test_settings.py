from pathlib import Path

import pytest

from batchd.config import BackendConfig, BatchesConfig, Config, StorageConfig
from batchd.oneshot.settings import for_one_file, state_directory, with_backend, with_width
from batchd.settings import Size

CONFIG = Config(
    backends=(
        BackendConfig(name="a", base_url="http://127.0.0.1:1/v1", max_in_flight=3),
        BackendConfig(name="b", base_url="http://127.0.0.1:2/v1"),
    ),
    batches=BatchesConfig(max_requests=10, max_embedding_inputs=10, mixed_models=False),
    storage=StorageConfig(memory=Size(1 << 20)),
)


def test_the_limits_that_are_there_to_share_a_daemon_are_lifted() -> None:
    config = for_one_file(CONFIG, Path("/state"))
    assert config.batches.max_requests == (1 << 32) - 1
    assert config.batches.max_embedding_inputs > 1 << 40
    assert config.server.max_upload_size == (4 << 30) - 1
    assert config.storage.directory == Path("/state")
    assert config.storage.ballast == 0


def test_everything_else_is_as_it_was_configured() -> None:
    config = for_one_file(CONFIG, Path("/state"))
    assert config.backends == CONFIG.backends
    assert config.batches.mixed_models is False
    assert config.storage.memory == 1 << 20


def test_a_backend_of_ones_own_takes_the_place_of_all() -> None:
    for before in (CONFIG, Config(local=True)):
        config = with_backend(before, "http://127.0.0.1:3/v1", "KEY")
        assert config.local is False
        assert [(one.base_url, one.api_key_env) for one in config.backends] == [
            ("http://127.0.0.1:3/v1", "KEY")
        ]


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "ftp://host/v1", "http://user@host/v1"])
def test_a_url_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        with_backend(CONFIG, url, None)


def test_a_width_is_every_backends() -> None:
    assert [one.max_in_flight for one in with_width(CONFIG, 7).backends] == [7, 7]
    assert [one.max_in_flight for one in with_width(CONFIG, "auto").backends] == ["auto", "auto"]


def test_the_state_of_a_run_without_an_output_file_is_in_the_state_directory() -> None:
    assert state_directory({"XDG_STATE_HOME": "/s"}) == Path("/s/batchd/run")
    assert state_directory({}) == Path.home() / ".local/state/batchd/run"
