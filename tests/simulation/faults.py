"""What may happen to a process while it writes: it is killed at a chosen point, or the map of its file is full.

A process passes a point before each commit and after it. All chance comes from the history's one generator.
"""

from __future__ import annotations

from random import Random


class Killed(BaseException):
    """The process died here. No ordinary ``except`` of the product may catch it."""


class Faults:
    """What will happen to one process."""

    __slots__ = ("_full_share", "_points_left", "_random")

    def __init__(self, *, random: Random, full_share: float = 0.0) -> None:
        """Take the chances.

        Args:
            random: the history's.
            full_share: of the transactions, so many find the map full and are done again.
        """
        self._random = random
        self._full_share = full_share
        self._points_left = 0

    def kill_at(self, points: int) -> None:
        """The process dies when it passes its nth point from now on."""
        self._points_left = points

    def spare(self) -> None:
        """It lives on."""
        self._points_left = 0

    def point(self) -> None:
        """Pass a point.

        Raises:
            Killed: this was the one.
        """
        if self._points_left:
            self._points_left -= 1
            if not self._points_left:
                raise Killed

    def map_is_full(self) -> bool:
        """Whether the transaction that begins finds the map full."""
        return self._full_share > 0 and self._random.random() < self._full_share
