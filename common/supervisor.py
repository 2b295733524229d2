"""What a node tells the program that started it, if that asks: systemd, with ``Type=notify``.

So a node that cannot start (a broken file, a port in use) fails the start itself, instead of shortly after it. What is
told is that a node listens, not that it is ready: a worker whose disk is nearly full is not, and must not be killed for
it.
"""

from __future__ import annotations

import contextlib
import os
import socket

LISTENING, LEAVING = "READY=1", "STOPPING=1"


def tell_supervisor(state: str) -> None:
    """Say it, where somebody listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # An "@" stands for the null byte with which the name of a socket without a file begins.
    name = f"\0{address[1:]}" if address.startswith("@") else address
    # Whoever wants to know and cannot be told is not worth failing for.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(state.encode(), name)
