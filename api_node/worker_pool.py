"""The links to all workers of the cluster file; the pool follows the file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from api_node.delivery import AWAY_SECONDS, RECEIPT_SECONDS, EmptyBatch
from api_node.peer import Peer
from api_node.summary_cache import SummaryCache
from api_node.worker_client import IDENTITY_SECONDS, WATCH_SECONDS, WorkerLink
from common.config import ClusterConfig
from common.errors import NotTaken, PeerAway, PeerError, WireError
from common.wire import Held, Identity

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    import aiohttp

    from api_node.exchange import Exchange
    from api_node.membership import Membership
    from api_node.node_metrics import ApiMetrics
    from api_node.spool_room import SpoolRoom
    from common.logs import Log
    from common.routing import Route, WorkerId
    from common.slices import SliceId
    from common.tracing import Tracing


class WorkerPool:
    """The links to all workers of the config; it follows the config. An async context manager."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        exchange: Exchange,
        membership: Membership,
        learn_route: Callable[[SliceId, Route], None],
        token: Callable[[], str | None],
        room: SpoolRoom,
        empty_batch: EmptyBatch,
        metrics: ApiMetrics,
        log: Log,
        watch_seconds: float = WATCH_SECONDS,
        away_seconds: float = AWAY_SECONDS,
        receipt_seconds: float = RECEIPT_SECONDS,
        tls: Callable[[], ssl.SSLContext | None] = lambda: None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._session = session
        self._exchange = exchange
        self._tls = tls
        self._membership = membership
        self._learn_route = learn_route
        self._token = token
        self._room = room
        self._empty_batch = empty_batch
        self._away_seconds = away_seconds
        self._receipt_seconds = receipt_seconds
        self._metrics = metrics
        self._log = log
        self._watch_seconds = watch_seconds
        self._links: dict[WorkerId, WorkerLink] = {}

    async def __aenter__(self) -> Self:
        """Begin without links; ``follow`` makes them."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close every link."""
        for link in self._links.values():
            await link.__aexit__(kind, error, at)

    @property
    def links(self) -> Mapping[WorkerId, WorkerLink]:
        """The links, in the order of the config."""
        return self._links

    def link(self, worker: WorkerId) -> WorkerLink:
        """The link to a worker.

        Raises:
            NotTaken: this node's file does not list it.
        """
        found = self._links.get(worker)
        if found is None:
            message = f"worker {worker} holds the slice, but this node's cluster file does not list it"
            raise NotTaken(message)
        return found

    async def follow(self, config: ClusterConfig, switch: Callable[[], None]) -> None:
        """Links as the config lists them. A worker that moved keeps its streams; one that is gone held nothing.

        Args:
            config: the new config.
            switch: makes the node route by it; called when every worker that it proposes has a link, and before any
                link that the old one proposed is closed.
        """
        links: dict[WorkerId, WorkerLink] = {}
        for worker, url in config.worker_nodes.items():
            link = self._links.get(worker)
            if link is None:
                link = WorkerLink(
                    worker=worker,
                    peer=Peer(
                        session=self._session,
                        exchange=self._exchange,
                        url=url,
                        token=self._token,
                        name=f"worker {worker}",
                        tls=self._tls,
                        tracing=self._tracing,
                    ),
                    membership=self._membership,
                    cache=SummaryCache(ttl_seconds=config.cache_ttl_seconds, timer=asyncio.get_running_loop().time),
                    learn_route=self._learn_route,
                    room=self._room,
                    empty_batch=self._empty_batch,
                    away_seconds=self._away_seconds,
                    receipt_seconds=self._receipt_seconds,
                    tracing=self._tracing,
                    metrics=self._metrics,
                    log=self._log,
                    watch_seconds=self._watch_seconds,
                )
                await link.__aenter__()
            elif link.peer.url != url:
                link.peer.url = url
                link.moved()
            link.cache.follow(config.cache_ttl_seconds)
            links[worker] = link
        gone = [link for worker, link in self._links.items() if worker not in links]
        self._links = links
        switch()
        for link in gone:
            await link.__aexit__(None, None, None)

    async def identities(self) -> dict[WorkerId, Identity | PeerError]:
        """Who answers at each worker's URL, or why nobody does."""

        async def one(link: WorkerLink) -> Identity | PeerError:
            try:
                return await link.identity()
            except PeerError as error:
                return error
            except WireError as error:
                return PeerAway(str(error))

        links = list(self._links.values())
        return dict(zip((link.worker for link in links), await asyncio.gather(*map(one, links)), strict=True))

    async def routes_held(self, slices: Sequence[SliceId]) -> dict[SliceId, Route]:
        """The routes of those slices that some worker holds data of; whoever does not answer is passed over."""

        async def one(link: WorkerLink) -> dict[SliceId, Held]:
            try:
                return await link.ask(slices, seconds=IDENTITY_SECONDS)
            except (PeerError, WireError):
                return {}

        answers = await asyncio.gather(*map(one, list(self._links.values())))
        return {at: held.route for answer in answers for at, held in answer.items() if held.route}

    def drain_spools(self) -> None:
        """Begin to drain what earlier processes left."""
        for link in self._links.values():
            link.delivery.drain_spools()

    def hurry(self) -> None:
        """The node is about to stop: what no worker has answered for goes to the spool, so that it is kept."""
        for link in self._links.values():
            if not link.delivery.is_idle:
                link.delivery.go_away()

    def give_up(self) -> None:
        """Tell everybody who waits that the outcome is not known."""
        for link in self._links.values():
            link.delivery.give_up()
