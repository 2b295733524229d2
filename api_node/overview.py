"""What the dashboard shows of this node and its cluster, put together once a second while somebody looks.

::

    every tick      each worker is asked for the last few slices; every fifth, and in a new slice, for all in the chart
    within 0.5 s    what has answered is in the snapshot; for the others, what they told last

A worker that does not answer takes nothing away: its part stays as it was told last, and the figures say that it is
silent. So the page moves on every tick whoever is away, and no figure falls because of it. Beside the questions to the
workers everything here is at hand; no question goes to the registry.

In a node of several processes, what each counts by itself is asked of it at every tick too, and added up.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from api_node.siblings import FIGURES_PATH
from common.errors import PeerError, WireError
from common.routing import proposed_route
from common.slices import SECOND, SliceId
from common.summaries import CLICK, IMPRESSION, Summary, add
from common.web import json_response
from dashboard.rates import Growth, Rate
from dashboard.snapshot import (
    Cluster,
    Current,
    Node,
    Past,
    Refused,
    Settled,
    Snapshot,
    Worker,
    chosen,
    largest,
    runs,
    shortened,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from api_node.membership import Membership
    from api_node.node_metrics import ApiMetrics
    from api_node.settled_routes import SettledRoutes
    from api_node.siblings import Siblings
    from api_node.spool_room import SpoolRoom
    from api_node.worker_client import WorkerLink
    from api_node.worker_pool import WorkerPool
    from common.cluster_watch import ClusterWatch
    from common.config import ClusterConfig
    from common.routing import Route, WorkerId
    from common.slices import Micros
    from common.tasks import Tasks

PAST_SLICES = 48  # in the chart: two days of hours
RECENT_SLICES = 4  # asked for at every tick: late events go to slices just past
PAST_TICKS = 5  # between two looks at all of them
ROUTES_SLICES = 100  # as many as /cluster lists

PATIENCE_SECONDS = 0.5  # for workers, so that there is a snapshot every second whoever is away
SILENT_SECONDS = 3.0  # without an answer: the deadline of a question

MILLISECOND = SECOND // 1000


class ProcessFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one process counts by itself: those of all processes of a node add up to the node's.

    Attributes:
        events: answered with success since it started.
        queues: events that wait for a receipt, by worker.
        spools: events on its disk, by worker.
        spool_bytes: of those.
        spool_age_seconds: how long the oldest wait.
        parked: slices that a worker refuses, by worker.
        viewers: who look at it.
    """

    events: int
    queues: dict[str, int]
    spools: dict[str, int]
    spool_bytes: int
    spool_age_seconds: float
    parked: dict[str, tuple[int, ...]]
    viewers: int


@dataclass(slots=True)
class _Sight:
    """What a worker has told."""

    told: dict[SliceId, Summary] = field(default_factory=dict)
    unreadable: frozenset[SliceId] = frozenset()
    answered_at: float | None = None
    well: bool = False  # the last question was answered
    growth: Growth = field(default_factory=Growth)
    asking: asyncio.Task[None] | None = None


class Overview:
    """Makes snapshots."""

    def __init__(
        self,
        *,
        config: Callable[[], ClusterConfig],
        membership: Membership,
        routes: SettledRoutes,
        watch: ClusterWatch,
        workers: WorkerPool,
        room: SpoolRoom,
        metrics: ApiMetrics,
        tasks: Tasks,
        problems: Callable[[], list[str]],
        viewers: Callable[[], int],
        now: Callable[[], Micros],
        siblings: Siblings | None = None,
    ) -> None:
        self._config = config
        self._membership = membership
        self._routes = routes
        self._watch = watch
        self._workers = workers
        self._room = room
        self._metrics = metrics
        self._tasks = tasks
        self._problems = problems
        self._viewers = viewers
        self._now = now
        self._siblings = siblings
        self._hearing: asyncio.Task[None] | None = None
        self._heard: dict[int, ProcessFigures | None] = {}
        self._sights: dict[WorkerId, _Sight] = {}
        self._counted = Rate()
        self._taken = Rate()
        self._ticks_until_past = 0
        self._current: SliceId | None = None

    def add_to(self, app: web.Application) -> None:
        """Register the route that the other processes of this node ask."""
        app.router.add_get(FIGURES_PATH, self.show_process)

    async def show_process(self, _: web.Request) -> web.Response:
        """What this process counts."""
        return json_response(self.of_process())

    def of_process(self) -> ProcessFigures:
        """The same."""
        links = self._workers.links
        return ProcessFigures(
            events=self._metrics.events_taken(),
            queues={name: events for name, link in links.items() if (events := link.delivery.queued()[0])},
            spools={str(name): events for name, events in self._room.events_by_worker().items()},
            spool_bytes=self._room.size_bytes,
            spool_age_seconds=self._room.age_seconds,
            parked={name: tuple(parked) for name, link in links.items() if (parked := link.delivery.parked())},
            viewers=self._viewers(),
        )

    async def snapshot(self) -> Snapshot:
        """Everything, as it is now."""
        now = self._now()
        links = list(self._workers.links.values())
        self._sights = {link.worker: self._sights.get(link.worker, _Sight()) for link in links}
        current = None if self._membership.pins is None else self._membership.clock.slice_at(now)
        asking = [] if current is None else self._ask(links, current)
        if self._siblings is not None:
            asking.append(self._ask_siblings(self._siblings))
        if asking:
            await asyncio.wait(asking, timeout=PATIENCE_SECONDS)
        whole = _together([self.of_process(), *(one for one in self._heard.values() if one is not None)])
        shown = chosen([self._show_worker(link, current, whole) for link in links])
        grown = sum(sight.growth.total for sight in self._sights.values())
        return Snapshot(
            at=now // MILLISECOND,
            current=None if current is None else self._show_current(current),
            past=Past() if current is None else self._show_past(current),
            workers=shown,
            workers_more=len(links) - len(shown),
            events_per_second=self._counted.note(self._time(), grown),
            node=self._show_node(whole),
            cluster=self._show_cluster(current),
        )

    # Questions

    def _ask(self, links: Iterable[WorkerLink], current: SliceId) -> list[asyncio.Task[None]]:
        """Ask each worker that has answered the last question, or not answered it in time."""
        self._ticks_until_past -= 1
        if self._ticks_until_past < 0 or current != self._current:
            self._ticks_until_past = PAST_TICKS
            wanted = PAST_SLICES
        else:
            wanted = RECENT_SLICES
        self._current = current
        asking: list[asyncio.Task[None]] = []
        for link in links:
            sight = self._sights[link.worker]
            if sight.asking is None or sight.asking.done():
                # One that has never told, or was silent, is asked for all that the chart shows.
                slices = range(current - (wanted if sight.well else PAST_SLICES) + 1, current + 1)
                asked = tuple(SliceId(at) for at in reversed(slices))
                sight.asking = self._tasks.start(f"look-at-{link.worker}", self._look(link, sight, asked))
            asking.append(sight.asking)
        return asking

    def _ask_siblings(self, siblings: Siblings) -> asyncio.Task[None]:
        if self._hearing is None or self._hearing.done():
            self._hearing = self._tasks.start("look-at-siblings", self._hear(siblings))
        return self._hearing

    async def _hear(self, siblings: Siblings) -> None:
        """Ask the other processes; a task's body."""
        self._heard = await siblings.figures(ProcessFigures)

    async def _look(self, link: WorkerLink, sight: _Sight, slices: tuple[SliceId, ...]) -> None:
        """Ask a worker for slices, the current one first; a task's body."""
        try:
            held, unreadable = await link.look(slices)
        except (PeerError, WireError):
            sight.well = False
            return
        sight.well = True
        sight.answered_at = self._time()
        sight.unreadable = (sight.unreadable - set(slices)) | set(unreadable)
        # What it does not hold is not in its answer, and so is not kept: an old copy may hold less than it did.
        told = {at: held[at].summary for at in slices if at in held}
        oldest = slices[0] - PAST_SLICES
        kept = {at: one for at, one in sight.told.items() if at not in slices and at > oldest}
        sight.told = kept | told
        recent = slices[:RECENT_SLICES]
        sight.growth.note({at: sum(told[at].counts.values()) if at in told else 0 for at in recent})

    # What is shown

    def _show_current(self, at: SliceId) -> Current:
        clock = self._membership.clock
        summary = add(at, (sight.told[at] for sight in self._sights.values() if at in sight.told))
        others = {name: count for name, count in summary.counts.items() if name not in (CLICK, IMPRESSION)}
        types, types_more, events_more = largest(others)
        silent = self._silent(at)
        return Current(
            slice=at,
            start=clock.start(at) // MILLISECOND,
            end=clock.end(at) // MILLISECOND,
            users=summary.users,
            clicks=summary.counts.get(CLICK, 0),
            impressions=summary.counts.get(IMPRESSION, 0),
            others=sum(others.values()),
            types=types,
            types_more=types_more,
            events_more=events_more,
            complete=summary.complete and not silent,
            silent=silent,
        )

    def _show_past(self, current: SliceId) -> Past:
        clock = self._membership.clock
        slices = [SliceId(at) for at in range(current - PAST_SLICES + 1, current + 1)]
        rows = [self._total(at) for at in slices]
        users, clicks, impressions, others, complete = zip(*rows, strict=True)
        return Past(
            slices=slices,
            start=[clock.start(at) / SECOND for at in slices],
            users=users,
            clicks=clicks,
            impressions=impressions,
            others=others,
            complete=complete,
        )

    def _total(self, at: SliceId) -> tuple[int, int, int, int, bool]:
        """Users, clicks, impressions, other events of a slice, and whether that is all."""
        users = clicks = impressions = events = 0
        complete = not self._silent(at)
        for sight in self._sights.values():
            if (told := sight.told.get(at)) is not None:
                users += told.users
                clicks += told.counts.get(CLICK, 0)
                impressions += told.counts.get(IMPRESSION, 0)
                events += sum(told.counts.values())
                complete = complete and told.complete
        return users, clicks, impressions, events - clicks - impressions, complete

    def _silent(self, at: SliceId) -> list[WorkerId]:
        """Workers that may know more of a slice than they have told: of its route, or of all where none is known."""
        named = self._routes.known(at) or tuple(self._sights)
        return [worker for worker in named if not self._tells(worker, at)]

    def _tells(self, worker: WorkerId, at: SliceId) -> bool:
        sight = self._sights.get(worker)
        if sight is None or not sight.well or sight.answered_at is None or at in sight.unreadable:
            return False
        return self._time() - sight.answered_at <= SILENT_SECONDS

    def _show_worker(self, link: WorkerLink, current: SliceId | None, whole: ProcessFigures) -> Worker:
        sight = self._sights[link.worker]
        told = None if current is None else sight.told.get(current)
        detail = link.refusal or link.trouble
        return Worker(
            id=link.worker,
            state=link.state(),
            detail=None if detail is None else shortened([detail])[0],
            in_route=current is not None and link.worker in self._route(current),
            users=0 if told is None else told.users,
            events=0 if told is None else sum(told.counts.values()),
            queue_events=whole.queues.get(link.worker, 0),
            spool_events=whole.spools.get(link.worker, 0),
            parked=len(whole.parked.get(link.worker, ())),
            silent_seconds=None if sight.answered_at is None else self._time() - sight.answered_at,
        )

    def _route(self, at: SliceId) -> Route:
        return self._routes.known(at) or proposed_route(self._config().routing, at)

    def _show_node(self, whole: ProcessFigures) -> Node:
        silent = [number for number, one in self._heard.items() if one is None]
        return Node(
            # Without one of the processes it is not known; and when that one is back, it has not jumped.
            events_per_second=None if silent else self._taken.note(self._time(), whole.events),
            processes=1 + len(self._heard),
            processes_silent=silent,
            queue_events=sum(whole.queues.values()),
            spool_events=sum(whole.spools.values()),
            spool_bytes=whole.spool_bytes,
            spool_age_seconds=whole.spool_age_seconds,
            viewers=whole.viewers,
            problems=shortened(self._problems()),
        )

    def _show_cluster(self, current: SliceId | None) -> Cluster:
        config, pins, refusal = self._config(), self._membership.pins, self._watch.last_refusal
        return Cluster(
            id=None if pins is None else pins.cluster,
            first=None if pins is None else pins.first // MILLISECOND,
            slice_seconds=config.length_of_time_slice,
            registry=config.registry,
            claims=self._membership.claims,
            version=config.version,
            settled=[] if current is None else self._settled(current),
            refused=None
            if refusal is None
            else Refused(
                at=refusal.at // MILLISECOND,
                reasons=shortened(refusal.reasons),
                stands=self._watch.refusal is not None,
            ),
        )

    def _settled(self, current: SliceId) -> list[Settled]:
        """The latest routes, as far as this node knows them; the next slice's is settled shortly before it begins."""
        config = self._config()
        slices = (SliceId(at) for at in range(current - ROUTES_SLICES + 2, current + 2))
        known = [(at, route) for at in slices if (route := self._routes.known(at)) is not None]
        return runs((at, route, proposed_route(config.routing, at) != route) for at, route in known)

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()


def _together(figures: list[ProcessFigures]) -> ProcessFigures:
    """What the processes of a node count together."""
    queues, spools = Counter[str](), Counter[str]()
    parked: dict[str, set[int]] = {}
    for one in figures:
        queues.update(one.queues)
        spools.update(one.spools)
        for worker, slices in one.parked.items():
            parked.setdefault(worker, set()).update(slices)
    return ProcessFigures(
        events=sum(one.events for one in figures),
        queues=dict(queues),
        spools=dict(spools),
        spool_bytes=sum(one.spool_bytes for one in figures),
        spool_age_seconds=max(one.spool_age_seconds for one in figures),
        parked={worker: tuple(sorted(slices)) for worker, slices in parked.items()},
        viewers=sum(one.viewers for one in figures),
    )
