"""What an event is, and how one is read from the fields of a request. The only place that knows field names.

::

    field       form                                     in
    timestamp   see common/slices.py                     query, form, JSON (there a number too)
    user        1 to 256 bytes of UTF-8                  query, form, JSON string
    event       the type by name                         query, form, JSON string
    click, ...  the type as a flag, its value ignored    query, form, JSON (anything but false)
    id          optional, 1 to 256 bytes of UTF-8        query, form, JSON string

Exactly one type per event. A field that counts, given twice, is an error; a name that is none of these is a property.
Names are compared byte for byte: nothing is trimmed, folded or normalised, so two users never merge.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from common.errors import Malformed
from common.slices import Micros, parse_instant

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMESTAMP, USER, EVENT, ID = "timestamp", "user", "event", "id"
FIELD_NAMES = frozenset({TIMESTAMP, USER, EVENT, ID})

# Words that stand for something else in a request or an answer: a type of that name could not be told from it.
RESERVED_TYPES = FIELD_NAMES | {
    "dt", "ts", "userid", "userId", "messageId", "format", "partial",
    "slice", "worker", "unique_users", "unqiue_users", "clicks", "impressions", "late", "spooled",
}  # fmt: skip
EVENT_TYPE = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)

CLASSIC_TYPES = frozenset({"click", "impression"})
"""The types that every cluster may take as flags, and that the summary has fields of their own for."""

TEXT_BYTES_MAX = 256  # of a user name or an id: longer ones are mistakes, such as a whole cookie
FIELDS_MAX = 128  # in one event; properties included


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something a user did at a time. Lives only until its user has become a key."""

    timestamp: Micros
    user: bytes
    type: str
    id: bytes | None = None

    def __repr__(self) -> str:
        """Show nothing that could name anybody."""
        return f"Event(type={self.type!r})"


@dataclass(frozen=True, slots=True)
class EventTypes:
    """The types that a cluster accepts: a set of names, or any name at all (None)."""

    accepted: frozenset[str] | None

    @property
    def flags(self) -> frozenset[str]:
        """The types that may stand as a flag: all that are listed; of "any" only click and impression."""
        return CLASSIC_TYPES if self.accepted is None else self.accepted

    def __contains__(self, name: str) -> bool:
        """Whether an event of this type is taken."""
        return is_event_type(name) if self.accepted is None else name in self.accepted

    def __str__(self) -> str:
        """For error messages."""
        return "any" if self.accepted is None else ", ".join(sorted(self.accepted))


class JsonNumber(str):
    """The digits of a number in JSON, as they were written: a float would round a timestamp."""

    __slots__ = ()


Field = tuple[str, Any]


def is_event_type(name: str) -> bool:
    """Whether an event type may have this name."""
    return EVENT_TYPE.fullmatch(name) is not None and name not in RESERVED_TYPES


def read_urlencoded(text: str) -> list[Field]:
    """Read a query string or a urlencoded form, strictly.

    Raises:
        Malformed: its bytes are not UTF-8 (a replacement character would make two names one), or there are too many
            fields.
    """
    if text.isascii() and "%" not in text and "+" not in text and text.count("&") < FIELDS_MAX:
        # Nothing to decode: most of what programs send, in a third of the time.
        return [(name, value) for part in text.split("&") if part for name, _, value in (part.partition("="),)]
    try:
        text.encode()  # raw bytes beyond ASCII arrive as surrogates when they are not UTF-8
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except UnicodeError:
        message = "the bytes behind a % are not UTF-8"
        # From None: the error that was caught quotes the input.
        raise Malformed(message) from None
    except ValueError:
        message = f"there are more than {FIELDS_MAX} fields"
        raise Malformed(message) from None


def read_json(body: bytes) -> list[Field]:
    """Read one JSON object, numbers as they were written, fields given twice still there.

    Raises:
        Malformed: it is not UTF-8, not JSON, not an object, or has too many fields.
    """
    try:
        pairs = json.loads(
            body.decode(),
            object_pairs_hook=_Pairs,
            parse_int=JsonNumber,
            parse_float=JsonNumber,
            parse_constant=_no_constant,
        )
    except UnicodeError:
        message = "the body is not UTF-8"
        raise Malformed(message) from None
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise Malformed(message) from None
    except (ValueError, RecursionError):
        message = "the body is not JSON"
        raise Malformed(message) from None
    if not isinstance(pairs, _Pairs):
        message = "the body must be one JSON object"
        raise Malformed(message)
    if len(pairs) > FIELDS_MAX:
        message = f"there are more than {FIELDS_MAX} fields"
        raise Malformed(message)
    return pairs


class _Pairs(list[Field]):
    """An object of JSON as its pairs, told apart from an array."""


def _no_constant(name: str) -> None:
    message = f"{name} is not JSON"
    raise ValueError(message)


def parse_event(fields: Iterable[Field], types: EventTypes) -> Event:
    """Make an event of the fields of a request.

    Raises:
        Malformed: a field is missing, given twice, or not of its form; names the field, never its value.
    """
    flags = types.flags
    found: dict[str, Any] = {}
    flag: str | None = None
    for name, value in fields:
        if name not in FIELD_NAMES:
            if name not in flags:
                continue
            if value is False or value is None:
                message = "is a flag: leave it out where it does not apply"
                raise Malformed(message, field=name)
            if flag is not None:
                message = "is given twice" if flag == name else f"is a second event type beside {flag}"
                raise Malformed(message, field=name)
            flag = name
        elif name in found:
            message = "is given twice"
            raise Malformed(message, field=name)
        else:
            found[name] = value
    return Event(
        timestamp=_timestamp(found),
        user=_text(found, USER),
        type=_type(found, flag, types),
        id=_text(found, ID) if ID in found else None,
    )


def parse_timestamp(value: str) -> Micros:
    """Read a timestamp of a request.

    Raises:
        Malformed: it is of no accepted form.
    """
    try:
        return parse_instant(value)
    except ValueError as error:
        raise Malformed(str(error), field=TIMESTAMP) from None


def _timestamp(found: dict[str, Any]) -> Micros:
    value = found.get(TIMESTAMP)
    if value is None:
        message = "is missing"
        raise Malformed(message, field=TIMESTAMP)
    if not isinstance(value, str):
        message = "must be a string or a number"
        raise Malformed(message, field=TIMESTAMP)
    return parse_timestamp(value)


def _text(found: dict[str, Any], name: str) -> bytes:
    value = found.get(name)
    if value is None:
        message = "is missing"
        raise Malformed(message, field=name)
    if not isinstance(value, str) or isinstance(value, JsonNumber):
        # 7 and "7" would be two names for one writer and one name for another.
        message = "must be a string"
        raise Malformed(message, field=name)
    return encode_text(value, name)


def encode_text(text: str | None, field: str) -> bytes:
    """A user name or an id as the bytes that are hashed.

    Raises:
        Malformed: it is missing, not UTF-8, empty or too long.
    """
    if text is None:
        raise Malformed("is missing", field=field)
    try:
        encoded = text.encode()
    except UnicodeError:
        raise Malformed("is not UTF-8", field=field) from None
    if not 1 <= len(encoded) <= TEXT_BYTES_MAX:
        raise Malformed(f"must have 1 to {TEXT_BYTES_MAX} bytes, not {len(encoded)}", field=field)
    return encoded


def _type(found: dict[str, Any], flag: str | None, types: EventTypes) -> str:
    if EVENT not in found:
        if flag is None:
            message = f"no event type is given; accepted: {types}"
            raise Malformed(message, field=EVENT)
        return flag
    if flag is not None:
        message = f"is a second event type beside {flag}"
        raise Malformed(message, field=EVENT)
    name = found[EVENT]
    if not isinstance(name, str) or isinstance(name, JsonNumber):
        message = "must be a string"
        raise Malformed(message, field=EVENT)
    return require_type(name, types)


def require_type(name: str | None, types: EventTypes) -> str:
    """The name of an event type, if it is an accepted one.

    Raises:
        Malformed: it is missing, or not accepted.
    """
    if name is None:
        raise Malformed(f"no event type is given; accepted: {types}", field=EVENT)
    if name not in types:
        message = f"is not an accepted event type; accepted: {types}"
        if types.accepted is None:
            message = "is not an event type: 1 to 64 of A-Z a-z 0-9 _ . : - that are no reserved word"
        raise Malformed(message, field=EVENT)
    return name
