"""Time and slices: which slice an instant falls into, and what span a slice covers.

Slice ``n`` covers ``[first + n*length, first + (n+1)*length)``. ``n`` is an int64 and may be negative. Time is a whole
number of microseconds since 1970-01-01T00:00:00Z throughout: integers divide exactly, floats would put an event that
stands on a boundary into the wrong slice.

::

    slice        -1             0              1
          |--------------|--------------|--------------|
                       first       first+length
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NewType

SliceId = NewType("SliceId", int)
Micros = NewType("Micros", int)
"""An instant: microseconds since 1970-01-01T00:00:00Z."""

SECOND = 1_000_000
"""Microseconds in a second."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What a datetime can show: instants outside are refused, so that every slice has a printable start.
EARLIEST = Micros(-62_135_596_800 * SECOND)
LATEST = Micros(253_402_300_800 * SECOND - 1)

_DIGITS_MAX = 13  # so many are milliseconds, fewer are seconds
_SECONDS = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,18})?", re.ASCII)
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)

INSTANT_PATTERN = (
    rf"^([0-9]{{1,{_DIGITS_MAX}}}|{_SECONDS.pattern}|"
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))$"
)
"""What ``parse_instant`` reads, for the description of the interface; it knows neither calendar nor bounds."""


def parse_instant(text: str) -> Micros:
    """Read Unix seconds (fraction allowed), 13-digit milliseconds, or RFC 3339 with an offset.

    Finer digits than a microsecond are cut off, so an event never moves into a later slice.

    Raises:
        ValueError: the text is none of these, or outside the years 1 to 9999; the message does not echo it.
    """
    if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX:
        return _bounded(int(text) * (1000 if len(text) == _DIGITS_MAX else SECOND))
    if _SECONDS.fullmatch(text):
        return _bounded(_micros_of_seconds(text))
    if _RFC3339.fullmatch(text):
        return _instant_of_rfc3339(text)
    hint = "; in a query, write the + of an offset as %2B" if re.search(r" [0-9]{2}:[0-9]{2}$", text) else ""
    message = f"must be Unix seconds, 13-digit milliseconds, or RFC 3339 with an offset{hint}"
    raise ValueError(message)


def _micros_of_seconds(text: str) -> int:
    # In integers of 10**-18 seconds, as fine as the pattern admits: a Decimal would round what has over 28 digits.
    whole, _, fraction = text.removeprefix("-").partition(".")
    exact = int(whole + fraction.ljust(18, "0"))
    return (-exact if text.startswith("-") else exact) // 10**12


def _instant_of_rfc3339(text: str) -> Micros:
    head, fraction = text[:19], re.search(r"\.([0-9]+)", text)
    offset = "+00:00" if text[-1] in "Zz" else text[-6:]
    try:
        moment = datetime.fromisoformat(f"{head[:10]}T{head[11:]}{offset}")
        # Counted from the epoch in days and seconds: .timestamp() would go through a float.
        whole = (moment - EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError) as error:
        message = "is not a date and time that exists"
        raise ValueError(message) from error
    micros = int(fraction.group(1)[:6].ljust(6, "0")) if fraction else 0
    return _bounded(whole * SECOND + micros)


def _bounded(micros: int) -> Micros:
    if not EARLIEST <= micros <= LATEST:
        message = "must be in the years 1 to 9999"
        raise ValueError(message)
    return Micros(micros)


def format_instant(instant: int) -> str:
    """RFC 3339 in UTC, with as many digits as needed: ``2017-05-21T17:00:00Z``. What has no such form: the edge."""
    moment = EPOCH + timedelta(microseconds=min(max(instant, EARLIEST), LATEST))
    return moment.replace(tzinfo=None).isoformat() + "Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceClock:
    """The cluster's division of time, as pinned at the registry.

    Attributes:
        first: the start of slice 0.
        length_seconds: the length of every slice; at least 1.
    """

    first: Micros
    length_seconds: int

    def slice_at(self, instant: Micros) -> SliceId:
        """The slice that the instant falls into; its start belongs to it, its end to the next one."""
        return SliceId((instant - self.first) // (self.length_seconds * SECOND))

    def start(self, slice_id: int) -> Micros:
        """The first instant of the slice."""
        return Micros(self.first + slice_id * self.length_seconds * SECOND)

    def end(self, slice_id: int) -> Micros:
        """The first instant after the slice."""
        return self.start(slice_id + 1)
