"""A question's way: slice -> settled route -> each worker's summary, cached or asked for -> sum.

One question per worker and slice is under way at a time, shared by all who want its answer. Each of them waits for a
worker that is away until its own deadline, so that a restart goes unnoticed.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from common import summaries
from common.errors import NoAnswer, NotTaken, PeerAway, PeerError, WireError
from common.request_ids import brought_id, draw_id
from common.routing import proposed_route
from common.summaries import Summary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping

    from api_node.membership import Membership
    from api_node.node_metrics import ApiMetrics
    from api_node.settled_routes import SettledRoutes
    from api_node.worker_client import WorkerLink
    from api_node.worker_pool import WorkerPool
    from common.config import ClusterConfig
    from common.routing import Route, WorkerId
    from common.slices import SliceId
    from common.tasks import Tasks
    from common.wire import Held

DEADLINE_SECONDS = 3.0
RETRY_FIRST_SECONDS, RETRY_MOST_SECONDS = 0.05, 0.2
PARTIAL_SECONDS = 0.2  # for a worker that is away, if the rest is wanted anyway
# Questions to workers at a time, each of which needs a connection: a worker answers one in about a millisecond.
QUESTIONS_MAX = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSummary:
    """One worker's part of a slice.

    Attributes:
        worker: which.
        url: where it is; None if this node's file does not list it.
        summary: what it holds; None if it did not answer.
    """

    worker: WorkerId
    url: str | None
    summary: Summary | None


class Queries:
    """Answers questions about slices. ``partial``: sum what answers, and say that it is not complete."""

    def __init__(
        self,
        *,
        config: Callable[[], ClusterConfig],
        membership: Membership,
        routes: SettledRoutes,
        workers: WorkerPool,
        metrics: ApiMetrics,
        tasks: Tasks,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._config = config
        self._membership = membership
        self._routes = routes
        self._workers = workers
        self._metrics = metrics
        self._tasks = tasks
        self._deadline_seconds = deadline_seconds
        self._from_cache = metrics.summaries.labels("cache")
        self._under_way: dict[Hashable, asyncio.Future[object]] = {}

    async def summary(
        self, slice_id: SliceId, *, partial: bool = False, asker: Mapping[str, str] | None = None
    ) -> Summary:
        """What the cluster knows of a slice.

        Args:
            slice_id: which.
            partial: whether a part of the answer will do.
            asker: the head of the request that asks, if workers are to be asked as what it may be named there.

        Raises:
            NoAnswer: a worker, or the registry, does not answer in time.
        """
        route = self._routes.known(slice_id) or await self._routes.find(slice_id)
        if route is None:
            return Summary(slice=slice_id)
        if (cached := self._cached(route, slice_id)) is not None:
            return summaries.add(slice_id, [held.summary for held in cached])
        parts = await self._parts(route, slice_id, partial=partial, asker=asker)
        answered = [part.summary for part in parts if part.summary is not None]
        return summaries.add(slice_id, answered, all_answered=len(answered) == len(parts))

    def fresh(self, slice_id: SliceId) -> list[Held] | None:
        """What each worker of the slice's route knows, if nobody needs to be asked for it."""
        route = self._routes.known(slice_id)
        return None if route is None else self._cached(route, slice_id)

    async def per_worker(
        self, slice_id: SliceId, *, partial: bool = False, asker: Mapping[str, str] | None = None
    ) -> list[WorkerSummary]:
        """What each worker knows of a slice, in route order; if it is not settled, zeros of the proposed route.

        Raises:
            NoAnswer: a worker, or the registry, does not answer in time.
        """
        route = await self._routes.find(slice_id)
        if route is None:
            config = self._config()
            return [
                WorkerSummary(worker=worker, url=config.worker_nodes[worker], summary=Summary(slice=slice_id))
                for worker in proposed_route(config.routing, slice_id)
            ]
        return await self._parts(route, slice_id, partial=partial, asker=asker)

    async def all_slices(
        self, until: SliceId, *, partial: bool = False, asker: Mapping[str, str] | None = None
    ) -> tuple[list[Summary], bool]:
        """What the cluster knows of every slice that holds data, ascending, up to one.

        Returns:
            The summaries, and whether these are all: if a worker did not answer, or the registry was ever rebuilt
            without somebody, there may be slices that are not among them.

        Raises:
            NoAnswer: a worker does not answer in time.
        """
        links = list(self._workers.links.values())
        name = brought_id(asker) or draw_id()
        asked = (
            self._try(self._all_of(link, until, self._patience(link, partial=partial), name), partial) for link in links
        )
        with self._waiting():
            found = await asyncio.gather(*asked)
        # Asked when they have answered: the registry's worker is among them, so by now this node has heard of every
        # claim that was settled before the question.
        found_all = await self._lists_all_named(partial=partial)
        answered = {link.worker for link, held in zip(links, found, strict=True) if held is not None}
        by_slice: dict[SliceId, list[Held]] = {}
        for held_by_worker in found:
            for slice_id, held in (held_by_worker or {}).items():
                by_slice.setdefault(slice_id, []).append(held)
        sums = [
            summaries.add(
                slice_id,
                [held.summary for held in parts],
                all_answered=answered.issuperset(parts[0].route),
            )
            for slice_id, parts in sorted(by_slice.items())
        ]
        all_answered = found_all and len(answered) == len(links)
        return [one for one in sums if not one.is_empty], all_answered and self._membership.knows_all_slices

    async def _lists_all_named(self, *, partial: bool) -> bool:
        """Whether this node's file lists every worker that a settled route names; otherwise slices may be missing."""
        try:
            named = await self._membership.workers_named(fresh=False)
            strangers = sorted(named - self._workers.links.keys())
            if not strangers:
                return True
            reason = f"worker {strangers[0]} holds slices, but this node's cluster file does not list it"
        except (PeerError, WireError) as error:
            reason = f"it is not known which workers hold slices: {error}"
        if partial:
            return False
        raise NoAnswer(reason)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Note how long the workers are waited for, whatever they answer."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            yield
        finally:
            self._metrics.fanout_seconds.observe(loop.time() - started)

    def _cached(self, route: Route, slice_id: SliceId) -> list[Held] | None:
        """What each worker of the route knows, if all of it is fresh: the way of nearly every question."""
        links = self._workers.links
        found: list[Held] = []
        for worker in route:
            link = links.get(worker)
            held = None if link is None else link.cache.get(slice_id)
            if held is None:
                return None
            found.append(held)
        self._from_cache.inc(len(found))
        return found

    async def _parts(
        self, route: Route, slice_id: SliceId, *, partial: bool, asker: Mapping[str, str] | None
    ) -> list[WorkerSummary]:
        links = [self._link(worker, partial=partial) for worker in route]
        # Cached summaries need neither a task nor a turn of the loop.
        found: list[Summary | None] = []
        missing: list[int] = []
        wanted: list[WorkerLink] = []
        for position, link in enumerate(links):
            held = None if link is None else link.cache.get(slice_id)
            found.append(None if held is None else held.summary)
            if held is None and link is not None:
                missing.append(position)
                wanted.append(link)
        self._from_cache.inc(sum(summary is not None for summary in found))
        if missing:
            name = brought_id(asker) or draw_id()
            asked = (
                self._try(self._one(link, slice_id, self._patience(link, partial=partial), name), partial)
                for link in wanted
            )
            with self._waiting():
                answers = await asyncio.gather(*asked)
            for position, summary in zip(missing, answers, strict=True):
                found[position] = summary
        return [
            WorkerSummary(worker=worker, url=None if link is None else link.peer.url, summary=summary)
            for worker, link, summary in zip(route, links, found, strict=True)
        ]

    def _link(self, worker: WorkerId, *, partial: bool) -> WorkerLink | None:
        """The link to a worker; None if this node's file does not list it, and a part of the answer will do."""
        try:
            return self._workers.link(worker)
        except NotTaken as error:
            if partial:
                return None
            raise NoAnswer(error.detail) from error

    def _patience(self, link: WorkerLink, *, partial: bool) -> float:
        """How long to wait for a worker: who asks for what is there need not wait for one that is known to be away."""
        return PARTIAL_SECONDS if partial and link.delivery.is_away else self._deadline_seconds

    async def _try(self, asked: Awaitable[T], partial: bool) -> T | None:  # noqa: FBT001 - said by name one call up
        try:
            return await asked
        except NoAnswer:
            if partial:
                return None
            raise

    async def _one(self, link: WorkerLink, slice_id: SliceId, seconds: float, name: str) -> Summary:
        async def ask() -> Held:
            watcher = link.cache.watch(slice_id)
            try:
                answer = await link.ask((slice_id,), request_id=name)
                return link.cache.answered(watcher, slice_id, answer.get(slice_id))
            finally:
                link.cache.drop(watcher)

        return (await self._persist(link, (link.worker, slice_id), ask, seconds, name)).summary

    async def _all_of(self, link: WorkerLink, until: SliceId, seconds: float, name: str) -> dict[SliceId, Held]:
        if (known := link.cache.get_all(until)) is not None:
            self._metrics.summaries.labels("cache").inc()
            return known

        async def ask() -> dict[SliceId, Held]:
            watcher = link.cache.watch(None)
            try:
                return link.cache.answered_all(watcher, until, await link.ask_all(until, request_id=name))
            finally:
                link.cache.drop(watcher)

        return await self._persist(link, (link.worker, "all", until), ask, seconds, name)

    async def _persist(
        self, link: WorkerLink, key: Hashable, ask: Callable[[], Awaitable[T]], seconds: float, name: str
    ) -> T:
        """The answer, asking again and again for so many seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = RETRY_FIRST_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._shared(key, ask)
            except TimeoutError:
                reason = link.trouble or "no answer in time"
            except (PeerError, WireError) as error:
                reason = str(error)
                if isinstance(error, PeerError) and error.answered and error.request_id != name:
                    reason += f" (asked as {error.request_id})"  # by another who asked the same before
                if isinstance(error, PeerAway) and loop.time() + pause < deadline:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, RETRY_MOST_SECONDS)
                    continue
            no_answer = NoAnswer(f"worker {link.worker} does not answer: {reason}")
            no_answer.request_id = name
            raise no_answer

    async def _shared(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        """Join the question under way, or begin it."""
        under_way = self._under_way.get(key)
        if under_way is None:
            if len(self._under_way) >= QUESTIONS_MAX:
                raise PeerAway(f"{QUESTIONS_MAX} questions are under way already")
            self._metrics.summaries.labels("asked").inc()
            under_way = asyncio.get_running_loop().create_future()
            self._under_way[key] = under_way
            self._tasks.start("question", self._run(key, under_way, ask))
        else:
            self._metrics.summaries.labels("shared").inc()
        # Shielded: one who gives up must not take the answer from the others.
        return cast("T", await asyncio.shield(under_way))  # a key always has answers of one type

    async def _run(
        self, key: Hashable, under_way: asyncio.Future[object], ask: Callable[[], Awaitable[object]]
    ) -> None:
        try:
            answer = await ask()
        except (PeerError, WireError) as error:
            under_way.set_exception(error)
            under_way.exception()  # looked at: all who waited may have given up
        except asyncio.CancelledError:
            under_way.cancel()
            raise
        except Exception as error:
            # A defect of ours: those who wait get it too, instead of being cancelled without a word.
            under_way.set_exception(error)
            under_way.exception()
            raise
        else:
            under_way.set_result(answer)
        finally:
            self._under_way.pop(key, None)
