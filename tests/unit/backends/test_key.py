"""A backend's API key: from the environment or a file, read again when it was refused."""

import asyncio
from pathlib import Path

import pytest

from batchd.backends.key import Key
from batchd.errors import ConfigError
from tests.support.fakes import config_of


async def test_without_one_configured_there_is_none() -> None:
    key = Key(config_of("gpu"), {"GPU_KEY": "secret"})
    await key.load()
    assert key.text is None
    assert not await key.reload()


async def test_it_comes_from_the_environment() -> None:
    key = Key(config_of("gpu", api_key_env="GPU_KEY"), {"GPU_KEY": "secret"})
    await key.load()
    assert key.text == "secret"


@pytest.mark.parametrize("environment", [{}, {"GPU_KEY": ""}])
async def test_a_variable_that_is_not_set_is_named(environment: dict[str, str]) -> None:
    key = Key(config_of("gpu", api_key_env="GPU_KEY"), environment)
    with pytest.raises(ConfigError, match=r"backend gpu.*GPU_KEY named by api_key_env is not set"):
        await key.load()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"", "holds no usable key"),
        (b"two words\n", "holds no usable key"),
        ("schl\u00fcssel".encode(), "holds no usable key"),
    ],
)
async def test_a_file_that_is_of_no_use_is_named(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"backend gpu: the api_key_file {path} {reason}"):
        await Key(config_of("gpu", api_key_file=path), {}).load()


async def test_read_again_it_says_whether_it_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old\n")
    key = Key(config_of("gpu", api_key_file=path), {})
    await key.load()
    assert not await key.reload()
    path.write_text("new\n")
    assert await key.reload()
    assert key.text == "new"


async def test_one_that_cannot_be_read_again_keeps_the_old_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "key"
    path.write_text("old\n")
    key = Key(config_of("gpu", api_key_file=path), {})
    await key.load()
    await asyncio.to_thread(path.unlink)
    for _ in range(3):
        assert not await key.reload()
    assert key.text == "old"
    path.write_text("old\n")
    await key.reload()
    await asyncio.to_thread(path.unlink)
    await key.reload()
    said = [record.message for record in caplog.records if record.name.startswith("batchd")]
    assert said == ["backend_key_unreadable"] * 2
    assert "old" not in caplog.text


async def test_a_variable_that_has_vanished_keeps_the_old() -> None:
    environment = {"GPU_KEY": "secret"}
    key = Key(config_of("gpu", api_key_env="GPU_KEY"), environment)
    await key.load()
    environment.clear()
    assert not await key.reload()
    assert key.text == "secret"
