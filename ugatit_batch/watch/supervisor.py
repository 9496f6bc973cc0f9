"""Telling systemd, or whatever else has set `NOTIFY_SOCKET`, how the program goes.

The protocol of sd_notify(3): one datagram of `NAME=value` lines. Knows nothing of what is told.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys

_PATIENCE = 1.0
"""Seconds that a supervisor which takes nothing may hold the program up."""


def tell(**state: object) -> None:
    """Send states by their names in sd_notify(3). Does nothing where nobody listens, and never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if sys.platform == "win32" or not address:
        return
    if address.startswith("@"):
        # Linux's names that are in no file system.
        address = "\0" + address[1:]
    lines = (f"{name}={' '.join(str(value).splitlines())}" for name, value in state.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.settimeout(_PATIENCE)
        line.sendto("\n".join(lines).encode("utf-8", "replace"), address)


def ready() -> None:
    """The program has started and does its work."""
    tell(READY=1)


def status(text: str) -> None:
    """One line for people: what it does now. `systemctl status` shows it."""
    tell(STATUS=text)


def stopping() -> None:
    """The program is about to end."""
    tell(STOPPING=1)
