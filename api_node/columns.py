"""Sorts the lines of a bulk request into columns: per slice and worker the kinds, user keys and id keys of its events.

This loop is where a bulk request spends its time, about a microsecond an event, half of it in the hash of the user's
name. So it does per line only what differs from line to line: a line of the same slice as the one before it is known
by two comparisons; what a slice needs (its keys, its ranges, its types) is looked up when the slice changes.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from common.anonymise import LENGTHS, with_length
from common.errors import Malformed, RequestError
from common.events import ID, TEXT_BYTES_MAX, TIMESTAMP, USER, encode_text, parse_timestamp, require_type
from common.lines import GIVEN_TWICE, NAMES, Line
from common.slices import SECOND, Micros
from common.wire import NO_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from api_node.places import Place, Places
    from common.events import EventTypes
    from common.lines import Piece
    from common.routing import WorkerId
    from common.slices import SliceId

# The integers that stand for milliseconds, and for seconds: as common/slices.py has it for text.
_MILLISECONDS_MIN, _MILLISECONDS_MAX = 10**12, 10**13 - 1
_SECONDS_MAX = 10**12 - 1
_SECONDS_DIGITS, _FRACTION_DIGITS = 10, 18


class Column:
    """Events of one slice for one worker.

    Attributes:
        place: the slice.
        worker: whose range the users fall into.
        names: the event types that ``kinds`` point to; shared by all columns of the slice.
        kinds: one byte per event.
        users: user keys.
        ids: id keys; empty while no event has one.
        lines: where in the request the events stand.
    """

    __slots__ = ("ids", "kinds", "lines", "names", "place", "users", "worker")

    def __init__(self, place: Place, worker: WorkerId, names: list[str]) -> None:
        self.place = place
        self.worker = worker
        self.names = names
        self.kinds = bytearray()
        self.users: list[bytes] = []
        self.ids: list[bytes] = []
        self.lines: list[int] = []


class _Target:
    """A slice while lines are sorted into it."""

    __slots__ = ("columns", "kind_parts", "kinds", "names", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.names: list[str] = []
        self.kinds: dict[str | None, int] = {}
        self.kind_parts: list[bytes] = []  # of id keys
        self.columns = [Column(place, worker, self.names) for worker in place.route]

    def kind(self, event_type: str | None, types: EventTypes) -> int:
        """The index of an event type that comes for the first time.

        Raises:
            Malformed: it is none.
        """
        name = require_type(event_type, types)
        self.place.require_type(name, types)
        kind = self.kinds[name] = len(self.names)
        self.names.append(name)
        self.kind_parts.append(with_length(name.encode()))
        return kind


class Sorter:
    """Sorts the lines of one request; makes new columns for each piece of it."""

    def __init__(self, *, places: Places, types: EventTypes, fail: Callable[[int, RequestError], None]) -> None:
        """Take the parts.

        Args:
            places: the slices.
            types: the event types that are taken.
            fail: told of each line that is not, by its place in the request.
        """
        self._places = places
        self._types = types
        self._fail = fail
        self._targets: dict[SliceId, _Target] = {}

    def take_columns(self) -> list[Column]:
        """The columns with something in them; the next lines begin new ones."""
        columns = [column for target in self._targets.values() for column in target.columns if column.kinds]
        self._targets = {}
        return columns

    def sort(  # noqa: C901, PLR0912, PLR0915 - the loop of the module: a call per line would cost as much as the line
        self, piece: Piece, base: int, indexes: Iterable[int] | None = None
    ) -> dict[SliceId, list[int]]:
        """Sort lines of a piece into the columns.

        Args:
            piece: some lines of the request.
            base: where in the request the piece begins.
            indexes: which lines of it; all if None.

        Returns:
            What could not be sorted, because the route of its slice is not known yet: slice -> lines of the piece.

        Raises:
            NotTaken: the node has not met its cluster yet.
        """
        lines, clock, span = piece.lines, self._places.clock, self._places.open_span()
        unsettled: dict[SliceId, list[int]] = {}
        target = None
        first, last = 1, 0  # the instants of the target's slice that are taken
        low, high = 1, 0  # the integers that stand for them, in the unit seen last
        for index in range(len(lines)) if indexes is None else indexes:
            line = lines[index]
            try:
                if not isinstance(line, Line):
                    raise line
                if (
                    line.ts is not None
                    or line.dt is not None
                    or line.userId is not None
                    or line.userid is not None
                    or line.messageId is not None
                ):
                    line = _by_field(line)
                at = line.timestamp
                if at.__class__ is not int or not low <= at <= high:
                    instant = _instant(piece, index, line)
                    if not first <= instant <= last:
                        slice_id = self._places.slice_at(instant)
                        target = self._targets.get(slice_id) or self._target(slice_id)
                        if target is None:
                            unsettled.setdefault(slice_id, []).append(index)
                            first, last, low, high = 1, 0, 1, 0
                            continue
                        first, last = max(clock.start(slice_id), span[0]), min(clock.end(slice_id) - 1, span[1])
                        kinds, columns, starts = target.kinds, target.columns, target.place.starts
                        keys, column = target.place.keys, columns[0]
                        begin_user, begin_id = keys.begin_user, keys.begin_id
                    low, high = _integers(at, first, last)
                assert target is not None  # noqa: S101 - the first line has looked
                user = line.user
                name = b"" if user is None else user.encode()
                if not 0 < len(name) <= TEXT_BYTES_MAX:
                    encode_text(user, USER)
                digest = begin_user()
                digest.update(name)
                user_key = digest.digest()
                kind = kinds.get(line.event)
                if kind is None:
                    kind = target.kind(line.event, self._types)
                id_key = NO_ID
                if line.id is not None:
                    event_id = line.id.encode()
                    if not 0 < len(event_id) <= TEXT_BYTES_MAX:
                        encode_text(line.id, ID)
                    digest = begin_id()
                    digest.update(
                        LENGTHS[len(name)] + name + target.kind_parts[kind] + LENGTHS[len(event_id)] + event_id
                    )
                    id_key = digest.digest()
            except RequestError as error:
                self._fail(base + index, error)
                continue
            if starts:
                column = columns[bisect_right(starts, user_key)]
            if column.ids:
                column.ids.append(id_key)
            elif id_key is not NO_ID:
                column.ids = [NO_ID] * len(column.kinds) + [id_key]
            column.kinds.append(kind)
            column.users.append(user_key)
            column.lines.append(base + index)
        return unsettled

    def _target(self, slice_id: SliceId) -> _Target | None:
        place = self._places.known(slice_id)
        if place is None:
            return None
        target = self._targets[slice_id] = _Target(place)
        return target


def _by_field(line: Line) -> Line:
    """The line with its fields under their own names.

    Raises:
        Malformed: a field is given under two of its names.
    """
    found: dict[str, Any] = {}
    for field, names in NAMES.items():
        given = [value for name in names if (value := getattr(line, name)) is not None]
        if len(given) > 1:
            raise Malformed(GIVEN_TWICE, field=field)
        if given:
            found[field] = given[0]
    return Line(**found)


def _instant(piece: Piece, index: int, line: Line) -> Micros:
    at = line.timestamp
    if at is None:
        raise Malformed("is missing", field=TIMESTAMP)
    if not isinstance(at, float):
        return parse_timestamp(str(at))
    text = piece.digits(index)
    whole, _, fraction = text.partition(".")
    if (
        len(whole) == _SECONDS_DIGITS
        and whole.isdecimal()
        and len(fraction) <= _FRACTION_DIGITS
        and fraction.isdecimal()
    ):
        # What a clock of this age says in seconds: the same as below, in a fraction of the time.
        return Micros(int(whole) * SECOND + int(fraction[:6].ljust(6, "0")))
    return parse_timestamp(text)


def _integers(at: int | float | str | None, first: int, last: int) -> tuple[int, int]:  # noqa: PYI041 - not a float
    """The least and the greatest integer for an instant from ``first`` to ``last``, in the unit of ``at``."""
    if not isinstance(at, int):
        return 1, 0
    if at >= _MILLISECONDS_MIN:
        return max(-(-first // 1000), _MILLISECONDS_MIN), min(last // 1000, _MILLISECONDS_MAX)
    return max(-(-first // SECOND), -_SECONDS_MAX), min(last // SECOND, _SECONDS_MAX)
