"""Slices as events come to them: the keys that hash their users, the route that they go, and when they take events.

Making one takes a claim at the registry, at worst; finding it again costs an event a look at two numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from cachetools import LRUCache

from common.errors import Malformed, NoAnswer, NotTaken, OutsideWindow, SliceClosed
from common.events import EVENT, TIMESTAMP
from common.routing import range_starts
from common.slices import EARLIEST, SECOND, Micros
from common.wire import NAMES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from api_node.membership import Membership
    from api_node.settled_routes import SettledRoutes
    from common.anonymise import Anonymiser, SliceKeys
    from common.config import ClusterConfig
    from common.events import EventTypes
    from common.routing import Route, WorkerId
    from common.slices import SliceClock, SliceId

PLACES_MAX = 1_000
LAG_EVERY = Micros(SECOND // 10)  # one event in so much time tells how late they come; to ask each would be felt


class Place:
    """A slice whose route is settled.

    Attributes:
        slice: the slice.
        route: its settled route.
        keys: what makes keys of its users' names.
        starts: where the ranges of the route begin; see ``range_starts``.
    """

    __slots__ = ("_types", "keys", "route", "slice", "starts")

    def __init__(self, slice_id: SliceId, route: Route, keys: SliceKeys) -> None:
        self.slice = slice_id
        self.route = route
        self.keys = keys
        self.starts = range_starts(len(route))
        self._types: set[str] = set()  # those seen, where a client may invent them

    def owner(self, user_key: bytes) -> WorkerId:
        """Whose range the key falls into."""
        return self.route[bisect_right(self.starts, user_key)]

    def require_type(self, event_type: str, types: EventTypes) -> None:
        """Keep the types of the slice within what a batch can name, where clients may invent them.

        Raises:
            Malformed: it would be one too many.
        """
        if types.accepted is not None or event_type in self._types:
            return
        if len(self._types) >= NAMES_MAX:
            message = f"slice {self.slice} has {NAMES_MAX} event types already, and takes no new one"
            raise Malformed(message, field=EVENT)
        self._types.add(event_type)


class _Window(NamedTuple):
    """Which instants are taken right now: from the later one of the first two to the last one."""

    past: Micros
    closed: Micros
    future: Micros


class Places:
    """The places that events came to of late."""

    def __init__(
        self,
        *,
        config: Callable[[], ClusterConfig],
        membership: Membership,
        routes: SettledRoutes,
        anonymiser: Anonymiser,
        now: Callable[[], Micros],
        note_lag: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._membership = membership
        self._routes = routes
        self._anonymiser = anonymiser
        self._now = now
        self._note_lag = note_lag
        self._lag_due = EARLIEST
        self._places: LRUCache[SliceId, Place] = LRUCache(maxsize=PLACES_MAX)
        self._latest: Place | None = None

    @property
    def clock(self) -> SliceClock:
        """The cluster's division of time.

        Raises:
            NotTaken: the node has not met its cluster yet.
        """
        try:
            return self._membership.clock
        except NoAnswer as error:
            raise NotTaken(error.detail) from error

    def open_span(self) -> tuple[Micros, Micros]:
        """The first and the last instant whose events are taken right now.

        Raises:
            NotTaken: the node has not met its cluster yet.
        """
        window = self._window(self._now())
        return max(window.past, window.closed), window.future

    def slice_at(self, timestamp: Micros) -> SliceId:
        """The slice of an event.

        Raises:
            NotTaken: the node has not met its cluster yet.
            OutsideWindow: it is too far from now.
            SliceClosed: it is too late for its slice.
        """
        slice_id = self.clock.slice_at(timestamp)
        now = self._now()
        window = self._window(now)
        if timestamp > window.future:
            far = f"is more than {self._config().max_future_seconds:g} s in the future"
            raise OutsideWindow(far, field=TIMESTAMP)
        if timestamp < window.past:
            raise OutsideWindow(f"is more than {self._config().max_past_seconds:g} s in the past", field=TIMESTAMP)
        if timestamp < window.closed:
            late = f"later than {self._config().close_after_seconds:g} s after its end"
            raise SliceClosed(f"slice {slice_id} is closed: it takes no events {late}", field=TIMESTAMP)
        if now >= self._lag_due:
            self._lag_due = Micros(now + LAG_EVERY)
            self._note_lag(max(0, now - timestamp) / SECOND)
        return slice_id

    def _window(self, now: Micros) -> _Window:
        config = self._config()
        past = closed = EARLIEST
        if config.max_past_seconds is not None:
            past = Micros(int(now - config.max_past_seconds * SECOND))
        if config.close_after_seconds is not None:
            # A slice is closed from its end and that on: this is the oldest one that is not.
            clock = self.clock
            closed = clock.start(clock.slice_at(Micros(int(now - config.close_after_seconds * SECOND))))
        return _Window(past, closed, Micros(int(now + config.max_future_seconds * SECOND)))

    def known(self, slice_id: SliceId) -> Place | None:
        """The place of a slice whose route this node knows."""
        latest = self._latest
        if latest is not None and latest.slice == slice_id:
            return latest
        place: Place | None = self._places.get(slice_id)
        if place is not None:
            self._latest = place
            return place
        route = self._routes.known(slice_id)
        return None if route is None else self._keep(slice_id, route)

    async def settled(self, slice_id: SliceId) -> Place:
        """The place of a slice, whose route is claimed if need be.

        Raises:
            NotTaken: it cannot be, right now.
            TooManySlices: it would be one slice too many.
        """
        return self.known(slice_id) or self._keep(slice_id, await self._routes.settle(slice_id))

    def _keep(self, slice_id: SliceId, route: Route) -> Place:
        place = Place(slice_id, route, self._anonymiser.slice_keys(slice_id))
        self._places[slice_id] = self._latest = place
        return place
