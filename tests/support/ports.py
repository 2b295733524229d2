"""Loopback ports that nobody else takes while a test holds them, also when several test runs share the machine.

They come from below the range that the kernel gives to outgoing connections, so a restarted node finds its port free
again. Between test runs, a byte of one shared file is locked per port; the kernel unlocks it when the process ends.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST = 20_000, 30_000

_LOCKS = Path(tempfile.gettempdir()) / f"tallyslice-test-ports-{os.getuid()}"


class Ports:
    """The ports that this process holds."""

    def __init__(self) -> None:
        self._held: set[int] = set()
        # Never closed: closing any descriptor of the file would drop every lock of the process.
        self._file = os.open(_LOCKS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> int:
        """A port that is free and stays ours."""
        start = random.randrange(LAST - FIRST)
        for step in range(LAST - FIRST):
            port = FIRST + (start + step) % (LAST - FIRST)
            if port not in self._held and self._lock(port):
                if _is_free(port):
                    self._held.add(port)
                    return port
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, port)
        raise RuntimeError("every port for tests is taken")

    def give_back(self, port: int) -> None:
        """Let others have the port."""
        self._held.discard(port)
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, port)

    def _lock(self, port: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


PORTS = Ports()
