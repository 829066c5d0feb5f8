"""The documents say what the program does: settings, log names, commands."""

import re
import tomllib
from pathlib import Path

import msgspec

from batchd.cli.main import COMMANDS
from batchd.config import Config, Duration, Size, parse
from tests.unit.test_logs import log_names

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config.example.toml").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Settings whose default is "absent": the example shows what could be written.
_ABSENT = {
    "backends.api_key_file",
    "backends.api_key_env",
    "inbox.directory",
    "auth.keys_file",
}


def _example_with_settings() -> dict[str, object]:
    """The example with every commented setting uncommented."""
    settings = re.sub(r"^# ?((?:[a-z_]+ = |\[).*)$", r"\1", EXAMPLE, flags=re.MULTILINE)
    return tomllib.loads(settings)


def _given(section: object) -> dict[str, object]:
    """The settings of a section; of the first table where there may be several."""
    if isinstance(section, list):
        return msgspec.convert(section, list[dict[str, object]])[0]
    return msgspec.convert(section, dict[str, object])


def _fields(kind: type[msgspec.Struct]) -> dict[str, object]:
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


def _sections() -> dict[str, type[msgspec.Struct]]:
    found: dict[str, type[msgspec.Struct]] = {}
    for field in msgspec.structs.fields(Config):
        kind = field.type.__args__[0] if field.name == "backends" else field.type
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            found[field.name] = kind
    return found


def test_the_example_names_every_setting_and_no_other() -> None:
    example = _example_with_settings()
    for name, kind in _sections().items():
        given = _given(example[name])
        assert set(given) == set(_fields(kind)), name
    assert set(example) == {field.name for field in msgspec.structs.fields(Config)}


def test_the_examples_values_are_the_defaults() -> None:
    example = _example_with_settings()
    assert example["local"] is Config().local
    for name, kind in _sections().items():
        given = _given(example[name])
        for setting, default in _fields(kind).items():
            if f"{name}.{setting}" in _ABSENT:
                assert default is None
            elif f"{name}.{setting}" != "backends.base_url":
                assert _parsed(given[setting], default) == default, f"{name}.{setting}"


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
