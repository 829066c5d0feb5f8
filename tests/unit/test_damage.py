"""What is damaged is logged and counted together, and once."""

import pytest

from batchd.damage import Damage
from batchd.findings import DamageKind, Finding
from batchd.metrics import Metrics


def test_a_finding_is_logged_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    damage = Damage(metrics)
    missing = Finding(kind=DamageKind.FILE_MISSING, path="files/file-1", expected=9)
    other = Finding(kind=DamageKind.FILE_MISSING, path="files/file-2", batch="batch_1", offset=0)
    assert [damage.tell(finding) for finding in (missing, other, missing)] == [True, True, False]
    first, second = (vars(entry) for entry in caplog.records)
    assert (first["msg"], first["levelname"]) == ("damage_found", "ERROR")
    assert (first["kind"], first["path"], first["expected"]) == ("file_missing", "files/file-1", 9)
    assert "batch" not in first
    assert (second["batch"], second["offset"]) == ("batch_1", 0)
    assert b'batchd_damage_total{kind="file_missing"} 2.0' in metrics.text()
