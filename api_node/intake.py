"""The way in of events: fields -> event -> window -> slice -> route -> user key -> worker -> receipt.

One by one, or many of one request at a time. The steps are the same; many are sorted into columns first
(``columns.py``), and everything that need not be done per event is done per column.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from api_node.bulk import SPOOL, WORKER, BulkRequest, error_of
from api_node.sender import Done, Spooled
from common.errors import NotTaken, RequestError
from common.events import parse_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from api_node.bulk import Report
    from api_node.delivery import Fate, Waiter
    from api_node.node_metrics import ApiMetrics
    from api_node.places import Place, Places
    from api_node.worker_pool import WorkerPool
    from common.config import ClusterConfig
    from common.events import Event, Field
    from common.lines import Piece


_STOPPING = "this node is about to stop"


class Intake:
    """Takes events.

    Attributes:
        bulk_request: what takes many at once.
    """

    bulk_request: Callable[..., BulkRequest] = BulkRequest

    def __init__(
        self, *, config: Callable[[], ClusterConfig], places: Places, workers: WorkerPool, metrics: ApiMetrics
    ) -> None:
        self.draining = False
        self._config = config
        self._places = places
        self._workers = workers
        self._metrics = metrics
        self._taken_by_worker = metrics.events_of("counted")

    async def accept(self, fields: Iterable[Field]) -> str:
        """Count the event that the fields describe; return once it is on disk.

        Returns:
            Whose disk: ``worker``, or ``spool`` (this node's own, while the worker is away).

        Raises:
            Malformed, OutsideWindow, SliceClosed, TooManySlices: the event cannot be taken.
            NotTaken: it was refused at the door, and is not counted.
            OutcomeUnknown: its receipt did not come in time; it may yet be counted.
        """
        try:
            event = self._parsed(fields)
            slice_id = self._places.slice_at(event.timestamp)
            waiter = self._put(event, self._places.known(slice_id) or await self._places.settled(slice_id))
        except RequestError as error:
            raise self._counted(error) from None
        return self.durability(await waiter)

    def begin(self, fields: Iterable[Field]) -> Waiter | None:
        """Put the event that the fields describe on its way, without waiting; ``durability`` tells what its fate means.

        Returns:
            What gets its fate; None if its slice is new to this node, so that it takes ``accept``.

        Raises:
            RequestError: as ``accept``.
        """
        try:
            event = self._parsed(fields)
            place = self._places.known(self._places.slice_at(event.timestamp))
            return None if place is None else self._put(event, place)
        except RequestError as error:
            raise self._counted(error) from None

    def durability(self, fate: Fate) -> str:
        """Whose disk an event is on, given the fate of its batch.

        Raises:
            SliceClosed, NotTaken, OutcomeUnknown: none, or it is not known.
        """
        if fate.__class__ is Done:
            self._taken_by_worker.inc()
            return WORKER
        if fate.__class__ is Spooled:
            self._metrics.events_of("spooled").inc()
            return SPOOL
        raise self._counted(error_of(fate))

    def _parsed(self, fields: Iterable[Field]) -> Event:
        event = parse_event(fields, self._config().event_types)
        if self.draining:
            raise NotTaken(_STOPPING)
        return event

    def _put(self, event: Event, place: Place) -> Waiter:
        place.require_type(event.type, self._config().event_types)
        keys = place.keys
        user_key = keys.user_key(event.user)
        id_key = None if event.id is None else keys.id_key(event.user, event.type, event.id)
        link = self._workers.link(place.owner(user_key))
        waiter, _ = link.put(place.slice, place.route, keys.key_id, event.type, user_key, id_key)
        return waiter

    def _counted(self, error: RequestError) -> RequestError:
        self._metrics.events_of(error.slug).inc()
        return error

    async def accept_many(self, pieces: Iterable[Piece]) -> tuple[Report, BulkRequest]:
        """Count many events, piece by piece; return once all that can be taken are on disk.

        Raises:
            NotTaken: this node takes none at all.
            Malformed, TooLarge: the body is no list of events; none is counted.
        """
        if self.draining:
            raise NotTaken(_STOPPING)
        request = self.bulk_request(places=self._places, workers=self._workers, types=self._config().event_types)
        for piece in pieces:
            if self._is_draining():
                request.turn_away(piece, NotTaken(_STOPPING))
            else:
                await request.take(piece)
            # What is behind this piece may be many; others want the loop too.
            await asyncio.sleep(0)
        report = await request.finish()
        for outcome, events in request.outcomes.items():
            self._metrics.events_of(outcome).inc(events)
        return report, request

    def _is_draining(self) -> bool:
        # By a call: who reads the attribute twice is told by the type checker that it cannot have changed.
        return self.draining
