"""docs/reliability.md promises only what a test holds: each row names tests that exist and run."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reliability.md"

TEST_ID = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
BENCHMARK = re.compile(r"`(make bench-[\w-]+)`")
# The suites that continuous integration runs leave only these out.
LEFT_OUT = frozenset({"vllm"})


def rows(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, cells stripped, without its head."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


TABLES = ("What may go wrong", "What a crash leaves")
NAMED = sorted(set(TEST_ID.findall(DOCUMENT.read_text(encoding="utf-8"))))


def functions(path: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("heading", TABLES)
def test_every_row_names_a_test_or_a_benchmark(heading: str) -> None:
    found = rows(heading)
    assert len(found) >= 8
    for row in found:
        cells = " ".join(row)
        assert TEST_ID.search(cells) or BENCHMARK.search(cells), f"no test named: {row[0]}"
        assert all(row), f"an empty cell: {row[0]}"


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_named_test_exists_and_is_not_left_out(file: str, name: str) -> None:
    found = functions(ROOT / file)
    assert name in found, f"{file} has no {name}"
    markers = {ast.unparse(mark) for mark in found[name].decorator_list}
    left_out = {mark for mark in markers for out in LEFT_OUT if f"pytest.mark.{out}" in mark}
    assert not left_out


def test_named_benchmarks_are_run_by_continuous_integration() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in set(BENCHMARK.findall(DOCUMENT.read_text(encoding="utf-8"))):
        assert target in script
