"""What batchd tells systemd, and what systemd expects of it: the sd_notify protocol.

Owns the wording of the messages and the datagrams that carry them. Does not know what the
daemon does: the daemon says what happened, and this module passes it on.

Invariants: telling systemd something never raises and never waits. Without an address every
method does nothing, so the daemon says the same things in a terminal as under systemd. Each
message opens its own socket: there is nothing to close, and a systemd that was replaced while
the daemon ran hears the next message.
"""

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

# systemd drops a message of more than 4096 bytes whole; a character has at most four.
STATUS_CHARACTERS = 800


class Notifier:
    """Speaks to the service manager at ``address``, the value of ``NOTIFY_SOCKET``."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._failing = False

    def ready(self) -> None:
        """Start-up, or the reload announced by ``reloading``, is over."""
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def reloading(self, monotonic_usec: int) -> None:
        """A reload begins; ``monotonic_usec`` is CLOCK_MONOTONIC now. ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_usec}")

    def status(self, text: str) -> None:
        """The sentence that ``systemctl status`` shows."""
        # A line break would end the assignment and let the text begin another one.
        line = " ".join(text.split())
        self._send(f"STATUS={line[:STATUS_CHARACTERS]}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def extend_timeout(self, usec: int) -> None:
        """Ask for ``usec`` more from now, while starting, reloading or stopping takes long."""
        self._send(f"EXTEND_TIMEOUT_USEC={usec}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            _send_datagram(self._address, message.encode(errors="replace"))
        except OSError as error:
            if not self._failing:
                log.warning("systemd_unreachable", extra={"reason": error.strerror or str(error)})
            self._failing = True
        else:
            self._failing = False


def watchdog_interval(env: Mapping[str, str]) -> float | None:
    """Seconds between two ``watchdog`` messages, or None if systemd expects none of us.

    A third of what systemd allows: one message may be late, or lost, and the next is in time.
    """
    if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed = env.get("WATCHDOG_USEC", "")
    if not allowed.isascii() or not allowed.isdigit() or int(allowed) == 0:
        return None
    return int(allowed) / 1_000_000 / 3


def _send_datagram(address: str, message: bytes) -> None:
    # An abstract name is written with "@" where the kernel wants NUL.
    name = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        channel.sendto(message, name)
