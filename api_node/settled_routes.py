"""Settled routes of slices: asked of the registry in batches, remembered, and found at the workers when it is away.

A settled route never changes, so it is remembered as long as there is room. "Not settled" may change at any moment, so
it is remembered for the cache's time at most, and never put over a settled route.

Whoever needs routes while a call to the registry is under way forms the next call: no timer, one call at a time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachetools import LRUCache, TTLCache

from common.config import ClusterConfig
from common.errors import NoAnswer, NotTaken, PeerAway, PeerError, TooManySlices, WireError
from common.routing import Route, proposed_route
from common.slices import SliceId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from api_node.membership import Membership
    from api_node.registry import Registry
    from common.logs import Log
    from common.slices import Micros
    from common.tasks import Tasks

ROUTES_MAX = 100_000  # some 20 MB
UNSETTLED_MAX = 10_000
CALL_SLICES_MAX = 1_000  # in one call to the registry: one commit of some 100 KB
DEADLINE_SECONDS = 3.0  # that of a question: a restart of the registry's worker goes unnoticed
RETRY_SECONDS = 0.1
WATCH_SECONDS = 1.0  # while it does not answer: how soon it shows that it does again
AHEAD_SHARE, AHEAD_SECONDS_MAX = (
    0.1,
    10.0,
)  # the next slice is claimed in the last tenth of this one, at most 10 s ahead


class _Over:
    """Not settled, because the cluster holds as many open slices as it may."""


class _Unknown:
    """The registry was rebuilt without some node, and nobody else knows of this slice."""

    def __str__(self) -> str:
        return "it began before the registry was rebuilt without everybody, so nobody knows whether it holds anything"


Found = Route | None | _Over | _Unknown | PeerError | WireError


@dataclass(slots=True)
class _Wanted:
    """A slice whose route somebody waits for; ``settle``: to be claimed if it is not settled."""

    settle: bool
    result: asyncio.Future[Found] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class SettledRoutes:
    """What is settled, as far as this node knows, and the way to know more."""

    def __init__(
        self,
        *,
        membership: Membership,
        registry: Registry,
        config: Callable[[], ClusterConfig],
        ask_workers: Callable[[Sequence[SliceId]], Awaitable[Mapping[SliceId, Route]]],
        tasks: Tasks,
        log: Log,
        deadline_seconds: float = DEADLINE_SECONDS,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        self.registry_problem: str | None = None
        self._membership = membership
        self._registry = registry
        self._config = config
        self._ask_workers = ask_workers
        self._tasks = tasks
        self._log = log
        self._deadline_seconds = deadline_seconds
        self._watch_seconds = watch_seconds
        self._unavailable = asyncio.Event()
        self._routes: LRUCache[SliceId, Route] = LRUCache(maxsize=ROUTES_MAX)
        self._unsettled: TTLCache[SliceId, bool] = TTLCache(maxsize=UNSETTLED_MAX, ttl=config().cache_ttl_seconds)
        self._wanted: dict[SliceId, _Wanted] = {}
        self._asking = False

    def known(self, slice_id: SliceId) -> Route | None:
        """The settled route, if this node knows it: the fast way of every event."""
        route: Route | None = self._routes.get(slice_id)
        return route

    def all_known(self) -> dict[SliceId, Route]:
        """Every settled route that this node knows."""
        return dict(self._routes)

    def learn(self, slice_id: SliceId, route: Route) -> None:
        """A worker holds data under this route, or a spool does, so it is settled."""
        if route:
            self._routes[slice_id] = route
            self._unsettled.pop(slice_id, None)
            # An old registry does not name these workers, and must not let them go.
            self._membership.named.update(route)

    def follow(self, config: ClusterConfig) -> None:
        """A new config: other proposals, perhaps another time to remember."""
        self._unsettled = TTLCache(maxsize=UNSETTLED_MAX, ttl=config.cache_ttl_seconds)

    async def settle(self, slice_id: SliceId) -> Route:
        """The settled route of the slice, claimed if need be.

        Raises:
            NotTaken: it is not known and cannot be claimed right now.
            TooManySlices: it would be one slice too many.
        """
        found: Found = self.known(slice_id) or await self._find(slice_id, settle=True)
        if isinstance(found, tuple):
            return found
        if isinstance(found, _Over):
            message = f"slice {slice_id} would be one more than max-slices = {self._config().max_slices}"
            raise TooManySlices(message, field="timestamp")
        message = f"the route of slice {slice_id} cannot be settled: {found}"
        raise NotTaken(message)

    async def find(self, slice_id: SliceId) -> Route | None:
        """The settled route of the slice; None if it is not settled, so that it holds nothing.

        Raises:
            NoAnswer: that cannot be known right now.
        """
        if (known := self.known(slice_id)) is not None:
            return known
        if slice_id in self._unsettled:
            return None
        found = await self._find(slice_id, settle=False)
        if found is None or isinstance(found, (tuple, _Over)):
            # Looked up once more: settled is never replaced by not settled.
            return self.known(slice_id)
        message = f"the route of slice {slice_id} is not known: {found}"
        raise NoAnswer(message)

    async def claim_ahead(self, now: Callable[[], Micros]) -> None:
        """Settle the current slice, and each next one shortly before it begins; a task's body."""
        await self._membership.joined.wait()
        clock = self._membership.clock
        lead = min(clock.length_seconds * AHEAD_SHARE, AHEAD_SECONDS_MAX)
        while True:
            moment = now()
            current = clock.slice_at(moment)
            until_next = (clock.end(current) - moment) / 1_000_000
            wanted = [current, SliceId(current + 1)] if until_next <= lead else [current]
            for slice_id in wanted:
                try:
                    await self.settle(slice_id)
                except (NotTaken, TooManySlices) as error:
                    self._log.warning("claim_ahead_failed", slice=slice_id, error=error)
            # Wakes in the lead, and again after the next slice began.
            await asyncio.sleep(until_next - lead if until_next > lead else until_next + 0.01)

    async def watch_registry(self) -> None:
        """Ask an unavailable registry, though nobody wants a route, until it answers again; a task's body."""
        while True:
            await self._unavailable.wait()
            await asyncio.sleep(self._watch_seconds)
            if self.registry_problem is None:
                self._unavailable.clear()
            else:
                await self._round({})

    async def _find(self, slice_id: SliceId, *, settle: bool) -> Found:
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        found: Found = PeerAway(f"no answer within {self._deadline_seconds:g} s")
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    found = await self._want(slice_id, settle=settle)
            except TimeoutError:
                return found
            if not isinstance(found, (PeerError, WireError)) or asyncio.get_running_loop().time() >= deadline:
                return found
            await asyncio.sleep(RETRY_SECONDS)
            if (known := self.known(slice_id)) is not None:
                return known

    async def _want(self, slice_id: SliceId, *, settle: bool) -> Found:
        wanted = self._wanted.get(slice_id)
        if wanted is None:
            wanted = self._wanted[slice_id] = _Wanted(settle)
        wanted.settle = wanted.settle or settle
        if not self._asking:
            self._asking = True
            self._tasks.start("ask-registry", self._ask())
        # Shielded: one who gives up must not take the answer from the others.
        return await asyncio.shield(wanted.result)

    async def _ask(self) -> None:
        """Ask until nobody wants anything more."""
        try:
            while self._wanted:
                # Taken out first: who comes from now on wants the next call, whose proposals are newer.
                batch = {at: self._wanted.pop(at) for at in list(self._wanted)[:CALL_SLICES_MAX]}
                try:
                    found = await self._round(batch)
                except BaseException as error:
                    for wanted in batch.values():
                        if isinstance(error, Exception):
                            # A defect of ours: those who wait get it too, instead of being cancelled without a word.
                            wanted.result.set_exception(error)
                            wanted.result.exception()
                        else:
                            wanted.result.cancel()
                    raise
                for slice_id, wanted in batch.items():
                    wanted.result.set_result(found[slice_id])
        finally:
            self._asking = False

    async def _round(self, batch: Mapping[SliceId, _Wanted]) -> dict[SliceId, Found]:
        routing = self._config().routing
        proposals = {at: proposed_route(routing, at) if wanted.settle else () for at, wanted in batch.items()}
        try:
            settled = await self._registry.claim(self._membership.cluster, self._membership.claims, proposals)
        except NoAnswer as error:
            return dict.fromkeys(batch, PeerError(error.detail))
        except (PeerError, WireError) as error:
            if self.registry_problem is None:
                self._log.warning("registry_unavailable", error=error)
            self.registry_problem = str(error)
            self._unavailable.set()
            held = await self._ask_holders(tuple(batch))
            return {at: held.get(at) or error for at in batch}
        if self.registry_problem is not None:
            self._log.info("registry_available")
        self.registry_problem = None
        self._membership.saw_claims(settled.claims)
        found: dict[SliceId, Found] = dict.fromkeys(batch)
        found.update(dict.fromkeys(settled.over, _Over()))
        found.update(dict.fromkeys(settled.unknown, _Unknown()))
        if settled.unknown:
            # Whoever was missing then may be back, and hold it: then its route is what it always was.
            found.update(await self._ask_holders(settled.unknown))
        for claim in settled.routes:
            self.learn(claim.slice, claim.route)
            found[claim.slice] = claim.route
        for at, result in found.items():
            if result is None and at not in self._routes:
                self._unsettled[at] = True
        return found

    async def _ask_holders(self, slices: Sequence[SliceId]) -> Mapping[SliceId, Route]:
        """The routes of slices that some worker holds: they are settled, whatever the registry knows."""
        held = await self._ask_workers(slices) if slices else {}
        for at, route in held.items():
            self.learn(at, route)
        return held
