"""The guard of the event loop finds a blocking call, also one that is caught on the way."""

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from blockbuster import BlockingError

from tests.support.loop_guard import LoopGuard

pytestmark = pytest.mark.allow_blocking("the test turns a guard of its own on and off")

SOURCE = """
import contextlib
import logging
import os
import time

async def sleep():
    time.sleep(0)

async def sync(descriptor):
    os.fsync(descriptor)

async def say():
    logging.getLogger("guarded").warning("said")

async def hide():
    with contextlib.suppress(Exception):
        time.sleep(0)
"""


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "guarded").mkdir()
    (tmp_path / "guarded" / "__init__.py").write_text(SOURCE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield importlib.import_module("guarded")
    del sys.modules["guarded"]


async def test_a_blocking_call_raises(guarded: ModuleType, tmp_path: Path) -> None:
    with LoopGuard("guarded").watching(), pytest.raises(BlockingError):
        await guarded.sleep()
    with (
        (tmp_path / "file").open("wb") as file,
        LoopGuard("guarded").watching(),
        pytest.raises(BlockingError),
    ):
        await guarded.sync(file.fileno())


async def test_a_blocking_call_that_is_caught_is_told(guarded: ModuleType) -> None:
    with LoopGuard("guarded").watching() as blocked:
        await guarded.hide()
    assert len(blocked) == 1
    assert "time.sleep" in blocked[0]
    assert "in hide" in blocked[0]


async def test_a_log_line_may_be_written(guarded: ModuleType, tmp_path: Path) -> None:
    logger, handler = logging.getLogger("guarded"), logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    with LoopGuard("guarded").watching() as blocked:
        await guarded.say()
    logger.removeHandler(handler)
    handler.close()
    assert blocked == []


async def test_others_may_block(guarded: ModuleType) -> None:
    with LoopGuard("json").watching() as blocked:
        await guarded.sleep()
    assert blocked == []


async def test_it_lets_go_at_the_end(guarded: ModuleType) -> None:
    with LoopGuard("guarded").watching():
        pass
    await guarded.sleep()
