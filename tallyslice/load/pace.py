"""When each request is due. Pure: from numbers to seconds after the start.

An **open** loop has a schedule that does not care how the server does, as the world's users do not: a latency counts
from when its request was due, so a server that stands still for a second has not one slow request but a second's worth
of them. In a **closed** loop each connection sends its next request when the one before is answered: this finds out how
many requests a server can take, and says nothing about latency at any lower rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Pace(Protocol):
    """A schedule."""

    def due(self, number: int, elapsed_seconds: float) -> float | None:
        """How long after the start a request is due, counted from 0; None: there is no such request any more."""

    def behind(self, number: int, elapsed_seconds: float) -> int:
        """How many requests from this one on are due."""

    @property
    def length_seconds(self) -> float:
        """How long it goes on if the servers keep up; may be infinite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """So many a second, at equal distances.

    Attributes:
        rate: requests a second.
        requests: how many in all.
    """

    rate: float
    requests: int

    def due(self, number: int, elapsed_seconds: float) -> float | None:  # noqa: ARG002 - that is the point of it
        """Request n is due n intervals after the start, whatever became of those before."""
        return number / self.rate if number < self.requests else None

    def behind(self, number: int, elapsed_seconds: float) -> int:
        """What should have been sent."""
        return max(0, min(int(elapsed_seconds * self.rate) + 1, self.requests) - number)

    @property
    def length_seconds(self) -> float:
        """To the last request."""
        return self.requests / self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """As fast as the connections allow, until one of the two is reached.

    Attributes:
        seconds: how long; None: no matter how long.
        requests: how many in all; None: no matter how many.
    """

    seconds: float | None = None
    requests: int | None = None

    def due(self, number: int, elapsed_seconds: float) -> float | None:
        """Each request is due when there is a connection for it."""
        if self.seconds is not None and elapsed_seconds >= self.seconds:
            return None
        if self.requests is not None and number >= self.requests:
            return None
        return elapsed_seconds

    def behind(self, number: int, elapsed_seconds: float) -> int:  # noqa: ARG002 - it is never behind
        """It has no schedule to be behind of."""
        return 0

    @property
    def length_seconds(self) -> float:
        """As long as it was told, if it was."""
        return math.inf if self.seconds is None else self.seconds
