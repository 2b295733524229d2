"""How much room there is on the disk of a data directory, and what a worker still does when there is little.

::

    free bytes        batches, claims   closing of slices (it frees space)   questions
    needed and more   taken             yes                                  answered
    less              refused           yes                                  answered
    less than 1/16    refused           no                                   answered

A disk that is really full would end the worker at its next commit: correct, but then nobody answers at all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import Unavailable

if TYPE_CHECKING:
    from common.logs import Log

# What a full group of batches may write to a slice of ten million users is of this size.
LOW_SPACE_BYTES = 256 << 20
_CLOSING_SHARE = 16


def free_bytes(folder: Path) -> int:
    """What may still be written to the file system of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


class Space:
    """The room on one disk. Any thread may ask."""

    def __init__(
        self,
        *,
        folder: Path,
        log: Log,
        needed_bytes: int = LOW_SPACE_BYTES,
        free_bytes: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._folder = folder
        self._log = log
        self._needed_bytes = needed_bytes
        self._free_bytes = free_bytes
        self._lock = threading.Lock()
        self._is_low = False

    @property
    def free_bytes(self) -> int:
        """How much there is."""
        return self._free_bytes(self._folder)

    def problem(self) -> str | None:
        """That there is too little, and how little; None if there is enough. Looks at the disk, which is cheap."""
        free = self.free_bytes
        low = free < self._needed_bytes
        with self._lock:
            # Once for each turn, whoever sees it first.
            turned, self._is_low = low != self._is_low, low
        if turned:
            if low:
                self._log.error("space_low", free_bytes=free, needed_bytes=self._needed_bytes)
            else:
                self._log.info("space_enough", free_bytes=free)
        if not low:
            return None
        return f"the disk has {free} free bytes, and {self._needed_bytes} are needed"

    def require(self) -> None:
        """Go on only if there is enough.

        Raises:
            Unavailable: there is not.
        """
        if problem := self.problem():
            raise Unavailable(problem)

    def allows_closing(self) -> bool:
        """Whether there is room for the little that must be written so that much can be removed."""
        return self.free_bytes * _CLOSING_SHARE >= self._needed_bytes
