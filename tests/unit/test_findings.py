"""What is damaged is said in words that name the place and what follows."""

import pytest

from batchd.findings import DamageKind, Finding, batch_of, wrong_size
from batchd.model import FileRecord, Purpose

BATCH = "batch_" + "0" * 32
FACTS = {
    "file": "file-1",
    "batch": BATCH,
    "line": 3,
    "offset": 70,
    "count": 2,
    "expected": 9,
    "found": 5,
    "reason": "malformed",
}


def record(purpose: Purpose = Purpose.BATCH, filename: str = "in.jsonl") -> FileRecord:
    return FileRecord(
        id="file-1",
        owner="local",
        filename=filename,
        purpose=purpose,
        bytes=9,
        sha256=None,
        created_at=0,
        expires_at=None,
    )


@pytest.mark.parametrize("kind", DamageKind)
def test_every_kind_has_words_and_advice(kind: DamageKind) -> None:
    for facts in (FACTS, {}):
        finding = Finding(kind=kind, path="files/file-1", **facts)  # pyright: ignore[reportArgumentType] - of several types
        assert finding.sentence.startswith("files/file-1")
        assert finding.what
        assert finding.advice
        assert "{" not in finding.sentence
        assert "\n" not in finding.sentence


def test_a_sentence_names_the_batch_unless_the_path_does() -> None:
    of_file = Finding(kind=DamageKind.FILE_MISSING, path="files/file-1", batch=BATCH, expected=9)
    assert of_file.sentence == (
        f"files/file-1 (of {BATCH}) is missing; it had 9 bytes: restore the file from a backup, or "
        "delete it (batchd files delete)"
    )
    of_batch = Finding(kind=DamageKind.INPUT_MISSING, path=f"batches/{BATCH}/input", batch=BATCH)
    assert of_batch.sentence.startswith(f"batches/{BATCH}/input is missing: lines that cannot")


def test_json_has_every_fact_and_the_words() -> None:
    finding = Finding(kind=DamageKind.FILE_SIZE, path="files/file-1", expected=9, found=5)
    assert finding.as_json() == {
        **dict.fromkeys(FACTS),
        "kind": "file_size",
        "path": "files/file-1",
        "expected": 9,
        "found": 5,
        "what": "has 5 bytes instead of 9",
        "advice": "restore the file from a backup, or delete it (batchd files delete)",
    }


def test_a_size_is_wrong_or_right() -> None:
    assert wrong_size(record(), 9) is None
    short, gone = wrong_size(record(), 5), wrong_size(record(), None)
    assert short is not None
    assert gone is not None
    assert (short.kind, gone.kind) == (DamageKind.FILE_SIZE, DamageKind.FILE_MISSING)


def test_a_result_files_batch_is_known_by_its_name() -> None:
    assert batch_of(record(Purpose.BATCH_OUTPUT, f"{BATCH}_output.jsonl")) == BATCH
    assert batch_of(record(Purpose.BATCH, f"{BATCH}_output.jsonl")) is None
    assert batch_of(record(Purpose.BATCH_OUTPUT, "other.jsonl")) is None
