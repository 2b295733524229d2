"""Times as people say them: ``now``, ``-1h``, ``2017-05-20T12:00``, Unix seconds, or the number of a slice. Pure.

A whole number of at most nine digits is a slice; with more it is Unix seconds, or milliseconds (nine digits of Unix
seconds end in 2001). ``slice:N`` is a slice whatever N is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from common.slices import EARLIEST, EPOCH, LATEST, SECOND, Micros, SliceClock, SliceId, parse_instant
from common.wire import SLICE_MAX, SLICE_MIN

FORMS = "now, -1h (s, m, h, d, w), 2017-05-20, 2017-05-20T12:00 (UTC, or with an offset), Unix seconds, or a slice: 41"

_SLICE = re.compile(r"(?:slice:)(-?[0-9]{1,19})|(-?[0-9]{1,9})", re.ASCII)
_AGO = re.compile(r"([+-])([0-9]{1,9})([smhdw])", re.ASCII)
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """An instant, or a slice, whose instants are known once the cluster has told how it divides time."""

    instant: Micros | None = None
    slice: SliceId | None = None

    def within(self, clock: SliceClock) -> Micros:
        """An instant in the slice that is meant.

        Raises:
            ValueError: there is no such time.
        """
        if self.slice is None:
            assert self.instant is not None  # noqa: S101 - one of the two is there
            return self.instant
        start = clock.start(self.slice)
        if not EARLIEST <= start <= LATEST:
            message = f"slice {self.slice} is outside the years 1 to 9999"
            raise ValueError(message)
        return start


def read_moment(text: str, *, now: Micros) -> Moment:
    """What a text means.

    Raises:
        ValueError: it is none of the forms.
    """
    text = text.strip()
    if text == "now":
        return Moment(instant=now)
    if match := _SLICE.fullmatch(text):
        return Moment(slice=_slice(int(match[1] or match[2])))
    if match := _AGO.fullmatch(text):
        away = int(match[2]) * _UNIT_SECONDS[match[3]] * SECOND
        return Moment(instant=_bounded(now - away if match[1] == "-" else now + away))
    try:
        return Moment(instant=parse_instant(text))
    except ValueError:
        return Moment(instant=_from_iso(text))


def _slice(number: int) -> SliceId:
    if not SLICE_MIN <= number <= SLICE_MAX:
        message = "a slice is an int64"
        raise ValueError(message)
    return SliceId(number)


def _from_iso(text: str) -> Micros:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"must be {FORMS}"
        raise ValueError(message) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return _bounded((moment - EPOCH) // timedelta(microseconds=1))


def _bounded(micros: int) -> Micros:
    if not EARLIEST <= micros <= LATEST:
        message = "must be in the years 1 to 9999"
        raise ValueError(message)
    return Micros(micros)
