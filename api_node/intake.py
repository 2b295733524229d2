"""An event's way in, as named steps: fields -> event -> slice -> window -> route -> user key -> worker -> receipt."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from cachetools import LRUCache

from api_node.sender import Closed, Done, Spooled
from common.errors import Malformed, NoAnswer, NotTaken, OutcomeUnknown, OutsideWindow, RequestError, SliceClosed
from common.events import TIMESTAMP, Event, EventTypes, parse_event
from common.routing import owner_position
from common.slices import SECOND
from common.wire import NAMES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from api_node.delivery import Waiter
    from api_node.membership import Membership
    from api_node.node_metrics import ApiMetrics
    from api_node.settled_routes import SettledRoutes
    from api_node.worker_pool import WorkerPool
    from common.anonymise import Anonymiser
    from common.config import ClusterConfig
    from common.events import Field
    from common.slices import Micros, SliceClock, SliceId

# For a receipt: longer than a worker's restart, shorter than the time-outs of common proxies.
DELIVERY_DEADLINE_SECONDS = 10.0
TYPED_SLICES_MAX = 1_000

WORKER, SPOOL = "worker", "spool"
"""Whose disk an event is on when it is answered with success."""


class Intake:
    """Takes events, one at a time."""

    def __init__(
        self,
        *,
        config: Callable[[], ClusterConfig],
        membership: Membership,
        routes: SettledRoutes,
        workers: WorkerPool,
        anonymiser: Anonymiser,
        metrics: ApiMetrics,
        now: Callable[[], Micros],
        deadline_seconds: float = DELIVERY_DEADLINE_SECONDS,
    ) -> None:
        self.draining = False
        self._config = config
        self._membership = membership
        self._routes = routes
        self._workers = workers
        self._anonymiser = anonymiser
        self._metrics = metrics
        self._now = now
        self._deadline_seconds = deadline_seconds
        # Which types a slice has, where a client may invent them.
        self._types_seen: LRUCache[SliceId, set[str]] = LRUCache(maxsize=TYPED_SLICES_MAX)

    async def accept(self, fields: Iterable[Field]) -> str:
        """Count the event that the fields describe; return once it is on disk.

        Returns:
            Whose disk: ``worker``, or ``spool`` (this node's own, while the worker is away).

        Raises:
            Malformed, OutsideWindow, SliceClosed, TooManySlices: the event cannot be taken.
            NotTaken: it was refused at the door, and is not counted.
            OutcomeUnknown: its receipt did not come in time; it may yet be counted.
        """
        started = time.perf_counter()
        try:
            config = self._config()
            event = parse_event(fields, config.event_types)
            waiter = await self._place(event, config)
            durability = await self._receipt(waiter)
        except RequestError as error:
            self._metrics.events.labels(error.slug).inc()
            raise
        self._metrics.events.labels("counted" if durability == WORKER else "spooled").inc()
        self._metrics.event_seconds.observe(time.perf_counter() - started)
        return durability

    async def _place(self, event: Event, config: ClusterConfig) -> Waiter:
        if self.draining:
            message = "this node is about to stop"
            raise NotTaken(message)
        try:
            clock = self._membership.clock
        except NoAnswer as error:
            raise NotTaken(error.detail) from error
        self._check_window(event.timestamp, config)
        slice_id = clock.slice_at(event.timestamp)
        self._check_open(slice_id, clock, config)
        self._check_type(slice_id, event.type, config.event_types)
        route = self._routes.known(slice_id) or await self._routes.settle(slice_id)
        keys = self._anonymiser.slice_keys(slice_id)
        user_key = keys.user_key(event.user)
        id_key = None if event.id is None else keys.id_key(event.user, event.type, event.id)
        link = self._workers.link(route[owner_position(user_key, len(route))])
        try:
            waiter, _ = link.put(slice_id, route, keys.key_id, event.type, user_key, id_key)
        except SliceClosed as error:
            raise SliceClosed(error.detail, field=TIMESTAMP) from error
        return waiter

    def _check_window(self, timestamp: Micros, config: ClusterConfig) -> None:
        ahead = timestamp - self._now()
        if ahead > config.max_future_seconds * SECOND:
            message = f"is more than {config.max_future_seconds:g} s in the future"
            raise OutsideWindow(message, field=TIMESTAMP)
        if config.max_past_seconds is not None and -ahead > config.max_past_seconds * SECOND:
            message = f"is more than {config.max_past_seconds:g} s in the past"
            raise OutsideWindow(message, field=TIMESTAMP)

    def _check_open(self, slice_id: SliceId, clock: SliceClock, config: ClusterConfig) -> None:
        after = config.close_after_seconds
        if after is not None and self._now() >= clock.end(slice_id) + after * SECOND:
            message = f"slice {slice_id} is closed: it takes no events later than {after:g} s after its end"
            raise SliceClosed(message, field=TIMESTAMP)

    def _check_type(self, slice_id: SliceId, event_type: str, types: EventTypes) -> None:
        if types.accepted is not None:
            return
        seen = self._types_seen.get(slice_id)
        if seen is None:
            seen = self._types_seen[slice_id] = set()
        if event_type not in seen:
            if len(seen) >= NAMES_MAX:
                message = f"slice {slice_id} has {NAMES_MAX} event types already, and takes no new one"
                raise Malformed(message, field="event")
            seen.add(event_type)

    async def _receipt(self, waiter: Waiter) -> str:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                # Shielded: all events of the batch wait for the one future.
                verdict = await asyncio.shield(waiter)
        except TimeoutError:
            verdict = None
        if isinstance(verdict, Done):
            return WORKER
        if isinstance(verdict, Spooled):
            return SPOOL
        if verdict is None:
            message = "the worker has not answered yet; retry with an id, so that it is counted once"
            raise OutcomeUnknown(message)
        if isinstance(verdict, Closed):
            message = f"slice {verdict.slice} is closed"
            raise SliceClosed(message, field=TIMESTAMP)
        raise NotTaken(verdict.reason)
