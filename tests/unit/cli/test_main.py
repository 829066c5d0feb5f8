import subprocess
import sys

import pytest

from batchd.cli.main import COMMANDS, batchd, main
from batchd.cli.options import DEFAULT_URL
from batchd.config import DEFAULT_LISTEN
from tests.unit.cli.conftest import Run


def test_help_tells_what_each_command_tells_of_itself() -> None:
    with batchd.make_context("batchd", ["list"]) as context:
        for name, (_, text) in COMMANDS.items():
            command = batchd.get_command(context, name)
            assert command
            assert (command.help or "").startswith(text)


@pytest.mark.parametrize("args", [[name, "--help"] for name in COMMANDS] + [["--help"], ["-h"]])
def test_help_is_no_failure(offline: Run, args: list[str]) -> None:
    result = offline(*args)
    assert result.code == 0
    assert result.out.startswith("Usage: batchd")


def test_wrong_usage_exits_2(offline: Run) -> None:
    assert offline().code == 2
    assert offline("nope").code == 2
    assert offline("list", "--limit", "0").code == 2
    assert offline("submit").code == 2


def test_the_default_url_is_the_default_listen_address() -> None:
    assert f"http://{DEFAULT_LISTEN}" == DEFAULT_URL


def test_a_client_command_imports_nothing_heavy() -> None:
    names = (
        "{'aiohttp', 'asyncio', 'click.shell_completion', 'msgspec', 'rich', 'tempfile', "
        "'batchd.config', 'batchd.daemon'}"
    )
    modules = ("again", "backends", "batches", "completion", "fetch", "files", "steering", "submit")
    script = (
        f"import sys, {', '.join(f'batchd.cli.{name}' for name in ('main', *modules))}\n"
        f"print(*sorted({names} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)  # noqa: S603 - our own
    assert found.stdout.strip() == b""


def test_an_interrupt_is_one_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batchd, "main", interrupt)
    assert main([]) == 1
    assert capsys.readouterr().err == "batchd: interrupted\n"


def test_a_wrong_configuration_exits_78_with_one_sentence(
    offline: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = tmp_path_factory.mktemp("config") / "config.toml"
    config.write_text("nonsense = 1\n")
    for command in ("serve", "check"):
        result = offline(command, "--config", config)
        assert result.code == 78
        assert "nonsense" in result.err
        assert len(result.err.splitlines()) == 1
