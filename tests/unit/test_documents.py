"""The documents say what the program does: settings, log names, commands."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import msgspec

from batchd.cli.main import COMMANDS
from batchd.config import Config, parse
from batchd.settings import Duration, Size
from tests.unit.test_logs import log_names

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config.example.toml").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

Section = tuple[str, type[msgspec.Struct]]

# Settings whose default is "absent": the example shows what could be written.
_ABSENT = {
    "backends.api_key_file",
    "backends.api_key_env",
    "backends.load_url",
    "inbox.directory",
    "auth.keys_file",
}
_REQUIRED = {"backends.base_url", "backends.limits.models"}


def _example_with_settings() -> dict[str, object]:
    """The example with every commented setting uncommented."""
    settings = re.sub(r"^# ?((?:[a-z_]+ = |\[).*)$", r"\1", EXAMPLE, flags=re.MULTILINE)
    return tomllib.loads(settings)


def _given(example: dict[str, object], section: str) -> dict[str, object]:
    """The settings of a section; of the first table where there may be several."""
    found: object = example
    for name in section.split("."):
        found = msgspec.convert(found, dict[str, object])[name]
        if isinstance(found, list):
            found = msgspec.convert(found, list[object])[0]
    return msgspec.convert(found, dict[str, object])


def _fields(kind: type[msgspec.Struct]) -> dict[str, object]:
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


def _sections(kind: type[msgspec.Struct] = Config, within: str = "") -> Iterator[Section]:
    """Every section, and those within them, by name."""
    for field in msgspec.structs.fields(kind):
        many = get_origin(field.type) is tuple
        inner = get_args(field.type)[0] if many else field.type
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield within + field.name, inner
            yield from _sections(inner, f"{within}{field.name}.")


def test_the_example_names_every_setting_and_no_other() -> None:
    example = _example_with_settings()
    for name, kind in _sections():
        assert set(_given(example, name)) == set(_fields(kind)), name
    assert set(example) == {field.name for field in msgspec.structs.fields(Config)}


def test_the_examples_values_are_the_defaults() -> None:
    example = _example_with_settings()
    sections = dict(_sections())
    assert {"backends", "backends.limits", "dashboard"} <= set(sections)
    assert example["local"] is Config().local
    for name, kind in sections.items():
        given = _given(example, name)
        for setting, default in _fields(kind).items():
            full = f"{name}.{setting}"
            if full in _ABSENT:
                assert default is None
            elif full not in _REQUIRED | set(sections):
                assert _parsed(given[setting], default) == default, full


def _parsed(value: object, default: object) -> object:
    if isinstance(default, Duration):
        return Duration.parse(value)
    if isinstance(default, Size):
        return Size.parse(value)
    if isinstance(default, tuple):
        return tuple(msgspec.convert(value, list[str]))
    return Path(str(value)) if isinstance(default, Path) else value


def test_the_example_as_it_stands_is_a_configuration_with_defaults() -> None:
    config = parse(EXAMPLE, "config.example.toml")
    expected = Config(backends=config.backends)
    assert config == expected
    assert len(config.backends) == 1


def test_the_readme_lists_every_name_that_is_logged() -> None:
    table = README.split("## What the log says", 1)[1].split("\n## ", 1)[0]
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", table, flags=re.MULTILINE))
    assert listed == set(log_names())


def test_every_command_is_in_the_readme() -> None:
    for name in COMMANDS:
        assert f"batchd {name}" in README
