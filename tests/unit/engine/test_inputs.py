"""Inputs tell a line that is lost from one that cannot be read just now."""

import errno
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchd.engine.inputs import InputLost, Inputs
from batchd.jsonl import IndexedLines
from tests.support.parts import Parts, opened, requests


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with opened(tmp_path) as opened_parts:
        yield opened_parts


@pytest.mark.allow_blocking("reads are made from threads; here one after the other")
@pytest.mark.parametrize(
    ("number", "raised"),
    [
        (errno.EMFILE, OSError),
        (errno.ENOMEM, OSError),
        (errno.ENOENT, InputLost),
        (errno.EIO, InputLost),
    ],
)
async def test_only_some_errors_mean_that_the_input_is_lost(
    parts: Parts, number: int, raised: type[Exception]
) -> None:
    record = await parts.running(requests("ab"))
    refusals = [OSError(number, "refused")]

    def open_lines(input_path: Path, index_path: Path) -> IndexedLines:
        if refusals:
            raise refusals.pop()
        return IndexedLines(input_path, index_path)

    inputs = Inputs(parts.spool, open_lines)
    with pytest.raises(raised):
        inputs.read(record.id, 0)
    assert inputs.read(record.id, 0)
    inputs.forget(record.id)
