"""Every metric is documented as it is, and each begins at 0."""

import re
from pathlib import Path
from typing import cast

from prometheus_client.metrics import MetricWrapperBase

from batchd.metrics import Metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|([^|]*)\|$", flags=re.MULTILINE)


def test_the_document_lists_every_metric_and_no_other() -> None:
    rows = [
        (name, kind.strip(), re.findall(r"`(\w+)`", labels.split(":")[0]), meaning.strip())
        for name, kind, labels, meaning in ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    ]
    assert sorted(rows) == sorted(instruments(Metrics()))


def instruments(metrics: Metrics) -> list[tuple[str, str, list[str], str]]:
    """Name, kind, labels and meaning of each."""
    return [
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            list(cast("tuple[str, ...]", vars(instrument)["_labelnames"])),
            family.documentation,
        )
        for instrument in vars(metrics).values()
        if isinstance(instrument, MetricWrapperBase)
        for family in instrument.collect()
    ]


def test_counting_begins_at_0_and_says_nothing_else() -> None:
    metrics = Metrics()
    counted = [
        line
        for line in metrics.text().decode().splitlines()
        if re.match(r"batchd_lines|batchd_ledger_commit_seconds_count", line)
    ]
    assert counted == [
        'batchd_lines_total{file="output"} 0.0',
        'batchd_lines_total{file="error"} 0.0',
        "batchd_ledger_commit_seconds_count 0.0",
    ]
    assert b"_created" not in metrics.text()


def test_two_of_them_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.lines.labels("output").inc()
    assert b'batchd_lines_total{file="output"} 1.0' in one.text()
    assert b'batchd_lines_total{file="output"} 0.0' in other.text()
