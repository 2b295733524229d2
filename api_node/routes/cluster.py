"""``/cluster``: what this node knows of its cluster, for people and for ``tallyslice plan``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from api_node.answers import (
    ClusterState,
    ClusterWorker,
    ParkedSlice,
    ProposedRoute,
    RefusedFile,
    ShownPins,
    SpoolState,
    TokensState,
)
from common.bodies import read_body
from common.errors import InputOutputFailed, NoAnswer, PeerError, WireError, WrongCluster, WrongMediaType
from common.judge import differing
from common.slices import format_instant
from common.web import json_response, require_token
from common.wire import MEDIA_TYPE, ROUTES_PAGE_MAX, KnownRoutes, RoutesQuestion, SettledRoute, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from api_node.membership import Membership
    from api_node.registry import Registry
    from api_node.settled_routes import SettledRoutes
    from api_node.siblings import Siblings
    from api_node.spool_room import SpoolRoom
    from api_node.worker_client import WorkerLink
    from api_node.worker_pool import WorkerPool
    from common.access import Access
    from common.cluster_watch import ClusterWatch, Refusal
    from common.config import ClusterConfig
    from common.routing import Route
    from common.slices import SliceId
    from common.token_watch import TokenWatch
    from common.wire import RegistryState


class ClusterRoutes:
    """The handler."""

    def __init__(
        self,
        *,
        config: Callable[[], ClusterConfig],
        token: Callable[[], str | None],
        routes: SettledRoutes,
        watch: ClusterWatch,
        membership: Membership,
        registry: Registry,
        workers: WorkerPool,
        room: SpoolRoom,
        problems: Callable[[], list[str]],
        access: Access,
        token_watch: TokenWatch,
        process: int | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        self._config = config
        self._token = token
        self._routes = routes
        self._watch = watch
        self._membership = membership
        self._registry = registry
        self._workers = workers
        self._room = room
        self._problems = problems
        self._access = access
        self._token_watch = token_watch
        self._process = process
        self._siblings = siblings

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/cluster", self.show)
        app.router.add_get("/cluster/", self.show)
        app.router.add_post("/cluster/routes", self.routes)

    async def show(self, _: web.Request) -> web.Response:
        """Everything, freshly asked of the registry where it answers."""
        config = self._config()
        state = await self._state()
        settled = state.recent if state is not None else ()
        pins = self._membership.pins
        refusal = self._watch.refusal
        return json_response(
            ClusterState(
                process=self._process,
                version=config.version,
                pins=None
                if pins is None
                else ShownPins(**msgspec.structs.asdict(pins), first_slice=format_instant(pins.first)),
                claims=self._membership.claims,
                proposed=tuple(ProposedRoute(slice=entry.slice, nodes=entry.nodes) for entry in config.routing),
                settled=settled,
                differing=tuple(differing(config, settled)),
                named=tuple(sorted(self._membership.named)),
                workers=tuple(self._worker(link) for link in self._workers.links.values()),
                spool=SpoolState(
                    events=self._room.events,
                    bytes=self._room.size_bytes,
                    age_seconds=self._room.age_seconds,
                    refusal=self._room.refusal(),
                ),
                tokens=self._tokens(),
                refusal=_refusal(refusal),
                problems=tuple(self._problems()),
            )
        )

    async def routes(self, request: web.Request) -> web.Response:
        """Tell all routes that this node knows, from its cache and its spools: for ``tallyslice registry``."""
        if not self._access.asks_for_tokens:  # else it has shown one that is for this
            require_token(request, self._token())
        if request.content_type != MEDIA_TYPE:
            message = f"send {MEDIA_TYPE}"
            raise WrongMediaType(message)
        question = decode(await read_body(request), RoutesQuestion)
        if question.cluster is not None:
            await self._hear(question.cluster, question.claims)
        pins, claims = self._membership.known()
        if pins is not None and self._membership.pins is None:
            # It is only adopted by those who have joined, which takes a registry.
            await self._room.adopt(pins.cluster)
        answer = _page(await self._known_routes(), question.after)
        answer = msgspec.structs.replace(answer, cluster=pins and pins.cluster, claims=claims, pins=pins)
        if self._siblings is not None:
            answer = await self._siblings.routes(request, question, answer)
        return web.Response(body=encode(answer), content_type=MEDIA_TYPE)

    async def _hear(self, cluster: str, claims: int) -> None:
        """Ask the registry what is new there: anybody may call this, so the number itself is not taken on trust."""
        if self._membership.pins is None or self._membership.pins.cluster != cluster:
            message = "this node has not joined that cluster"
            raise WrongCluster(message)
        try:
            await self._membership.hear_registry()
        except (PeerError, WireError, InputOutputFailed) as error:
            message = f"this node cannot hear what the registry says: {error}"
            raise NoAnswer(message) from error
        if self._membership.claims < claims:
            message = f"the registry tells this node of {self._membership.claims} claims, not of {claims}"
            raise NoAnswer(message)

    def _tokens(self) -> TokensState | None:
        tokens = self._token_watch.tokens
        if tokens is None:
            return None
        return TokensState(
            count=len(tokens.by_digest), version=tokens.version, refusal=_refusal(self._token_watch.refusal)
        )

    async def _known_routes(self) -> dict[SliceId, Route | None]:
        spooled = await self._room.routes()
        return spooled | self._routes.all_known() | {at: route for at, route in spooled.items() if route}

    async def _state(self) -> RegistryState | None:
        try:
            state = await self._registry.state()
        except (PeerError, WireError):
            return None
        pins = self._membership.pins
        if state.pins is None or pins is None or state.pins.cluster != pins.cluster:
            return None
        self._membership.named.update(state.named)
        return state

    def _worker(self, link: WorkerLink) -> ClusterWorker:
        events, size = link.delivery.queued()
        return ClusterWorker(
            id=link.worker,
            url=link.peer.url,
            state=link.state(),
            detail=link.refusal or link.trouble,
            queue_events=events,
            queue_bytes=size,
            parked={
                str(at): ParkedSlice(outcome=parked.outcome.value, detail=parked.detail)
                for at, parked in link.delivery.parked().items()
            },
        )


def _refusal(refusal: Refusal | None) -> RefusedFile | None:
    return None if refusal is None else RefusedFile(reasons=refusal.reasons, at=format_instant(refusal.at))


def _page(known: Mapping[SliceId, Route | None], after: SliceId | None) -> KnownRoutes:
    slices = sorted(at for at in known if after is None or at > after)
    page = slices[:ROUTES_PAGE_MAX]
    return KnownRoutes(
        cluster=None,
        claims=0,
        pins=None,
        routes=tuple(SettledRoute(slice=at, route=route, number=0) for at in page if (route := known[at])),
        more=len(slices) > len(page),
        unreadable=tuple(at for at in page if not known[at]),
    )
