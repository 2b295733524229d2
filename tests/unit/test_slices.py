"""Time and slices, as in common/slices.py."""

import pytest

from common.slices import EARLIEST, LATEST, SECOND, Micros, SliceClock, SliceId, format_instant, parse_instant

MAY_20 = Micros(1_495_238_400 * SECOND)  # 2017-05-20T00:00:00Z


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0", 0),
        ("1495238400", MAY_20),
        ("1495238400.5", MAY_20 + 500_000),
        ("1495238400000", MAY_20),
        ("1495238400001", MAY_20 + 1000),
        ("-1", -SECOND),
        ("-0.5", -500_000),
        ("2017-05-20T00:00:00Z", MAY_20),
        ("2017-05-20t00:00:00z", MAY_20),
        ("2017-05-20 00:00:00Z", MAY_20),
        ("2017-05-20T02:00:00+02:00", MAY_20),
        ("2017-05-19T19:30:00-04:30", MAY_20),
        ("2017-05-20T00:00:00.25Z", MAY_20 + 250_000),
        ("0001-01-01T00:00:00Z", EARLIEST),
        ("9999-12-31T23:59:59.999999Z", LATEST),
    ],
)
def test_every_form_of_a_timestamp_is_read(text, micros):
    """Seconds, milliseconds and RFC 3339 give the same instants."""
    assert parse_instant(text) == micros


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1.9999999", 1_999_999),
        ("-0.0000001", -1),
        ("123456789012.999999999999999999", 123_456_789_012_999_999),
        ("2017-05-20T00:00:00.999999999Z", MAY_20 + 999_999),
    ],
)
def test_digits_finer_than_a_microsecond_never_move_an_event_into_a_later_slice(text, micros):
    """They are cut off towards the past, however many there are."""
    assert parse_instant(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "", " 1", "1 ", "1\n", "+1", "1e9", "0x10", "1_000", "NaN", "Infinity", "1.", ".5",
        "12345678901234", "\u0661", "2017-05-20", "2017-05-20T00:00:00", "2017-05-20T00:00Z", "20170520T000000Z",
        "2017-05-20T00:00:00+0200",
    ],
)  # fmt: skip
def test_what_is_no_timestamp_is_refused_without_an_echo(text):
    """No other form is read, and the message says which are."""
    with pytest.raises(ValueError, match=r"^must be Unix seconds, 13-digit milliseconds, or RFC 3339 with an offset$"):
        parse_instant(text)


def test_a_plus_that_became_a_space_is_explained():
    """In a query an unescaped + is a space: the message says so, since nobody would guess."""
    with pytest.raises(ValueError, match="write the \\+ of an offset as %2B"):
        parse_instant("2017-05-20T02:00:00 02:00")


@pytest.mark.parametrize(
    "text",
    [
        "2017-02-29T00:00:00Z",
        "2017-05-20T24:00:01Z",
        "2017-05-20T23:59:60Z",
        "2017-05-20T00:00:00+24:00",
        "0000-01-01T00:00:00Z",
    ],
)
def test_a_date_that_does_not_exist_is_refused(text):
    """The form alone is not enough."""
    with pytest.raises(ValueError, match="is not a date and time that exists"):
        parse_instant(text)


@pytest.mark.parametrize(
    "text", ["999999999999", "-99999999999", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"]
)
def test_an_instant_without_a_printable_date_is_refused(text):
    """Outside the years 1 to 9999 a slice would have no start to show."""
    with pytest.raises(ValueError, match="must be in the years 1 to 9999"):
        parse_instant(text)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (MAY_20, "2017-05-20T00:00:00Z"),
        (MAY_20 + 1, "2017-05-20T00:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (EARLIEST - 1, "0001-01-01T00:00:00Z"),
        (LATEST + 1, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_an_instant_is_shown_in_utc(instant, text):
    """With as many digits as it has; what cannot be shown is shown as the edge."""
    assert format_instant(instant) == text


def test_a_slice_begins_with_its_start_and_ends_before_its_end():
    """The boundary belongs to the later slice, on both sides of slice 0."""
    clock = SliceClock(first=MAY_20, length_seconds=3600)

    assert clock.slice_at(MAY_20) == 0
    assert clock.slice_at(Micros(MAY_20 - 1)) == -1
    assert clock.slice_at(Micros(MAY_20 + 3600 * SECOND - 1)) == 0
    assert clock.slice_at(Micros(MAY_20 + 3600 * SECOND)) == 1
    assert (clock.start(-1), clock.end(-1)) == (MAY_20 - 3600 * SECOND, MAY_20)
    assert clock.start(SliceId(41)) == parse_instant("2017-05-21T17:00:00Z")
