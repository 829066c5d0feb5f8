import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from batchd.systemd import Notifier, watchdog_interval

ENOUGH_TO_FILL_ANY_QUEUE = 100_000


def listen(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(name)
    listener.settimeout(5)
    return listener


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def systemd(path: str) -> Iterator[socket.socket]:
    with closing(listen(path)) as listener:
        yield listener


def heard(listener: socket.socket) -> str:
    return listener.recv(65536).decode()


MESSAGES: dict[str, Callable[[Notifier], None]] = {
    "READY=1": Notifier.ready,
    "STOPPING=1": Notifier.stopping,
    "WATCHDOG=1": Notifier.watchdog,
    "STATUS=2 batches": lambda to: to.status("2 batches"),
    "RELOADING=1\nMONOTONIC_USEC=123456": lambda to: to.reloading(123456),
    "EXTEND_TIMEOUT_USEC=30000000": lambda to: to.extend_timeout(30_000_000),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_each_message_is_spelled_as_sd_notify_spells_it(
    path: str, systemd: socket.socket, message: str
) -> None:
    MESSAGES[message](Notifier(path))
    assert heard(systemd) == message


def test_an_at_sign_begins_an_abstract_name() -> None:
    name = f"batchd-test-{secrets.token_hex(8)}"
    with closing(listen(f"\0{name}")) as listener:
        Notifier(f"@{name}").ready()
        assert heard(listener) == "READY=1"


@pytest.mark.parametrize("address", [None, ""])
def test_without_an_address_nothing_is_sent_and_nothing_is_logged(
    address: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(address)
    notifier.ready()
    notifier.watchdog()
    assert caplog.records == []


def test_a_status_stays_one_assignment_whatever_it_says(path: str, systemd: socket.socket) -> None:
    Notifier(path).status("waits for\nMAINPID=1\r\n \udc80")
    assert heard(systemd) == "STATUS=waits for MAINPID=1 ?"


def test_a_long_status_still_fits_into_what_systemd_reads(
    path: str, systemd: socket.socket
) -> None:
    Notifier(path).status("\N{GRINNING FACE}" * 10_000)
    assert 1000 < len(systemd.recv(65536)) < 4096


def test_a_systemd_that_is_gone_is_logged_once_and_heard_again_when_it_is_back(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(path)
    notifier.ready()
    notifier.watchdog()
    assert [record.message for record in caplog.records] == ["systemd_unreachable"]
    assert caplog.records[0].levelno == logging.WARNING
    with closing(listen(path)) as back:
        notifier.watchdog()
        assert heard(back) == "WATCHDOG=1"
    notifier.watchdog()
    assert len(caplog.records) == 2


def test_an_address_that_cannot_be_one_is_logged_and_not_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Notifier("/" + "x" * 200).ready()
    assert [record.message for record in caplog.records] == ["systemd_unreachable"]


@pytest.mark.usefixtures("systemd")
def test_a_systemd_that_does_not_listen_is_not_waited_for(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(path)
    for _ in range(ENOUGH_TO_FILL_ANY_QUEUE):
        notifier.watchdog()
        if caplog.records:
            break
    assert [record.message for record in caplog.records] == ["systemd_unreachable"]


@pytest.mark.parametrize(
    ("env", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({"WATCHDOG_USEC": "³"}, None),
    ],
)
def test_the_watchdog_is_fed_three_times_as_often_as_it_must_be(
    env: dict[str, str], interval: float | None
) -> None:
    assert watchdog_interval(env) == interval
