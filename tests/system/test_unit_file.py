"""The unit file says what the program and the documents say, and systemd understands it."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batchd.config import ServerConfig
from batchd.systemd import watchdog_interval

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "batchd.service"
GUIDE = ROOT / "docs" / "systemd.md"
INTERPRETER = "/opt/batchd/bin/python"
BAD_CONFIGURATION = "78"

ANALYZE = shutil.which("systemd-analyze")
needs_systemd_analyze = pytest.mark.skipif(
    ANALYZE is None, reason="systemd-analyze is not installed"
)


def settings(name: str) -> list[str]:
    """Every value that the unit file gives the setting ``name``, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def drop_ins() -> dict[str, str]:
    """The drop-ins that the guide shows: the text of each by its file name."""
    shown = re.findall(
        r"`/etc/systemd/system/batchd\.service\.d/([\w-]+\.conf)`:\n\n```ini\n(.*?)```",
        GUIDE.read_text(),
        re.DOTALL,
    )
    return dict(shown)


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - the arguments are this file's own
        [str(ANALYZE), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def installed(directory: Path) -> Path:
    """The unit file as ``systemd-analyze`` wants it: with an interpreter that is there."""
    unit = directory / UNIT.name
    unit.write_text(
        UNIT.read_text()
        .replace(f"ExecStart={INTERPRETER}", f"ExecStart={sys.executable}")
        .replace(f"ExecReload={INTERPRETER}", f"ExecReload={sys.executable}")
    )
    return unit


def test_a_stop_lasts_longer_than_the_drain() -> None:
    (stop,) = settings("TimeoutStopSec")
    assert int(stop) > ServerConfig().drain + 10


def test_the_watchdog_expects_what_the_daemon_sends() -> None:
    (seconds,) = settings("WatchdogSec")
    assert settings("Type") == ["notify"]
    assert watchdog_interval({"WATCHDOG_USEC": f"{seconds}000000"}) == int(seconds) / 3


def test_a_wrong_configuration_does_not_loop() -> None:
    assert settings("Restart") == ["always"]
    assert settings("RestartPreventExitStatus") == [BAD_CONFIGURATION]


def test_the_interpreter_of_the_unit_is_the_one_of_the_guide_and_may_be_run() -> None:
    (command,) = settings("ExecStart")
    (runnable,) = settings("ExecPaths")
    assert command == f"{INTERPRETER} -I -m batchd serve"
    assert INTERPRETER in runnable.split()
    assert f"python3 -m venv {Path(INTERPRETER).parents[1]}" in GUIDE.read_text()


def test_a_reload_is_a_signal_sent_by_the_program_that_may_be_run() -> None:
    (command,) = settings("ExecReload")
    interpreter, *arguments = shlex.split(command)
    assert interpreter == INTERPRETER
    assert arguments.pop() == "$MAINPID"
    waits = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP]); "
        "print('ready', flush=True); print(signal.sigwait([signal.SIGHUP]).name)"
    )
    program = [sys.executable, "-c", waits]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as told:  # noqa: S603 - this file's own program
        assert told.stdout is not None
        assert told.stdout.readline() == "ready\n"
        subprocess.run([sys.executable, *arguments, str(told.pid)], timeout=15, check=True)  # noqa: S603 - the unit's own command
        assert told.communicate(timeout=15) == ("SIGHUP\n", None)


def test_the_base_unit_needs_no_credential() -> None:
    """One that is missing would stop the unit, and most model servers want no key."""
    assert settings("LoadCredential") == []
    assert set(drop_ins()) == {"key.conf", "network.conf", "socket.conf"}


@needs_systemd_analyze
@pytest.mark.parametrize("with_drop_ins", [False, True])
def test_systemd_finds_nothing_to_complain_about(tmp_path: Path, with_drop_ins: bool) -> None:
    unit = installed(tmp_path)
    if with_drop_ins:
        directory = tmp_path / f"{unit.name}.d"
        directory.mkdir()
        for name, text in drop_ins().items():
            (directory / name).write_text(text)
    found = analyze("verify", "--man=no", "--recursive-errors=no", unit)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@needs_systemd_analyze
def test_systemd_rates_the_unit_as_well_protected(tmp_path: Path) -> None:
    """The threshold is ten times the rating; 1.1 is what is left without PrivateUsers."""
    found = analyze(
        "security", "--offline=true", "--threshold=11", "--no-pager", installed(tmp_path)
    )
    assert found.returncode == 0, found.stdout
