"""Events a second, from counts that are looked at once in a while."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WINDOW_SECONDS = 5.0  # long enough to be read, short enough to follow what one does


class Rate:
    """Of a total that only grows, over the last seconds in which it was looked at."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, at: float, total: int) -> float | None:
        """The rate, now that the total is this; None before there are two looks within the window.

        Args:
            at: in seconds, by a clock that only goes forward.
            total: what grows; where it falls, whoever counts has begun anew.
        """
        seen = self._seen
        if seen and total < seen[-1][1]:
            seen.clear()
        seen.append((at, total))
        # A little more than the window, so that a late tick does not leave one look too few.
        while at - seen[0][0] > WINDOW_SECONDS * 1.1:
            seen.popleft()
        begun, before = seen[0]
        return (total - before) / (at - begun) if at > begun else None


class Growth:
    """How many events more the slices of a worker have than when it was first asked."""

    def __init__(self) -> None:
        self.total = 0
        self._counts: Mapping[int, int] | None = None

    def note(self, counts: Mapping[int, int]) -> None:
        """The worker has told so many events for each of these slices; of a new slice, from nothing."""
        if self._counts is not None:
            before = self._counts
            # A worker that lost data has fewer: that is not growth, and not its opposite either.
            self.total += sum(max(0, count - before.get(at, 0)) for at, count in counts.items())
        self._counts = counts
