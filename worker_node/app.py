"""The composition root of a worker: the only place that builds parts.

::

    DataDirectory   owned by this process
      Writer        its thread: Shelf (slice files) and Totals
        Membership  pins, cluster id
        Registry    its thread; at the worker that hosts it
        Closing     a task that looks for slices that are due
        Verification    a task that verifies slice files which may be damaged
        ClusterWatch
          Handlers  the HTTP routes
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web

from common.certificates import Certificates
from common.cluster_watch import ClusterWatch
from common.config import ClusterConfig, is_loopback, load_config, load_token
from common.edge import Edge
from common.errors import ConfigRefused, InputOutputFailed
from common.judge import Verdict, judge
from common.logs import Form, Log, new_log
from common.routing import WorkerId
from common.slices import Micros
from common.tasks import Tasks
from common.tracing import open_tracing
from common.web import Health, add_probes, serve
from common.wire import WORKER_BODY_BYTES_MAX
from worker_node.closing import Closing
from worker_node.failure_mark import FailureMark
from worker_node.handlers import Handlers
from worker_node.holdings import Holdings
from worker_node.identity import DataDirectory
from worker_node.membership import Membership
from worker_node.node_metrics import WorkerMetrics
from worker_node.registry import Registry, RegistryThread
from worker_node.shelf import SLICES_FOLDER, Shelf, open_files_bound
from worker_node.space import Space
from worker_node.totals import Totals
from worker_node.traced import TracedHandlers
from worker_node.verification import Verification
from worker_node.write_list import WriteList
from worker_node.writer import Writer


def system_now() -> Micros:
    """The wall clock."""
    return Micros(time.time_ns() // 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a worker is: what the command line says.

    Attributes:
        worker: its id.
        cluster_file: the config.
        folder: the data directory.
        log_form: how lines of the log are written.
    """

    worker: WorkerId
    cluster_file: Path
    folder: Path
    log_form: Form = "logfmt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """How the stores are made: the seam at which tests swap in one that dies, or fails, at a chosen moment."""

    shelf: Callable[..., Shelf] = Shelf
    registry: Callable[..., Registry] = Registry
    space: Callable[..., Space] = Space
    write_list: Callable[..., WriteList] = WriteList


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A running worker, not listening yet."""

    app: web.Application
    health: Health
    url: str
    closing: Closing
    certificates: Certificates


class _Settings:
    """What the cluster file says now, and what is in the files that it names."""

    def __init__(self, config: ClusterConfig, certificates: Certificates) -> None:
        self.config = config
        self.certificates = certificates
        self.token = load_token(config)

    async def take(self, config: ClusterConfig) -> None:
        # Read first: a file that cannot be read refuses the change as a whole.
        token = await asyncio.to_thread(load_token, config)
        use_certificates = await self.certificates.prepare(config)
        use_certificates()
        self.config, self.token = config, token


@asynccontextmanager
async def open_worker(  # noqa: PLR0915 - a list of parts
    place: Place,
    *,
    log: Log,
    fail: Callable[[BaseException], None],
    now: Callable[[], Micros] = system_now,
    parts: Parts = Parts(),
) -> AsyncIterator[Node]:
    """A worker with all its parts, from the lock on its data directory to the last commit.

    Args:
        place: which worker, and where.
        log: of the node.
        fail: called when the disk is not to be trusted any more, possibly on a thread; must end the process.
        now: the clock.
        parts: how the stores are made.

    Raises:
        ConfigRefused: the config is wrong, or contradicts what the cluster has pinned.
        DirectoryOwned: another process has the data directory.
        InputOutputFailed: the data directory cannot be used.
    """
    config = load_config(place.cluster_file)
    url = _url(config, place.worker)
    certificates = Certificates(node=f"worker-{place.worker}", url=url, config=config, log=log, calls_workers=False)
    settings = _Settings(config, certificates)
    tracing = open_tracing(config.tracing, node=f"worker-{place.worker}", log=log)
    async with AsyncExitStack() as stack:
        if tracing is not None:
            stack.push_async_callback(tracing.leave)
        directory = stack.enter_context(DataDirectory(folder=place.folder, worker=place.worker))
        mark = stack.enter_context(FailureMark(folder=place.folder))

        def fail_marked(error: BaseException) -> None:
            mark.set()
            fail(error)

        metrics = WorkerMetrics()
        totals, holdings = Totals(folder=place.folder), Holdings()
        space = parts.space(folder=place.folder, log=log)
        shelf = parts.shelf(folder=place.folder / SLICES_FOLDER, open_files_max=open_files_bound())
        writer = Writer(
            shelf=shelf,
            totals=totals,
            holdings=holdings,
            fail=fail_marked,
            space=space,
            write_list=parts.write_list(totals=totals, mark=mark),
            log=log,
            metrics=metrics,
        )
        await stack.enter_async_context(writer)
        membership = Membership(directory=directory, totals=totals, writer=writer)
        await membership.begin()
        settled = RegistryThread(registry=parts.registry(folder=place.folder), fail=fail_marked)
        registry = await stack.enter_async_context(settled)

        async def ask_judge(running: ClusterConfig | None, proposed: ClusterConfig) -> Verdict:
            named = await _named(place.worker, proposed, membership, registry, holdings)
            verdict = judge(running, proposed, pins=membership.pins, named=named)
            if running is None or proposed.worker_nodes.get(place.worker) == url:
                return verdict
            moved = f"worker-nodes: worker {place.worker} listens at {url} and cannot follow before it is restarted"
            return Verdict(refusals=(*verdict.refusals, moved), changes=verdict.changes)

        verdict = await ask_judge(None, config)
        if not verdict.accepted:
            raise ConfigRefused(list(verdict.refusals))
        tasks = await stack.enter_async_context(Tasks(log=log))
        closing = Closing(
            membership=membership, holdings=holdings, writer=writer, config=lambda: settings.config, now=now
        )
        tasks.start("closing", closing.run())
        tasks.start("verification", Verification(writer=writer, log=log).run())
        if certificates.listening is not None:
            tasks.start("certificates", certificates.keep_fresh(lambda: settings.config))
        watch = await stack.enter_async_context(
            ClusterWatch(
                path=place.cluster_file, running=config, judge=ask_judge, publish=settings.take, log=log, now=now
            )
        )
        metrics.follow_disk(holdings=holdings, writer=writer, shelf=shelf, space=space)
        metrics.follow_registry(registry, totals)
        metrics.follow_config(watch)
        metrics.follow_certificates(certificates)
        health = Health(reasons=[tasks.reason, space.problem])
        edge = Edge(metrics=metrics, log=log, tracing=tracing)
        app = web.Application(middlewares=[edge.middleware], client_max_size=WORKER_BODY_BYTES_MAX)
        make_handlers = Handlers if tracing is None else partial(TracedHandlers, tracing=tracing)
        make_handlers(
            worker=place.worker,
            membership=membership,
            writer=writer,
            holdings=holdings,
            totals=totals,
            registry=registry,
            closing=closing,
            space=space,
            watch=watch,
            metrics=metrics,
            config=lambda: settings.config,
            token=lambda: settings.token,
        ).add_to(app, edge)
        add_probes(app, health=health, metrics=metrics)
        if settings.token is None and not is_loopback(url):
            log.warning("listening_beyond_loopback_without_internal_token")
        yield Node(app=app, health=health, url=url, closing=closing, certificates=certificates)


async def run(place: Place, stop: asyncio.Event, *, parts: Parts = Parts()) -> None:
    """Run a worker until ``stop`` is set."""
    log = new_log(f"worker-{place.worker}", form=place.log_form)

    def fail(error: BaseException) -> None:
        log.error("data_directory_failed", error=error)
        # At once, and without any of Python's tidying up: no receipt may leave any more.
        os._exit(InputOutputFailed.exit_code)

    async with open_worker(place, log=log, fail=fail, parts=parts) as node:
        await serve(node.app, url=node.url, health=node.health, log=log, stop=stop, tls=node.certificates.listening)


def _url(config: ClusterConfig, worker: WorkerId) -> str:
    url = config.worker_nodes.get(worker)
    if url is None:
        known = ", ".join(f'"{name}"' for name in config.worker_nodes)
        raise ConfigRefused([f'worker-nodes: no worker "{worker}"; known: {known}'])
    return url


async def _named(
    worker: WorkerId, config: ClusterConfig, membership: Membership, registry: RegistryThread, holdings: Holdings
) -> frozenset[WorkerId]:
    """The workers that may not leave the file, as far as this worker knows: whoever asks the registry knows more."""
    named = frozenset((worker,) if len(holdings) else ())
    if not membership.hosts_registry(config):
        return named
    return named | await registry.ask(lambda settled: settled.named)
