import errno
import os
import subprocess
import sys
from pathlib import Path

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


def test_a_failure_that_names_nothing_is_not_blamed_on_standard_output(
    offline: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(batchd, "main", fail)
    assert offline("list") == (1, "", "batchd: Input/output error\n")


@pytest.mark.parametrize("args", [["keys", "new", "anna"], ["submit", "--help"]])
def test_a_full_disk_behind_standard_output_is_said(args: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "batchd", *args]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)  # noqa: S603 - our own
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith(b"batchd: standard output cannot be written: No")
    assert b"Exception" not in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        ("keys new anna --json", 1, "batchd: standard output cannot be written: "),
        ("list --url http://127.0.0.1:1", 1, "batchd: cannot reach the daemon at "),
        ("run /dev/null --backend http://127.0.0.1:1/v1 -o -", 1, "batchd: null is empty"),
        ("keys new a/b", 2, "Usage: batchd keys new"),
    ],
)
def test_a_standard_output_that_is_closed_is_no_traceback(
    args: str, code: int, told: str, tmp_path: Path
) -> None:
    command = f"{sys.executable} -m batchd {args} >&-"
    env = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, env=env, check=False)  # noqa: S603 - our own
    assert done.returncode == code
    assert done.stderr.decode().startswith(told)
    assert b"Traceback" not in done.stderr


def test_a_standard_error_that_is_closed_is_no_traceback_either() -> None:
    command = f"{sys.executable} -m batchd keys new anna 2>&-"
    done = subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, check=True)  # noqa: S603 - our own
    assert done.stdout.startswith(b"key   bd-")


@pytest.mark.parametrize("closed", ["<&- >&-", ">&- 2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_standard_stream_that_is_closed(
    tmp_path: Path, closed: str
) -> None:
    found = tmp_path / "found"
    code = (
        "from batchd.cli.main import main; main(['list', '--url', 'http://127.0.0.1:1']); "
        f"print(open({str(found)!r}, 'w').fileno(), file=open({str(found)!r}, 'w'))"
    )
    command = f'{sys.executable} -c "{code}" {closed}'
    subprocess.run(["/bin/sh", "-c", command], check=True)  # noqa: S603 - our own
    assert int(found.read_text()) > 2


def test_a_standard_input_that_is_closed_is_said(tmp_path: Path) -> None:
    command = f"{sys.executable} -m batchd run - --backend http://127.0.0.1:1/v1 <&- >&-"
    env = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, env=env, check=False)  # noqa: S603 - our own
    assert done.returncode == 1
    assert done.stderr.startswith(b"batchd: standard input is closed: ")


def test_nobody_to_hear_what_went_wrong_changes_no_exit_code() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "batchd", "keys", "new", "a/b"]
    done = subprocess.run(command, stderr=writing, check=False)  # noqa: S603 - our own
    os.close(writing)
    assert done.returncode == 2
