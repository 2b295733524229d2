"""Latencies as an HDR histogram: every value from a microsecond to an hour, each to a thousandth of itself.

Means hide what users feel, and a list of millions of values does not fit: a histogram of fixed size keeps each
percentile, and histograms of several runs or connections add up exactly.
"""

from __future__ import annotations

from typing import Any, Self

from hdrh.histogram import HdrHistogram

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_MICROSECONDS, _MILLISECOND = 1_000_000, 1_000
_LEAST, _MOST = 1, 3_600 * _MICROSECONDS
_DIGITS = 3


class Latency:
    """How long things took."""

    def __init__(self) -> None:
        self._histogram: Any = HdrHistogram(_LEAST, _MOST, _DIGITS)
        self._record = self._histogram.record_value

    def record(self, seconds: float) -> None:
        """Note one; beyond the bounds counts as the bound."""
        self._record(min(max(round(seconds * _MICROSECONDS), _LEAST), _MOST))

    def add(self, other: Self) -> None:
        """Take over all that another one noted."""
        self._histogram.add(other._histogram)

    @property
    def count(self) -> int:
        """How many were noted."""
        return int(self._histogram.get_total_count())

    def at(self, percentile: float) -> float:
        """So many percent took at most that many milliseconds; 100: the longest. 0 if nothing was noted."""
        if percentile >= 100:  # noqa: PLR2004 - percent
            return self.longest
        return int(self._histogram.get_value_at_percentile(percentile)) / _MILLISECOND if self.count else 0.0

    @property
    def longest(self) -> float:
        """The longest, in milliseconds."""
        return int(self._histogram.get_max_value()) / _MILLISECOND if self.count else 0.0

    def milliseconds(self) -> dict[str, float]:
        """What is worth showing: ``p50``, ``p90``, ``p99``, ``p99.9``, ``max``."""
        return {**{f"p{one:g}": self.at(one) for one in PERCENTILES}, "max": self.longest}
