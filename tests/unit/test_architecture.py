"""What ARCHITECTURE.md, CHANGELOG.md and the house rules say is so, and stays so."""

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "batchd").rglob("*.py"))

LONGEST_MODULE = 300
LONGEST_FUNCTION = 60

# Where a broad `except` may end an error instead of passing it on, and how often. Everything else
# names what it expects, or cleans up and raises again.
BROAD_HANDLERS: dict[str, int] = {
    "batchd/engine/validator.py": 1,  # no input may end the daemon
    "batchd/inbox/intake.py": 1,  # no dropped file may end the daemon
    "batchd/backends/load.py": 1,  # a look at a server's load must not end what works
    "batchd/upkeep/scrubber.py": 1,  # a look at damage must not end what works
    "batchd/writer.py": 2,  # a writer thread must not die unheard
    "batchd/api/middleware.py": 1,  # the one translator: an unforeseen error becomes a 500
}

MAP_ROW = re.compile(r"^\|\s*`(batchd/[\w./]+\.py)`\s*\|", re.MULTILINE)
PIN = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.!+]+")
REQUIREMENT = re.compile(r"([A-Za-z0-9][\w.-]*)(==[^;\s]+)?")
RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\]", re.MULTILINE)

# In pieces, so that this file does not hold what it looks for.
FOREIGN = re.compile(
    "|".join(
        [
            r"pypi\." + r"(org|python\.org)",
            r"python" + r"hosted\.org",
            r"registry\.npm" + r"js\.org",
            r"registry\." + r"yarnpkg",
            r"(?:extra-)?index" + r"-url",
            r"(?<![\w.])/" + r"work/(?:main|shared)",
            r"(?<![\w.])/" + r"root/\.\w",
            r"(?<![\w.])/opt/" + r"(?:pypi|wheels)",
            r"(?<![\w.])/tmp/" + r"(?:brief|bash_jobs)",
        ]
    )
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins() -> list[str]:
    """The lines of constraints.txt that are not comments."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def broad_handlers(tree: ast.Module) -> Iterator[ast.ExceptHandler]:
    """Handlers of every error, or of every exception, that do not end by raising it again."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = any(
            kind is None
            or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"})
            for kind in caught
        )
        last = node.body[-1]
        if broad and not (isinstance(last, ast.Raise) and last.exc is None):
            yield node


def files_of_the_checkout() -> list[Path]:
    """What is committed or would be; skips the test where git cannot say."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(  # noqa: S603 - a fixed command line
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("git cannot list this checkout's files")
    paths = [ROOT / entry.decode() for entry in listed.stdout.split(b"\0") if entry]
    return [path for path in paths if path.is_file()]


def test_the_code_map_lists_every_module_and_no_other() -> None:
    listed = MAP_ROW.findall((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    modules = {name(path) for path in MODULES}
    # A package's __init__.py may be listed; its modules must be.
    must_be_listed = {module for module in modules if not module.endswith("/__init__.py")}
    assert sorted(must_be_listed - set(listed)) == [], "not in the code map of ARCHITECTURE.md"
    assert sorted(set(listed) - modules) == [], "in the code map, but not on disk"
    assert len(listed) == len(set(listed)), "listed twice in the code map"


def test_no_module_is_longer_than_the_limit() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {module: n for module, n in lengths.items() if n > LONGEST_MODULE} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = [
        f"{name(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert too_long == []


def test_every_module_says_what_it_owns() -> None:
    silent = [name(path) for path in MODULES if not ast.get_docstring(parsed(path))]
    assert silent == []


def test_every_error_is_ended_only_where_that_is_allowed() -> None:
    found = {name(path): [h.lineno for h in broad_handlers(parsed(path))] for path in MODULES}
    unexpected = {
        module: lines
        for module, lines in found.items()
        if len(lines) > BROAD_HANDLERS.get(module, 0)
    }
    assert unexpected == {}, "broad `except` that does not raise again, by line"


def test_no_module_ignores_a_checker_without_saying_why() -> None:
    silenced = re.compile(r"#\s*(?:noqa|type:\s*ignore|pyright:\s*ignore)(?::\s*|\[)?[\w,\s\]]*$")
    bare = [
        f"{name(path)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if silenced.search(line)
    ]
    assert bare == []


def test_the_version_is_the_newest_in_the_changelog() -> None:
    newest = RELEASE.search((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert newest is not None
    assert newest[1] == project()["project"]["version"]


def test_constraints_are_names_and_versions_only() -> None:
    assert [line for line in pins() if not PIN.fullmatch(line)] == []


def test_every_requirement_has_its_exact_version_in_constraints() -> None:
    pinned = {
        canonical(package): version for package, _, version in (p.partition("==") for p in pins())
    }
    declared = project()["project"]
    wanted: list[str] = declared["dependencies"] + [
        requirement for extra in declared["optional-dependencies"].values() for requirement in extra
    ]
    for requirement in wanted:
        match = REQUIREMENT.match(requirement)
        assert match is not None, requirement
        package, exact = canonical(match[1]), match[2]
        assert package in pinned, f"{package} is not in constraints.txt"
        assert exact in {None, f"=={pinned[package]}"}, f"{requirement} is not what is pinned"


def test_committed_files_name_no_package_index_and_no_path_of_one_machine() -> None:
    found: list[str] = []
    for path in files_of_the_checkout():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        found += [f"{name(path)}: {match[0]}" for match in FOREIGN.finditer(text)]
    assert found == []
