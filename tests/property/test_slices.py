"""Slice arithmetic and timestamps hold for every instant, before slice 0 and before 1970 too."""

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from common.slices import EARLIEST, EPOCH, LATEST, SECOND, Micros, SliceClock, format_instant, parse_instant

instants = st.integers(EARLIEST, LATEST).map(Micros)
clocks = st.builds(SliceClock, first=instants, length_seconds=st.integers(1, 10**9))
moments = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1))  # noqa: DTZ001 - the zone comes later


@given(clocks, instants)
def test_every_instant_lies_in_the_span_of_its_slice(clock, instant):
    """Slices cover time without gap and overlap."""
    slice_id = clock.slice_at(instant)

    assert clock.start(slice_id) <= instant < clock.end(slice_id)
    assert clock.end(slice_id) - clock.start(slice_id) == clock.length_seconds * SECOND
    assert clock.end(slice_id) == clock.start(slice_id + 1)
    assert -(1 << 63) <= slice_id < 1 << 63


@given(clocks, st.integers(-(10**9), 10**9))
def test_the_first_and_last_instant_of_a_slice_belong_to_it(clock, slice_id):
    """Negative slices too."""
    assert clock.slice_at(clock.start(slice_id)) == slice_id
    assert clock.slice_at(Micros(clock.end(slice_id) - 1)) == slice_id


@given(instants)
def test_an_instant_survives_being_shown(instant):
    """parse(format(x)) == x, to the microsecond."""
    assert parse_instant(format_instant(instant)) == instant


@given(st.integers(-(10**11), 10**11), st.text("0123456789", min_size=1, max_size=18), st.booleans())
def test_seconds_are_read_exactly_and_cut_towards_the_past(whole, fraction, negative):
    """As exact arithmetic would have it; no float comes in between."""
    text = f"{'-' if negative else ''}{abs(whole)}.{fraction}"
    exact = Fraction(text) * SECOND // 1
    if not EARLIEST <= exact <= LATEST:
        return

    assert parse_instant(text) == exact


@given(st.integers(10**12, 10**13 - 1))
def test_thirteen_digits_are_milliseconds(milliseconds):
    """And nothing else has thirteen."""
    assert parse_instant(str(milliseconds)) == milliseconds * 1000


@given(moments, st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_an_offset_names_the_same_instant(moment, minutes):
    """RFC 3339 in any zone is read as datetime reads it."""
    shown = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))

    assert parse_instant(shown.isoformat()) == (shown.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)


@given(st.text(max_size=40))
def test_no_text_raises_anything_but_a_value_error(text):
    """Nor is any text echoed."""
    try:
        parse_instant(text)
    except ValueError as error:
        assert len(text) < 4 or text not in str(error)  # noqa: PT017 - most texts raise, some do not
