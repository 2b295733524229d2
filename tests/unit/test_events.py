"""Events are read from fields strictly, and no error echoes a user, as in common/events.py."""

import pytest

from common.errors import Malformed
from common.events import (
    FIELDS_MAX,
    RESERVED_TYPES,
    Event,
    EventTypes,
    is_event_type,
    parse_event,
    parse_timestamp,
    read_json,
    read_urlencoded,
)
from common.slices import Micros

CLASSIC = EventTypes(frozenset({"click", "impression"}))
SHOP = EventTypes(frozenset({"click", "sale"}))
ANY = EventTypes(None)
CANARY = "canary-of-tests"


def refused(fields, types=CLASSIC):
    """The field and the message of the refusal of these fields."""
    with pytest.raises(Malformed) as caught:
        parse_event(fields, types)
    assert CANARY not in str(caught.value)
    return caught.value.field, caught.value.detail


def query(text, types=CLASSIC):
    """The event that a query string stands for."""
    return parse_event(read_urlencoded(text), types)


def test_a_query_with_a_flag_is_an_event():
    """The flag's value is ignored, and so is what is no field of ours."""
    event = Event(timestamp=Micros(1_000_000), user=b"ann", type="click")

    assert query("timestamp=1&user=ann&click") == event
    assert query("timestamp=1&user=ann&click=0&colour=red&colour=blue") == event


def test_a_type_may_be_given_by_name():
    """Any accepted type."""
    assert query("timestamp=1&user=ann&event=impression").type == "impression"
    assert query("timestamp=1&user=ann&event=sale", SHOP).type == "sale"
    assert query("timestamp=1&user=ann&event=any.thing:at_all-7", ANY).type == "any.thing:at_all-7"


def test_of_any_type_only_the_classic_two_may_be_flags():
    """Otherwise each property would be a type."""
    assert query("timestamp=1&user=ann&click&colour=red", ANY).type == "click"
    assert refused(read_urlencoded("timestamp=1&user=ann&sale"), ANY) == (
        "event",
        "no event type is given; accepted: any",
    )


def test_a_json_body_is_an_event():
    """With the timestamp as a string or as a number, whose digits are all kept."""
    assert parse_event(
        read_json(
            b'{"timestamp": 1495238400.000001, "user": "\xc3\xa9", "event": "click", "id": "7", "more": {"a": [1]}}'
        ),
        CLASSIC,
    ) == Event(timestamp=Micros(1_495_238_400_000_001), user="é".encode(), type="click", id=b"7")
    assert parse_event(read_json(b'{"timestamp": "1", "user": "u", "click": true}'), CLASSIC).id is None


def test_names_are_kept_byte_for_byte():
    """Nothing is trimmed, folded or normalised: two users never merge."""
    names = ["ann", "Ann", " ann", "ann ", "e\u0301", "é", "%00", "a\u0000b"]
    users = [parse_event([("timestamp", "1"), ("user", name), ("click", "")], CLASSIC).user for name in names]

    assert users == [name.encode() for name in names]
    assert query("timestamp=1&click&user=a%2Bb+c").user == b"a+b c"


@pytest.mark.parametrize(
    ("fields", "field", "detail"),
    [
        ("user=U&click", "timestamp", "is missing"),
        ("timestamp=1&click", "user", "is missing"),
        ("timestamp=1&user=&click", "user", "must have 1 to 256 bytes, not 0"),
        ("timestamp=1&user=U", "event", "no event type is given; accepted: click, impression"),
        ("timestamp=1&user=U&click&impression", "impression", "is a second event type beside click"),
        ("timestamp=1&user=U&click&event=click", "event", "is a second event type beside click"),
        ("timestamp=1&user=U&click&click", "click", "is given twice"),
        ("timestamp=1&user=U&user=U&click", "user", "is given twice"),
        ("timestamp=1&timestamp=1&user=U&click", "timestamp", "is given twice"),
        ("timestamp=1&user=U&event=click&event=click", "event", "is given twice"),
        ("timestamp=1&user=U&click&id=1&id=2", "id", "is given twice"),
        ("timestamp=1&user=U&click&id=", "id", "must have 1 to 256 bytes, not 0"),
        ("timestamp=1&user=U&event=U", "event", "is not an accepted event type; accepted: click, impression"),
    ],
)
def test_what_is_missing_or_given_twice_is_refused(fields, field, detail):
    """The refusal names the field, and never its value."""
    assert refused(read_urlencoded(fields.replace("U", CANARY))) == (field, detail)


def test_a_timestamp_that_cannot_be_read_is_refused():
    """With the forms that can."""
    field, detail = refused(read_urlencoded(f"timestamp={CANARY}&user=u&click"))

    assert field == "timestamp"
    assert detail.startswith("must be Unix seconds")
    assert parse_timestamp("1") == 1_000_000


def test_an_overlong_name_is_refused():
    """256 bytes, not characters."""
    user = "é" * 128

    assert len(query(f"timestamp=1&user={user}&click").user) == 256
    assert refused([("timestamp", "1"), ("user", user + "x"), ("click", "")]) == (
        "user",
        "must have 1 to 256 bytes, not 257",
    )


@pytest.mark.parametrize(
    ("body", "field", "detail"),
    [
        (b'{"timestamp": 1, "user": 7, "click": 1}', "user", "must be a string"),
        (b'{"timestamp": 1, "user": ["u"], "click": 1}', "user", "must be a string"),
        (b'{"timestamp": 1, "user": null, "click": 1}', "user", "is missing"),
        (b'{"timestamp": 1, "user": "\\ud800", "click": 1}', "user", "is not UTF-8"),
        (b'{"timestamp": true, "user": "u", "click": 1}', "timestamp", "must be a string or a number"),
        (b'{"timestamp": null, "user": "u", "click": 1}', "timestamp", "is missing"),
        (b'{"timestamp": 1, "user": "u", "event": 5}', "event", "must be a string"),
        (b'{"timestamp": 1, "user": "u", "event": null}', "event", "must be a string"),
        (b'{"timestamp": 1, "user": "u", "click": 1, "id": 5}', "id", "must be a string"),
        (b'{"timestamp": 1, "user": "u", "click": 1, "id": null}', "id", "is missing"),
        (b'{"timestamp": 1, "user": "u", "click": false}', "click", "is a flag: leave it out where it does not apply"),
        (b'{"timestamp": 1, "user": "u", "user": "v", "click": 1}', "user", "is given twice"),
    ],
)
def test_a_json_value_of_another_type_is_refused(body, field, detail):
    """7 and "7" would be two users for one writer and one for another."""
    assert refused(read_json(body)) == (field, detail)


def test_of_any_type_a_name_must_still_be_one():
    """The message says what a name is."""
    field, detail = refused(read_urlencoded("timestamp=1&user=u&event=a%20b"), ANY)

    assert (field, detail[:21]) == ("event", "is not an event type:")


@pytest.mark.parametrize("text", ["user=%ff", "user=%c3%28", "user=\udcff"])
def test_bytes_that_are_not_utf8_are_refused(text):
    """A replacement character would make two names one."""
    with pytest.raises(Malformed, match="are not UTF-8") as caught:
        read_urlencoded(text)
    # An error's chain is what a traceback shows.
    assert caught.value.__suppress_context__


def test_fields_are_bounded():
    """In a query and in JSON."""
    assert len(read_urlencoded("&".join(["a=1"] * FIELDS_MAX))) == FIELDS_MAX
    with pytest.raises(Malformed, match="more than 128 fields"):
        read_urlencoded("&".join(["a=1"] * (FIELDS_MAX + 1)))
    with pytest.raises(Malformed, match="more than 128 fields"):
        read_json(b"{" + b",".join(b'"a%d": 1' % at for at in range(FIELDS_MAX + 1)) + b"}")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"\xff", "the body is not UTF-8"),
        (b"", "the body is not JSON: Expecting value at line 1 column 1"),
        (b'{"user": canary-of-tests}', "the body is not JSON: Expecting value at line 1 column 10"),
        (b'{"timestamp": NaN}', "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"[]", "the body must be one JSON object"),
        (b"7", "the body must be one JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body, detail):
    """The place is named, what stands there is not."""
    with pytest.raises(Malformed) as caught:
        read_json(body)

    assert caught.value.detail == detail
    assert CANARY not in str(caught.value)


def test_a_number_of_any_length_is_kept_as_it_is_written():
    """Python converts only some thousand digits; a property may have more."""
    assert read_json(b'{"a": ' + b"1" * 10_000 + b"}") == [("a", "1" * 10_000)]


@pytest.mark.parametrize("name", ["click", "a", "A.b:c_d-9", "x" * 64])
def test_names_of_event_types(name):
    """1 to 64 of a small alphabet."""
    assert is_event_type(name)


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "é", "a\n", "*users", *sorted(RESERVED_TYPES)])
def test_names_that_no_event_type_may_have(name):
    """Other characters, and words that mean something else in a request or an answer."""
    assert not is_event_type(name)


def test_accepted_types_contain_and_show_themselves():
    """A listed set takes its names, "any" takes every name."""
    assert "sale" in SHOP
    assert "impression" not in SHOP
    assert "sale" in ANY
    assert "user" not in ANY
    assert (str(SHOP), str(ANY)) == ("click, sale", "any")
    assert SHOP.flags == {"click", "sale"}


def test_an_event_shows_nothing_that_could_name_anybody():
    """What lands in a log by accident has the type only."""
    assert repr(query(f"timestamp=1&user={CANARY}&click&id={CANARY}")) == "Event(type='click')"
