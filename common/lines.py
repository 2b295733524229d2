"""Many events in one body, as ``POST /events`` takes them: decoded in C as a whole, line by line only if that fails.

::

    body --decode_lines--> lines, typed but not checked            one call in C for all of them
      |
      +--(some line is not of its type)--> each line by itself: a Line, or what is wrong with it

    field       also               form
    timestamp   dt, ts             see common/slices.py; a number or a string
    user        userid, userId     string, 1 to 256 bytes of UTF-8
    event       -                  string: the type by name; flags are for single events
    id          messageId          string, 1 to 256 bytes of UTF-8

All other names are properties; null is as good as left out. A name given twice in one JSON object counts as its last
one, as most readers of JSON have it (RFC 8259, section 4); a field given under two of its names is an error. What is
said of a line does not depend on the lines beside it, as long as each of them holds one object.
"""

from __future__ import annotations

import json
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from common.errors import Malformed, TooLarge
from common.events import EVENT, ID, TIMESTAMP, USER, JsonNumber, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from common.events import Field

LINES_MAX = 65_536  # in one request: half a sender's queue, some tens of milliseconds of hashing
PIECE_BYTES_MAX = 256 << 10  # that are decoded in one go: a millisecond or two
_PIECE_LINES = 2048  # that are sorted in one go, or looked at one by one: some milliseconds, at worst tens of them
# What an array may hold before it is taken apart: whoever sends 16 MiB of {},{},{} would else get a gigabyte of us.
_BRACES = 4 * LINES_MAX
_COMMAS = 16 * LINES_MAX  # only of one that cannot be read as a whole
_EXPLAINED_BYTES = 64 << 10  # of one event, to say what is wrong with it; as large as a single one may be

NAMES = {
    TIMESTAMP: (TIMESTAMP, "dt", "ts"),
    USER: (USER, "userid", "userId"),
    EVENT: (EVENT,),
    ID: (ID, "messageId"),
}
"""What each field may be called."""
_FIELD_OF = {name: field for field, names in NAMES.items() for name in names}


class Line(msgspec.Struct, gc=False, kw_only=True):
    """One event as it was written: of the right types, and not checked beyond that. Shows nothing in ``repr``."""

    timestamp: int | float | str | None = None
    user: str | None = None
    event: str | None = None
    id: str | None = None
    dt: int | float | str | None = None
    ts: int | float | str | None = None
    userid: str | None = None
    userId: str | None = None  # noqa: N815 - the name on the wire
    messageId: str | None = None  # noqa: N815 - likewise

    def __repr__(self) -> str:
        """Name nobody."""
        return "Line()"


class _Digits(msgspec.Struct, gc=False, kw_only=True):
    """The same line with its timestamps as they were written."""

    timestamp: msgspec.Raw = msgspec.Raw()
    dt: msgspec.Raw = msgspec.Raw()
    ts: msgspec.Raw = msgspec.Raw()

    @property
    def given(self) -> str:
        """The one that is given; null is as good as none."""
        texts = (bytes(raw).decode() for raw in (self.timestamp, self.dt, self.ts))
        return next(text for text in texts if text not in ("", "null"))


_line = msgspec.json.Decoder(Line)
_array = msgspec.json.Decoder(list[Line])
_raw_array = msgspec.json.Decoder(list[msgspec.Raw])
_digits = msgspec.json.Decoder(_Digits)
_digits_array = msgspec.json.Decoder(list[_Digits])
_scanner = json.JSONDecoder()
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
_BOM = b"\xef\xbb\xbf"  # what some editors put before UTF-8


class Piece:
    """Some events of a body, in their order.

    Attributes:
        lines: each an event, or what is wrong with it.
    """

    __slots__ = ("_digits", "_read_digits", "lines")

    def __init__(
        self, lines: Sequence[Line | Malformed], read_digits: Callable[[], Sequence[_Digits]] | None = None
    ) -> None:
        self.lines = lines
        self._read_digits = read_digits
        self._digits: Sequence[_Digits] | None = None

    def digits(self, index: int) -> str:
        """The timestamp of a line that has a float there, as it was written: the float has rounded it."""
        if self._digits is None:
            assert self._read_digits is not None  # noqa: S101 - only what was decoded as a whole has floats
            self._digits = self._read_digits()
        return self._digits[index].given


def read_ndjson(body: bytes) -> Iterator[Piece]:
    """Read newline-delimited JSON, piece by piece, so that the caller may let others have the loop in between.

    Returns:
        Pieces of lines, those left out that are blank.

    Raises:
        TooLarge: there are more than ``LINES_MAX``, blank ones included: before any is read.
    """
    _require_few(body.rstrip().count(b"\n") + 1)
    return _ndjson_pieces(body.removeprefix(_BOM))


def read_json_events(body: bytes) -> Iterator[Piece]:
    """Read a JSON array of events, or one event as a JSON object.

    Raises:
        Malformed: it is neither.
        TooLarge: there are more than ``LINES_MAX``, or too many objects in them.
    """
    text = body.removeprefix(_BOM).strip()
    if not text.startswith(b"["):
        return iter([Piece([_read_one(text)])] if text else [])
    if text.count(b"{") > _BRACES:
        raise TooLarge(f"there are more than {_BRACES} objects in the array: send the events as lines")
    try:
        lines = _array.decode(text)
    except _UNREADABLE:
        elements = _elements(text)
        # Only now, when all of it is known to be JSON, so that none is counted of what is not.
        return (Piece([_read_one(bytes(element)) for element in elements[part]]) for part in _parts(len(elements)))
    _require_few(len(lines))
    digits = cache(lambda: _digits_array.decode(text))
    return (Piece(lines[part], partial(_digits_of, digits, part)) for part in _parts(len(lines)))


def _digits_of(digits: Callable[[], list[_Digits]], part: slice) -> list[_Digits]:
    return digits()[part]


def _parts(count: int) -> Iterator[slice]:
    """What of an array is a piece."""
    return (slice(at, at + _PIECE_LINES) for at in range(0, count, _PIECE_LINES))


def _elements(text: bytes) -> Sequence[msgspec.Raw | bytes]:
    """The elements of an array, whatever they are.

    Raises:
        Malformed: it is none.
        TooLarge: there are too many, or they are too large to be told apart.
    """
    if text.count(b",") > _COMMAS:
        raise TooLarge("there is an error in a large array: send the events as lines, to be told where")
    elements: Sequence[msgspec.Raw | bytes]
    try:
        elements = _raw_array.decode(text)
    except _UNREADABLE:
        # The decoder of the standard library takes halves of characters ("\\ud83d"), which come from clients that cut
        # text without looking; what they are part of is refused by itself, or is not looked at.
        try:
            elements = list(islice(_scan(text.decode()), LINES_MAX + 1))
        except (ValueError, IndexError, RecursionError):
            # From None: the error that was caught may quote the input.
            raise Malformed("the body is not JSON: one event, or an array of events, is expected") from None
    _require_few(len(elements))
    return elements


def _scan(text: str) -> Iterator[bytes]:
    """The elements of an array, one after the other.

    Raises:
        ValueError, IndexError, RecursionError: it is none.
    """
    at = 1
    while True:
        while text[at] in " \t\r\n":
            at += 1
        _, end = _scanner.raw_decode(text, at)
        yield text[at:end].encode()
        while text[end] in " \t\r\n":
            end += 1
        if text[end] == "]" and end == len(text) - 1:
            return
        if text[end] != ",":
            raise ValueError
        at = end + 1


def _ndjson_pieces(body: bytes) -> Iterator[Piece]:
    start = 0
    while start < len(body):
        stop = len(body)
        if stop - start > PIECE_BYTES_MAX:
            stop = body.rfind(b"\n", start, start + PIECE_BYTES_MAX) + 1
        if stop:
            yield from _read_pieces(body[start:stop])
        else:
            # A longer line, by itself: the decoder of lines would read as many objects as there are on it.
            stop = body.find(b"\n", start) + 1 or len(body)
            line = body[start:stop].strip()
            yield Piece([_read_one(line)] if line else [])
        start = stop


def read_fields(fields: Sequence[Field]) -> Line | Malformed:
    """One event of the fields of a form, or of a JSON object that the decoder had no line for."""
    found: dict[str, Any] = {}
    for name, value in fields:
        field = _FIELD_OF.get(name)
        if field is None or value is None:  # null, as the decoder of lines has it
            continue
        if field in found:
            return Malformed(GIVEN_TWICE, field=field)
        is_number = isinstance(value, JsonNumber)
        if not isinstance(value, str) or (is_number and field != TIMESTAMP):
            # Of a user, 7 and "7" would be two names for one writer and one name for another.
            return Malformed("must be a string or a number" if field == TIMESTAMP else "must be a string", field=field)
        if not _is_utf8(value):
            return Malformed("is not UTF-8", field=field)
        found[field] = str(value)
    return Line(**found)


GIVEN_TWICE = "is given twice"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeError:
        return False
    return True


def _read_pieces(text: bytes) -> Iterator[Piece]:
    try:
        lines = _line.decode_lines(text)
    except _UNREADABLE:
        pass
    else:
        # The decoder does not mind where a line ends. Where that shows, look closer; so at blank lines.
        if text.count(b"\n") + (not text.endswith(b"\n")) == len(lines):
            digits = cache(lambda: _digits.decode_lines(text))
            for part in _parts(len(lines)):
                yield Piece(lines[part], partial(_digits_of, digits, part))
            return
    given = [line for line in text.split(b"\n") if line.strip()]
    for part in _parts(len(given)):
        yield Piece([_read_one(line) for line in given[part]])


def _read_one(text: bytes) -> Line | Malformed:
    try:
        line = _line.decode(text)
    except _UNREADABLE:
        pass
    else:
        given = (line.timestamp, line.dt, line.ts)
        if float in map(type, given) and given.count(None) == len(given) - 1:
            # No float, which has rounded it; there is no piece that could be asked for the digits later.
            line.timestamp, line.dt, line.ts = _digits.decode(text).given, None, None
        return line
    if len(text) > _EXPLAINED_BYTES:
        return Malformed("the event is not JSON, or a field is not of its form; it is too large to be told which")
    try:
        return read_fields(read_json(text))
    except Malformed as error:
        # There it is told of a body; here of a line, or an element of an array.
        return Malformed(error.detail.replace("the body", "the event"))


def _require_few(count: int) -> None:
    if count > LINES_MAX:
        raise TooLarge(f"there are more than {LINES_MAX} events")
