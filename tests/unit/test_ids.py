"""Ids look as clients expect, and what does not look so is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd import ids


@given(st.binary(min_size=ids.FILE_ID_BYTES, max_size=ids.FILE_ID_BYTES))
def test_a_file_id_is_one(randomness: bytes) -> None:
    assert ids.is_file_id(ids.file_id(randomness))


@given(st.integers(0, 1 << 40), st.binary(min_size=ids.BATCH_ID_BYTES, max_size=ids.BATCH_ID_BYTES))
def test_a_batch_id_is_one_and_its_tag_is_its_end(created_at: int, randomness: bytes) -> None:
    batch_id = ids.batch_id(created_at, randomness)
    assert ids.is_batch_id(batch_id)
    assert batch_id.endswith(ids.batch_tag(batch_id).decode())
    assert len(ids.batch_tag(batch_id)) == 8


def test_the_forms_of_ids() -> None:
    assert ids.file_id(bytes(17)) == "file-" + "0" * 22
    assert ids.file_id(b"\xff" * 17) != ids.file_id(b"\xff" * 16 + b"\xfe")
    assert ids.batch_id(0x6917A0B1, b"\xab" * 12) == "batch_6917a0b1" + "ab" * 12
    assert ids.request_id(b"\x01" * 16) == "req_" + "01" * 16


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file-",
        "file-" + "0" * 21,
        "file-" + "0" * 23,
        "file-" + "0" * 22 + "\n",
        "file-../../../../etc/passw",
        "FILE-" + "0" * 22,
        "file-" + "é" * 22,
        "batch_" + "0" * 31,
        "batch_" + "A" * 32,
        "batch_" + "0" * 32 + "\n",
    ],
)
def test_anything_else_is_no_id(text: str) -> None:
    assert not ids.is_file_id(text)
    assert not ids.is_batch_id(text)
