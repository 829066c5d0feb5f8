"""The daemon speaks to the service manager over a real socket, as systemd would hear it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.model_process import ModelProcess


class Manager:
    """The socket of a service manager, and what it has heard."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def hear(self, wanted: str) -> list[str]:
        """Everything up to the first message that begins with ``wanted``."""
        heard: list[str] = []
        while not heard or not heard[-1].startswith(wanted):
            heard.append(self.socket.recv(4096).decode())
        return heard


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    opened = Manager(tmp_path / "notify")
    with opened.socket:
        yield opened


def test_ready_watchdog_and_stopping_are_told(
    tmp_path: Path, manager: Manager, model_process: ModelProcess
) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    batchd = BatchdProcess(tmp_path, backend=model_process.base_url, environment=environment)
    with batchd:
        before = manager.hear("READY=1")
        assert any(message.startswith("STATUS=") for message in before)
        assert any(message.startswith("EXTEND_TIMEOUT_USEC=") for message in before)
        assert manager.hear("STATUS=")[-1].startswith("STATUS=serving on 127.0.0.1:")
        manager.hear("WATCHDOG=1")
        manager.hear("WATCHDOG=1")
        assert batchd.terminate() == 0
        manager.hear("STOPPING=1")
        assert int(manager.hear("EXTEND_TIMEOUT_USEC=")[-1].split("=")[1]) > 25_000_000
