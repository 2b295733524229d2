"""Closing a slice before its time: what is asked of whom, in which order, and what speaks against it.

::

    registry: pins, route of the slice      every worker of the route: is it there, is it the one that is pinned
    every API node: are there events of the slice in a spool
    every worker of the route: close        each does it in one transaction; asked again, it says so

Half-way is no harm: a worker that has closed it refuses what comes, the others count on, and the next run closes them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api_node.peer import Peer
from common.config import ClusterConfig
from common.errors import ConfigRefused, ExitError, InputOutputFailed, PeerAway, PeerError, WireError
from common.routing import Route, WorkerId
from common.slices import SECOND, Micros, SliceClock, SliceId, format_instant
from common.wire import Claim, ClosedSlice, CloseSlice, Identity, Pins, RegistryState, Settled
from tallyslice.health import ApiState
from tallyslice.instants import Moment
from tallyslice.query import SliceAnswer
from tallyslice.questions import Questions

if TYPE_CHECKING:
    import aiohttp

    from tallyslice.target import Target

CALL_SECONDS = 30.0  # a worker may be in the middle of a large group, and opens the file

_SPOOL = re.compile(rb"^tallyslice_spool_events(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """A slice that may be closed.

    Attributes:
        slice: the slice.
        route: its settled route.
        pins: the cluster's constants.
        span: when it began, and when it ended, for people.
        summary: what it holds; None if no API node can tell.
        objections: what would be lost, or might be.
    """

    slice: SliceId
    route: Route
    pins: Pins
    span: str
    summary: SliceAnswer | None
    objections: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a worker says to its closing.

    Attributes:
        worker: which.
        closed: what stays of the slice there; None: it is not closed.
        problem: why not.
    """

    worker: WorkerId
    closed: ClosedSlice | None = None
    problem: str | None = None


class Ending:
    """The nodes of a cluster file, as they are asked here.

    Args:
        session: carries the calls; not closed here.
        target: the cluster.
        config: its file.
        now: the time of day.
    """

    def __init__(self, *, session: aiohttp.ClientSession, target: Target, config: ClusterConfig, now: Micros) -> None:
        token = target.internal_token
        self._config = config
        self._now = now
        self._apis = target.api_nodes
        self._questions = Questions(session=session, headers=target.headers)
        self._workers = {
            worker: Peer(session=session, url=url, token=lambda: token, name=f"worker-{worker}")
            for worker, url in config.worker_nodes.items()
        }

    async def slice_of(self, at: Moment) -> SliceId:
        """The slice that is meant.

        Raises:
            InputOutputFailed: nobody can tell how the cluster divides time.
        """
        if at.slice is not None:
            return at.slice
        clock = _clock(await self._pins())
        return clock.slice_at(at.within(clock))

    async def prospect(self, slice_id: SliceId) -> Prospect:
        """What closing the slice would mean. Changes nothing.

        Raises:
            ExitError: it cannot be closed.
            InputOutputFailed: a worker that is needed does not answer.
            ConfigRefused: the nodes are not those that the cluster knows.
        """
        pins = await self._pins()
        clock = _clock(pins)
        end = clock.end(slice_id)
        if end > self._now:
            raise ExitError(f"slice {slice_id} has not ended: it takes events until {format_instant(end)}")
        route = await self._route(slice_id, pins)
        await asyncio.gather(*(self._require(worker, pins) for worker in route))
        looks = await asyncio.gather(*(self._spooled(name, slice_id, clock) for name in self._apis))
        answers = [answer for answer, _ in looks if answer is not None]
        objections = [objection for _, objection in looks if objection is not None]
        if (until := self._taken_until(end)) is not None:
            objections.append(f"by the cluster file, events for it are taken until {format_instant(until)}")
        return Prospect(
            slice=slice_id,
            route=route,
            pins=pins,
            span=f"{format_instant(clock.start(slice_id))} to {format_instant(end)}",
            summary=next(iter(answers), None),
            objections=objections,
        )

    async def close(self, prospect: Prospect) -> list[Ended]:
        """Close it at every worker of its route."""
        return list(await asyncio.gather(*(self._close(worker, prospect) for worker in prospect.route)))

    async def _close(self, worker: WorkerId, prospect: Prospect) -> Ended:
        pins = prospect.pins
        message = CloseSlice(
            cluster=pins.cluster, worker=pins.workers[worker], slice=prospect.slice, route=prospect.route
        )
        try:
            closed = await self._workers[worker].post_json("/close", message, ClosedSlice, seconds=CALL_SECONDS)
        except (PeerError, WireError) as error:
            return Ended(worker=worker, problem=str(error))
        return Ended(worker=worker, closed=closed)

    async def _pins(self) -> Pins:
        host = self._config.registry
        try:
            state = await self._workers[host].get_json("/registry", RegistryState, seconds=CALL_SECONDS)
        except (PeerError, WireError) as error:
            raise InputOutputFailed(f"the registry does not answer, so nothing was closed: {error}") from error
        if state.pins is None:
            raise ConfigRefused([f"the registry at worker {host} is empty: rebuild it first"])
        return state.pins

    async def _route(self, slice_id: SliceId, pins: Pins) -> Route:
        question = Claim(cluster=pins.cluster, claims=0, routes={slice_id: ()})
        try:
            settled = await self._workers[self._config.registry].post_json(
                "/registry/claims", question, Settled, seconds=CALL_SECONDS
            )
        except (PeerError, WireError) as error:
            raise InputOutputFailed(f"the registry does not answer, so nothing was closed: {error}") from error
        if settled.unknown:
            raise ExitError(f"slice {slice_id} began before the registry was rebuilt without everybody: it is unknown")
        if not settled.routes:
            raise ExitError(f"slice {slice_id} was never settled: it holds nothing, and there is nothing to close")
        return settled.routes[0].route

    async def _require(self, worker: WorkerId, pins: Pins) -> None:
        """Go on only if the worker is there, and is the right one."""
        peer = self._workers.get(worker)
        if peer is None:
            raise ConfigRefused([f"worker-nodes: worker {worker} holds the slice, and is not in the file"])
        try:
            found = await peer.get_json("/identity", Identity, seconds=CALL_SECONDS)
        except (PeerError, WireError) as error:
            raise InputOutputFailed(f"a worker that holds the slice is away, so nothing was closed: {error}") from error
        if found.uuid != pins.workers.get(worker):
            raise ConfigRefused([f"{peer} runs on data directory {found.uuid}, which is not the one that is pinned"])

    async def _spooled(self, name: str, slice_id: SliceId, clock: SliceClock) -> tuple[SliceAnswer | None, str | None]:
        """What an API node says of the slice, and what its spool has against closing it."""
        origin = self._apis[name]
        at = f"format=json&partial=true&timestamp={clock.start(slice_id) / SECOND:.6f}"
        try:
            answer = await self._questions.ask(f"{origin}/analytics?{at}", SliceAnswer)
            # Of all processes of the node, where the other answers are of the one that answers.
            spooled = sum(float(found) for found in _SPOOL.findall(await self._questions.fetch(f"{origin}/metrics")))
            if not spooled:
                return answer, None
            if answer.spooled:
                return answer, f"{answer.spooled:,} events of it are in the spool of {name}: their worker was away"
            state = await self._questions.ask(f"{origin}/cluster", ApiState)
        except PeerAway as error:
            return None, f"{name} does not tell whether events of it are in its spool: {error}"
        if state.process is None:
            return answer, None
        return answer, f"{spooled:,.0f} events are in spools of {name}, which has several processes: some may be of it"

    def _taken_until(self, end: Micros) -> Micros | None:
        """Until when the cluster file lets events of a slice in that has ended; None if that is over, or has no end."""
        spans = [
            seconds
            for seconds in (self._config.close_after_seconds, self._config.max_past_seconds)
            if seconds is not None
        ]
        if not spans:
            return None
        until = Micros(end + int(min(spans) * SECOND))
        return until if until > self._now else None


def _clock(pins: Pins) -> SliceClock:
    return SliceClock(first=Micros(pins.first), length_seconds=pins.length_seconds)
