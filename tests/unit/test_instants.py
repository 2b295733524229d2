"""Times as people say them."""

from __future__ import annotations

import pytest

from common.slices import SECOND, Micros, SliceClock, SliceId
from tallyslice.instants import Moment, read_moment

NOW = Micros(1_495_281_600 * SECOND)  # 2017-05-20T12:00:00Z
HOUR = 3600


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", 0),
        ("-1h", -HOUR),
        ("-90s", -90),
        ("-15m", -900),
        ("+2d", 48 * HOUR),
        ("-1w", -168 * HOUR),
        ("2017-05-20", -12 * HOUR),
        ("2017-05-20T11:00", -HOUR),
        ("2017-05-20 11:00", -HOUR),
        ("2017-05-20T11:00:00Z", -HOUR),
        ("2017-05-20T12:00+02:00", -2 * HOUR),
        ("1495278000", -HOUR),
        ("1495278000000", -HOUR),
        ("1495278000.0", -HOUR),
    ],
)
def test_an_instant(text: str, seconds: int) -> None:
    """Relative to now, a date, a date and time, or Unix time; UTC unless it says otherwise."""
    assert read_moment(text, now=NOW) == Moment(instant=Micros(NOW + seconds * SECOND))


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("41", 41), ("-3", -3), ("999999999", 999_999_999), ("slice:1495278000", 1495278000)]
)
def test_a_slice(text: str, number: int) -> None:
    """A whole number of at most nine digits is a slice; after ``slice:`` any is."""
    moment = read_moment(text, now=NOW)

    assert moment == Moment(slice=SliceId(number))
    clock = SliceClock(first=NOW, length_seconds=1)
    assert clock.slice_at(moment.within(clock)) == number


@pytest.mark.parametrize("text", ["", "yesterday", "-1y", "1h", "slice:x", "slice:99999999999999999999", "2017-13-01"])
def test_what_is_no_time_says_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|int64"):
        read_moment(text, now=NOW)


@pytest.mark.parametrize("text", ["-999999999w", "slice:9223372036854775807"])
def test_what_no_calendar_has_is_refused(text: str) -> None:
    clock = SliceClock(first=NOW, length_seconds=HOUR)

    with pytest.raises(ValueError, match="years 1 to 9999"):
        read_moment(text, now=NOW).within(clock)
