"""Who has called how often, by the ``limits`` library: its fixed windows, over a store of our own.

The library's own store in memory starts a thread for every ten milliseconds of traffic, reads the system's clock, and
has no bound on how many callers it remembers. This one is a dictionary with a bound and a clock that is passed in::

    key of caller and rate -> [requests in its window, when the window ends]      oldest window first

A window begins with a caller's first request and ends by itself; what is known of an address goes with it.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from limits import RateLimitItemPerSecond
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from common.rates import Rate

CALLERS_MAX = 16_384  # some 5 MiB; whoever comes with more addresses than that pushes out his own oldest ones first


class Spent(NamedTuple):
    """Somebody has called as often as he may.

    Attributes:
        rate: how often that is.
        seconds: until he may again.
    """

    rate: Rate
    seconds: int


class Windows(Storage):
    """A store for the library, of at most so many windows."""

    STORAGE_SCHEME = None  # not to be had by a URL

    def __init__(self, *, windows_max: int, now: Callable[[], float]) -> None:
        super().__init__()
        self._windows: OrderedDict[str, list[float]] = OrderedDict()
        self._windows_max = windows_max
        self._now = now

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the library would wrap if it was asked to."""
        return KeyError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count; the library's name for it."""
        window = self._windows.get(key)
        now = self._now()
        if window is None or window[1] <= now:
            self._make_room(now)
            window = self._windows[key] = [0, now + expiry]
            self._windows.move_to_end(key)
        window[0] += amount
        return int(window[0])

    def get(self, key: str) -> int:
        """How many have been counted."""
        window = self._windows.get(key)
        return 0 if window is None or window[1] <= self._now() else int(window[0])

    def get_expiry(self, key: str) -> float:
        """When the window ends, by the clock that was passed in."""
        window = self._windows.get(key)
        return self._now() if window is None else window[1]

    def clear(self, key: str) -> None:
        """Forget a caller."""
        self._windows.pop(key, None)

    def check(self) -> bool:
        """It is always there."""
        return True

    def reset(self) -> int:
        """Forget all."""
        found = len(self._windows)
        self._windows.clear()
        return found

    def _make_room(self, now: float) -> None:
        # Nearly all have the same span, so the first one ends first.
        while self._windows:
            oldest = next(iter(self._windows))
            if self._windows[oldest][1] > now and len(self._windows) < self._windows_max:
                return
            del self._windows[oldest]


class Limiter:
    """Counts requests of callers, each kind of them in a limiter of its own.

    Args:
        callers_max: of how many it knows at a time; with one more, the one whose window began first is forgotten.
        now: seconds that never go back.
    """

    def __init__(self, *, callers_max: int = CALLERS_MAX, now: Callable[[], float] = time.monotonic) -> None:
        self._windows = Windows(windows_max=callers_max, now=now)
        self._strategy = FixedWindowRateLimiter(self._windows)
        self._now = now

    def __len__(self) -> int:
        return len(self._windows)

    def spend(self, caller: str, rate: Rate) -> Spent | None:
        """Count a request; None if the caller may make it."""
        item = RateLimitItemPerSecond(rate.requests, rate.seconds)
        if self._strategy.hit(item, caller):
            return None
        seconds = self._strategy.get_window_stats(item, caller).reset_time - self._now()
        return Spent(rate, max(1, math.ceil(seconds)))
