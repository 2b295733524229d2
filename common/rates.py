"""How often somebody may call: a number of requests in a span of time, as ``limits`` and its relatives write it.

::

    "1000/second"   "100 per minute"   "5/10 seconds"
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RATE_MAX = 1_000_000_000
SPAN_SECONDS_MAX = 86_400  # what is counted is lost with the process, so a longer span would promise too much
RATE_FORM = 'a number of requests in a span of at most a day, such as "1000/second", "100/minute" or "5/10 seconds"'

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(r"([0-9]{1,10}) ?(?:/| per ) ?([0-9]{1,5})? ?(second|minute|hour|day)s?", re.ASCII)


class RateRefused(ValueError):
    """The value is no rate."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds; the span begins with the first of them."""

    requests: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.requests}/{self.seconds}s"


def parse_rate(value: object) -> Rate:
    """Read a rate.

    Raises:
        RateRefused: it is none, or over the bounds.
    """
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise RateRefused(RATE_FORM)
    rate = Rate(int(found[1]), int(found[2] or 1) * _SECONDS[found[3]])
    if not 1 <= rate.requests <= RATE_MAX or not 1 <= rate.seconds <= SPAN_SECONDS_MAX:
        raise RateRefused(RATE_FORM)
    return rate
