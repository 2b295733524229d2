"""The composition root of an API node: the only file that builds its parts.

::

    AnalyticsRoutes -- Intake ---- SettledRoutes -- HostedRegistry --+
          |               |              |                           +-- Peer -- worker
          +---- Queries --+---- WorkerPool -- WorkerLink -- Sender --+
                                  Membership (pins, claims)      ClusterWatch (config)
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import msgspec
from aiohttp import web

from api_node.delivery import AWAY_SECONDS, RECEIPT_SECONDS
from api_node.exchange import Exchange
from api_node.intake import Intake
from api_node.membership import Membership
from api_node.node_metrics import ApiMetrics
from api_node.overview import Overview
from api_node.peer import ANSWER_BYTES_MAX, Peer
from api_node.places import Places
from api_node.queries import DEADLINE_SECONDS as QUESTION_DEADLINE_SECONDS
from api_node.queries import Queries
from api_node.reference.routes import ReferenceRoutes
from api_node.registry import HostedRegistry
from api_node.routes.analytics import EVENT_BYTES_MAX, AnalyticsRoutes
from api_node.routes.cluster import ClusterRoutes
from api_node.routes.events import EventsRoutes
from api_node.scopes import scope_of
from api_node.settled_routes import DEADLINE_SECONDS as ROUTE_DEADLINE_SECONDS
from api_node.settled_routes import SettledRoutes
from api_node.share import Share, serve_share
from api_node.siblings import Siblings
from api_node.spool_room import SpoolRoom
from api_node.traced import TracedIntake
from api_node.worker_client import WATCH_SECONDS
from api_node.worker_pool import WorkerPool
from common.access import Access, Rules
from common.anonymise import Anonymiser
from common.certificates import Certificates
from common.cluster_watch import ClusterWatch
from common.config import ClusterConfig, is_loopback, load_config, load_secret, load_token
from common.edge import Edge
from common.errors import ConfigRefused, ExitError, InputOutputFailed, NoAnswer, PeerError, WireError
from common.judge import Verdict, judge
from common.listener import FINISH_SECONDS
from common.lmdb_file import make_folder
from common.logs import new_log
from common.slices import SECOND, Micros
from common.tasks import Tasks
from common.token_watch import TokenWatch
from common.tokens import load_tokens
from common.tracing import open_tracing
from common.web import Health, add_probes, serve
from common.wire import Batch
from dashboard.feed import Feed
from dashboard.routes import DashboardRoutes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from common.logs import Log
    from common.routing import WorkerId
    from common.slices import SliceId
    from common.tokens import Tokens
    from common.tracing import Tracing
    from common.web import NodeArguments

HURRY_SECONDS = 2.0  # while stopping: then what no worker has answered for goes to the spool
GIVE_UP_SECONDS = FINISH_SECONDS - 1.0  # while stopping: leaves a second for the answers to get out


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long the node waits for others before it says so.

    Attributes:
        delivery_seconds: for the receipt of an event.
        question_seconds: for a worker's answer to a question.
        route_seconds: for the route of a slice.
        watch_seconds: between two looks at a worker that nobody asks anything.
        away_seconds: for any answer of a worker; after that its events go to the spool.
    """

    delivery_seconds: float = RECEIPT_SECONDS
    question_seconds: float = QUESTION_DEADLINE_SECONDS
    route_seconds: float = ROUTE_DEADLINE_SECONDS
    watch_seconds: float = WATCH_SECONDS
    away_seconds: float = AWAY_SECONDS


def system_now() -> Micros:
    """The wall clock."""
    return Micros(time.time_ns() // 1000)


class ApiNode:
    """One API node: parts, wired. Build it inside a running loop; ``app`` brings the parts to life and ends them."""

    def __init__(  # noqa: PLR0915 - a list of parts
        self,
        *,
        config: ClusterConfig,
        cluster_file: Path,
        data: Path,
        fail: Callable[[ExitError], None],
        log: Log,
        certificates: Certificates,
        tracing: Tracing | None = None,
        now: Callable[[], Micros] = system_now,
        deadlines: Deadlines = Deadlines(),
        make_room: Callable[..., SpoolRoom] = SpoolRoom,
        share: Share | None = None,
    ) -> None:
        self.health = Health()
        self._config = config
        self._token = load_token(config)
        self._data = data
        self._fail = fail
        self._now = now
        anonymiser = Anonymiser(secret=load_secret(config))
        self._secret_id = anonymiser.secret_id
        metrics = ApiMetrics()
        process = metrics.process = None if share is None else share.process
        self._siblings = None if share is None else Siblings(share=share, token=lambda: self._token)
        self._certificates = certificates
        self._tracing = tracing
        self._tasks = Tasks(log=log)
        # No limit of connections: each worker has one envelope per stream, and one question per slice, under way.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None),  # every call has a deadline of its own
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._exchange = Exchange(body_bytes_max=ANSWER_BYTES_MAX)
        self._registry_peer = Peer(
            session=self._session,
            url=config.worker_nodes[config.registry],
            token=lambda: self._token,
            name=f"the registry at worker {config.registry}",
            tls=certificates.calling,
            tracing=tracing,
        )
        self._registry = HostedRegistry(peer=self._registry_peer)
        self._membership = Membership(
            folder=data,
            config=self._running,
            secret_id=anonymiser.secret_id,
            registry=self._registry,
            identities=lambda: self._workers.identities(),  # noqa: PLW0108 - the pool is built below
            now=now,
            log=log,
        )
        self._routes = SettledRoutes(
            membership=self._membership,
            registry=self._registry,
            config=self._running,
            ask_workers=lambda slices: self._workers.routes_held(slices),  # noqa: PLW0108 - likewise
            tasks=self._tasks,
            log=log,
            deadline_seconds=deadlines.route_seconds,
        )
        self._room = make_room(folder=data, config=self._running, now=now, log=log)
        metrics.follow_spool(self._room, self._running)
        metrics.follow_registry(self._routes)

        async def empty_batch(slice_id: SliceId, seq: int) -> Batch:
            route = await self._routes.find(slice_id)
            if route is None:
                # The spool's other batches of the slice would have told. Without a route no worker reads a batch.
                raise NoAnswer(f"the route of slice {slice_id} is not known")
            return Batch(
                slice=slice_id,
                seq=seq,
                route=route,
                key_id=anonymiser.slice_keys(slice_id).key_id,
                names=(),
                kinds=b"",
                users=b"",
                # Where this is applied, the events that it stands for were acknowledged and are lost.
                regressed=True,
            )

        self._workers = WorkerPool(
            session=self._session,
            exchange=self._exchange,
            membership=self._membership,
            learn_route=self._routes.learn,
            room=self._room,
            empty_batch=empty_batch,
            away_seconds=deadlines.away_seconds,
            receipt_seconds=deadlines.delivery_seconds,
            token=lambda: self._token,
            metrics=metrics,
            log=log,
            watch_seconds=deadlines.watch_seconds,
            tls=certificates.calling,
            tracing=tracing,
        )
        metrics.follow_workers(lambda: self._workers.links)
        places = Places(
            config=self._running,
            membership=self._membership,
            routes=self._routes,
            anonymiser=anonymiser,
            now=now,
            note_lag=metrics.event_lag_seconds.observe,
        )
        make_intake = Intake if tracing is None else partial(TracedIntake, tracing=tracing)
        self._intake = make_intake(config=self._running, places=places, workers=self._workers, metrics=metrics)
        queries = Queries(
            config=self._running,
            membership=self._membership,
            routes=self._routes,
            workers=self._workers,
            metrics=metrics,
            tasks=self._tasks,
            deadline_seconds=deadlines.question_seconds,
        )
        self._watch = ClusterWatch(
            path=cluster_file, running=config, judge=self._judge, publish=self._publish, log=log, now=now
        )
        metrics.follow_config(self._watch)
        metrics.follow_certificates(certificates)
        self.health.reasons += [self._membership.reason, self._tasks.reason, self._died, self._all_refuse]
        self._access, self._token_watch = self._make_access(metrics=metrics, log=log)
        edge = Edge(metrics=metrics, log=log, access=self._access, scope_of=scope_of, tracing=tracing)
        self.app = web.Application(middlewares=[edge.middleware], client_max_size=EVENT_BYTES_MAX)
        AnalyticsRoutes(
            config=self._running,
            membership=self._membership,
            intake=self._intake,
            queries=queries,
            spooled=self._room.events_by_slice,
            now=now,
        ).add_to(self.app, edge)
        EventsRoutes(intake=self._intake, edge=edge).add_to(self.app)
        ClusterRoutes(
            config=self._running,
            token=lambda: self._token,
            routes=self._routes,
            watch=self._watch,
            membership=self._membership,
            registry=self._registry,
            workers=self._workers,
            room=self._room,
            problems=self._problems,
            access=self._access,
            token_watch=self._token_watch,
            process=process,
            siblings=self._siblings,
        ).add_to(self.app)
        ReferenceRoutes().add_to(self.app)
        self.feed = self._make_feed(metrics=metrics, log=log)
        DashboardRoutes(feed=self.feed).add_to(self.app)
        gather = None if self._siblings is None else self._siblings.metrics
        add_probes(self.app, health=self.health, metrics=metrics, gather=gather)
        self.app.on_response_prepare.append(edge.allow_pages)
        self.app.cleanup_ctx.append(self._life)
        self.app.on_shutdown.append(self._finish)

    def _make_access(self, *, metrics: ApiMetrics, log: Log) -> tuple[Access, TokenWatch]:
        tokens = load_tokens(self._config)
        access = Access(denied=lambda reason: metrics.denied.labels(reason).inc(), now=lambda: self._now() / SECOND)

        def publish(path: Path | None, tokens: Tokens | None) -> None:
            if path == self._config.tokens_file:  # else it has just been replaced by another
                access.follow(Rules(config=self._config, tokens=tokens, internal=self._token))

        publish(self._config.tokens_file, tokens)
        watch = TokenWatch(
            path=self._config.tokens_file,
            tokens=tokens,
            publish=publish,
            every=lambda: self._config.reload_seconds,
            log=log,
            now=self._now,
        )
        metrics.tokens.set_function(lambda: access.tokens)
        metrics.tokens_refusals.set_function(lambda: watch.refusals)
        metrics.tokens_refused.set_function(lambda: watch.refusal is not None)
        metrics.callers.set_function(lambda: access.callers)
        return access, watch

    def _make_feed(self, *, metrics: ApiMetrics, log: Log) -> Feed:
        """What the dashboard is told."""
        overview = Overview(
            config=self._running,
            membership=self._membership,
            routes=self._routes,
            watch=self._watch,
            workers=self._workers,
            room=self._room,
            metrics=metrics,
            tasks=self._tasks,
            problems=self._problems,
            viewers=lambda: self.feed.viewers,
            now=self._now,
            siblings=self._siblings,
        )
        overview.add_to(self.app)
        feed = Feed(collect=overview.snapshot, tasks=self._tasks, log=log)
        metrics.live_viewers.set_function(lambda: feed.viewers)
        metrics.live_dropped.set_function(lambda: feed.dropped)
        return feed

    async def _life(self, _: web.Application) -> AsyncIterator[None]:
        """Bring the parts to life, in the order in which they need each other."""
        async with AsyncExitStack() as parts:
            if self._tracing is not None:
                parts.push_async_callback(self._tracing.leave)
            await parts.enter_async_context(self._session)
            await parts.enter_async_context(self._exchange)
            if self._siblings is not None:
                await parts.enter_async_context(self._siblings)
            try:
                make_folder(self._data)
            except OSError as error:
                message = f"{self._data} cannot be made (errno {error.errno})"
                raise InputOutputFailed(message) from error
            await parts.enter_async_context(self._room)
            await parts.enter_async_context(self._workers)
            await parts.enter_async_context(self._tasks)
            await self._workers.follow(self._config, lambda: None)
            try:
                await self._membership.join()
            except (PeerError, WireError):
                # Not an end: a node may start before its workers. It is not ready until it has joined.
                self._tasks.start("join", self._membership.keep_joining(self._fail))
            self._tasks.start("adopt-spools", self.adopt_spools())
            self._tasks.start("keep-claims", self._membership.keep_claims())
            self._tasks.start("claim-ahead", self._routes.claim_ahead(self._now))
            self._tasks.start("watch-registry", self._routes.watch_registry())
            self._tasks.start("certificates", self._certificates.keep_fresh(self._running))
            await parts.enter_async_context(self._token_watch)
            await parts.enter_async_context(self._watch)
            yield

    async def _finish(self, _: web.Application) -> None:
        """Nobody listens any more: take no new events, and do not wait for a worker that is away beyond our own end."""
        self._intake.draining = True
        asyncio.get_running_loop().call_later(HURRY_SECONDS, self._workers.hurry)
        asyncio.get_running_loop().call_later(GIVE_UP_SECONDS, self._workers.give_up)

    async def adopt_spools(self) -> None:
        """Once it is known which cluster this is, drain what other processes of this node left."""
        await self._membership.joined.wait()
        try:
            await self._room.adopt(self._membership.cluster)
        except ExitError as error:
            self._fail(error)
            return
        # Batches were only made for settled routes, so these slices go on whoever else is away.
        for slice_id, route in (await self._room.routes()).items():
            self._routes.learn(slice_id, route or ())
        self._workers.drain_spools()

    def _running(self) -> ClusterConfig:
        return self._config

    async def _judge(self, running: ClusterConfig, proposed: ClusterConfig) -> Verdict:
        named: frozenset[WorkerId] | None = frozenset(self._membership.named)
        if running.worker_nodes.keys() - proposed.worker_nodes.keys():
            # Another node may have settled a route just now, so this needs the registry's own word.
            try:
                named = None if self._membership.pins is None else await self._membership.workers_named()
            except (PeerError, WireError):
                named = None
        verdict = judge(running, proposed, pins=self._membership.pins, named=named)
        if proposed.secret_file == running.secret_file:
            return verdict
        # A new file may hold the same secret, moved elsewhere. Another secret would give every user a second key.
        secret = await asyncio.to_thread(load_secret, proposed)
        if Anonymiser(secret=secret).secret_id == self._secret_id:
            return verdict
        other = f"secret-file: {proposed.secret_file} holds another secret than the one that the cluster has pinned"
        return Verdict(refusals=(*verdict.refusals, other), changes=verdict.changes)

    async def _publish(self, config: ClusterConfig) -> None:
        token = load_token(config)
        # Of the same file its own watch knows, and a bad one keeps nobody from changing this one.
        moved = config.tokens_file != self._config.tokens_file
        loaded = await asyncio.to_thread(load_tokens, config) if moved else None

        use_certificates = await self._certificates.prepare(config)

        def switch() -> None:
            self._config = config
            use_certificates()
            tokens = loaded if moved else self._token_watch.tokens
            self._access.follow(Rules(config=config, tokens=tokens, internal=token))
            self._token = token
            self._registry_peer.url = config.worker_nodes[config.registry]
            self._routes.follow(config)

        await self._workers.follow(config, switch)
        if moved:
            await self._token_watch.follow(config.tokens_file, loaded)

    def _died(self) -> str | None:
        return next((reason for link in self._workers.links.values() if (reason := link.reason())), None)

    def _all_refuse(self) -> str | None:
        refusals = [link.refusal for link in self._workers.links.values()]
        return f"every worker refuses this node: {refusals[0]}" if refusals and all(refusals) else None

    def _problems(self) -> list[str]:
        """What people should know, beyond whether the node is ready."""
        links = self._workers.links.values()
        found = [
            *self.health.problems(),
            *self._room.unreadable,
            self._certificates.problem(),
            self._membership.problem,
            self._routes.registry_problem,
        ]
        found += [link.refusal or link.trouble for link in links]
        return [text for text in dict.fromkeys(found) if text]


def load_node_config(arguments: NodeArguments) -> ClusterConfig:
    """The cluster file of the node that is to run.

    Raises:
        ConfigRefused: it cannot be used, or does not have this node.
    """
    config = load_config(arguments.cluster_file)
    if arguments.node not in config.api_nodes:
        known = ", ".join(f'"{node}"' for node in config.api_nodes)
        raise ConfigRefused([f'api-nodes: no API node "{arguments.node}"; known: {known}'])
    return config


async def run_node(
    arguments: NodeArguments, stop: asyncio.Event, *, make_room: Callable[..., SpoolRoom] = SpoolRoom
) -> None:
    """Run an API node until ``stop`` is set.

    Args:
        arguments: which node, and where.
        stop: ends it.
        make_room: how the spools are made: the seam at which tests swap in one that dies at a chosen moment.

    Raises:
        ExitError: it cannot start, or not go on.
    """
    config = load_node_config(arguments)
    share = None if arguments.share is None else msgspec.json.decode(arguments.share, type=Share)
    log = new_log(f"api-{arguments.node}", form=arguments.log_form)
    if share is not None:
        log = log.bind(process=share.process)
    if config.internal_token_file is None and not is_loopback(config.api_nodes[arguments.node]):
        log.warning("listening_beyond_loopback_without_internal_token")
    if config.tokens_file is None and not is_loopback(config.api_nodes[arguments.node]):
        log.warning("listening_beyond_loopback_without_tokens")
    url = config.api_nodes[arguments.node]
    certificates = Certificates(node=f"api-{arguments.node}", url=url, config=config, log=log, calls_workers=True)
    failures: list[ExitError] = []

    def fail(error: ExitError) -> None:
        failures.append(error)
        stop.set()

    node = ApiNode(
        config=config,
        cluster_file=arguments.cluster_file,
        data=arguments.data,
        fail=fail,
        log=log,
        certificates=certificates,
        tracing=open_tracing(config.tracing, node=f"api-{arguments.node}", log=log),
        make_room=make_room,
        share=share,
    )
    if share is None:
        await serve(node.app, url=url, health=node.health, log=log, stop=stop, tls=certificates.listening)
    else:
        await serve_share(
            node.app,
            share=share,
            health=node.health,
            log=log,
            stop=stop,
            adopt=node.adopt_spools,
            tls=certificates.listening,
        )
    if failures:
        raise failures[0]
